//! `me` in the reactions of messages: the only part of a page that differs between its readers.
//!
//! Bytes that several readers share (cached pages) have `"me":false` and the positions of their reactions. For a
//! reader, the reactions that they gave are rewritten. For most reactions, the 10 users that a message lists are enough
//! to know; if more users have reacted than are listed, the store is read, once for all messages of a page. A page
//! without reactions is sent as it is. Events have no `me`, since all sockets get the same bytes.

use std::{borrow::Cow, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::batch_reads::BatchedRead;
use crate::{
    error::{Error, Result},
    model::{Message, MessageId, Reaction, Seq, UserId, text::emoji},
    protocol::raw,
};

/// The emojis, as keys, that a user gave to a message.
pub type Reacted = BatchedRead<(MessageId, UserId), Vec<String>>;

/// The array of reactions within the JSON of a message.
struct ReactionArray {
    message: MessageId,
    /// The bytes of the array.
    at: Range<usize>,
    reactions: Vec<Reaction>,
}

impl ReactionArray {
    /// Finds the reactions in the JSON of a message. `None` if it has none.
    fn find(json: &str) -> Option<ReactionArray> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            id: MessageId,
            #[serde(borrow)]
            reactions: &'a RawValue,
        }
        let fields: Fields = serde_json::from_str(json).ok()?;
        let text = fields.reactions.get();
        let reactions: Vec<Reaction> = serde_json::from_str(text).ok()?;
        // The array is a part of `json`.
        let start = text.as_ptr() as usize - json.as_ptr() as usize;
        (!reactions.is_empty()).then(|| ReactionArray {
            message: fields.id,
            at: start..start + text.len(),
            reactions,
        })
    }

    /// Whether the listed users are enough to know which of the reactions the user gave.
    fn is_known(&self, user: UserId) -> bool {
        let is_known = |reaction: &Reaction| {
            reaction.count as usize <= reaction.users.len() || reaction.users.contains(&user)
        };
        self.reactions.iter().all(is_known)
    }

    /// The reactions for a user who is listed or gave the emojis of `given`.
    fn marked(&self, user: UserId, given: &[String]) -> Vec<Reaction> {
        let mut reactions = self.reactions.clone();
        for reaction in &mut reactions {
            let key = emoji::key(&reaction.emoji);
            let me = reaction.users.contains(&user) || given.iter().any(|known| *known == key);
            reaction.me = Some(me);
        }
        reactions
    }

    /// The JSON of the reactions for a user; `None` if they gave none of them.
    fn rewritten(&self, user: UserId, given: &[String]) -> Option<Edit> {
        let reactions = self.marked(user, given);
        let is_mine = reactions.iter().any(|reaction| reaction.me == Some(true));
        is_mine.then(|| (self.at.clone(), raw(&reactions)))
    }
}

/// A range of bytes and what replaces them.
type Edit = (Range<usize>, Box<RawValue>);

/// Replaces ranges, which are in ascending order.
fn splice(json: &str, edits: &[Edit]) -> String {
    let mut spliced = String::with_capacity(json.len() + 16 * edits.len());
    let mut copied = 0;
    for (at, text) in edits {
        spliced.push_str(&json[copied..at.start]);
        spliced.push_str(text.get());
        copied = at.end;
    }
    spliced.push_str(&json[copied..]);
    spliced
}

/// The ranges to rewrite for a reader.
async fn edits<'a>(
    reacted: &Reacted,
    user: UserId,
    arrays: impl Iterator<Item = &'a ReactionArray>,
) -> Result<Vec<Option<Edit>>> {
    let given = arrays.map(async |array| {
        let given = if array.is_known(user) {
            Vec::new()
        } else {
            reacted.get((array.message, user)).await?
        };
        Ok::<_, Error>(array.rewritten(user, &given))
    });
    try_join_all(given).await
}

/// The JSON of a message for several readers.
#[derive(Clone)]
pub struct SharedMessage {
    json: Arc<RawValue>,
    array: Option<Arc<ReactionArray>>,
}

impl SharedMessage {
    pub fn new(mut message: Message) -> Self {
        let has_reactions = !message.reactions.is_empty();
        for reaction in &mut message.reactions {
            reaction.me = Some(false);
        }
        let json = raw(&message);
        let array = has_reactions
            .then(|| ReactionArray::find(json.get()))
            .flatten();
        SharedMessage {
            json: json.into(),
            array: array.map(Arc::new),
        }
    }

    #[cfg(test)]
    pub fn json(&self) -> &str {
        self.json.get()
    }

    /// The size in bytes, for every reader: no `me` is longer than `false`.
    pub fn size(&self) -> usize {
        self.json.get().len()
    }
}

/// The JSON of a message without reactions.
#[cfg(test)]
impl From<Box<RawValue>> for SharedMessage {
    fn from(json: Box<RawValue>) -> Self {
        SharedMessage {
            json: json.into(),
            array: None,
        }
    }
}

/// The JSON of messages for one reader.
///
/// # Errors
/// Those of the read.
pub async fn for_reader(
    reacted: &Reacted,
    user: UserId,
    messages: &[SharedMessage],
) -> Result<Vec<Arc<RawValue>>> {
    let arrays = messages
        .iter()
        .filter_map(|message| message.array.as_deref());
    let mut edits = edits(reacted, user, arrays).await?.into_iter();
    let json = messages.iter().map(|message| {
        let edit = message.array.as_ref().and_then(|_| edits.next().flatten());
        let Some(edit) = edit else {
            return Ok(message.json.clone());
        };
        let spliced = splice(message.json.get(), &[edit]);
        let json = RawValue::from_string(spliced).map_err(Error::internal)?;
        Ok(json.into())
    });
    json.collect()
}

/// The answer to a command or to a read of one message; it may be something else than a message. If the store does not
/// answer, the reactions have no `me`, so that a completed write does not fail.
pub async fn answer(reacted: &Reacted, user: UserId, json: Box<RawValue>) -> Box<RawValue> {
    let Some(array) = ReactionArray::find(json.get()) else {
        return json;
    };
    let given = if array.is_known(user) {
        Vec::new()
    } else {
        match reacted.get((array.message, user)).await {
            Ok(given) => given,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "reactions in an answer have no `me`: the store could not be read");
                return json;
            }
        }
    };
    let reactions = raw(&array.marked(user, &given));
    let spliced = splice(json.get(), &[(array.at.clone(), reactions)]);
    RawValue::from_string(spliced).unwrap_or(json)
}

/// The JSON of a page for several readers.
#[derive(Clone)]
pub struct SharedPage {
    json: Bytes,
    /// In ascending order.
    arrays: Arc<[ReactionArray]>,
}

impl SharedPage {
    /// A page of messages.
    pub fn new(items: Vec<Message>, next_cursor: Option<Seq>, has_more: bool) -> Self {
        let mut json = String::from("{\"items\":[");
        let mut arrays = Vec::new();
        for (i, message) in items.into_iter().enumerate() {
            if i > 0 {
                json.push(',');
            }
            let SharedMessage { json: item, array } = SharedMessage::new(message);
            if let Some(mut array) = array.and_then(Arc::into_inner) {
                array.at = array.at.start + json.len()..array.at.end + json.len();
                arrays.push(array);
            }
            json.push_str(item.get());
        }
        let cursor = next_cursor.map_or(Cow::Borrowed("null"), |seq| seq.to_string().into());
        json.push_str(&format!(
            "],\"nextCursor\":{cursor},\"hasMore\":{has_more}}}"
        ));
        SharedPage {
            json: json.into(),
            arrays: arrays.into(),
        }
    }

    pub fn len(&self) -> usize {
        self.json.len()
    }

    /// The page for a reader, if that needs no read of the store.
    pub fn for_reader_now(&self, user: UserId) -> Option<Bytes> {
        let is_known = self.arrays.iter().all(|array| array.is_known(user));
        is_known.then(|| {
            let arrays = self.arrays.iter();
            self.edited(arrays.filter_map(|array| array.rewritten(user, &[])))
        })
    }

    /// The page for a reader.
    ///
    /// # Errors
    /// Those of the read.
    pub async fn for_reader(&self, reacted: &Reacted, user: UserId) -> Result<Bytes> {
        let edits = edits(reacted, user, self.arrays.iter()).await?;
        Ok(self.edited(edits.into_iter().flatten()))
    }

    fn edited(&self, edits: impl Iterator<Item = Edit>) -> Bytes {
        let edits: Vec<Edit> = edits.collect();
        match std::str::from_utf8(&self.json) {
            Ok(json) if !edits.is_empty() => splice(json, &edits).into(),
            _ => self.json.clone(),
        }
    }
}

/// A page without reactions.
impl From<Bytes> for SharedPage {
    fn from(json: Bytes) -> Self {
        SharedPage {
            json,
            arrays: Arc::new([]),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{REACTION_USERS, Timestamp, User, new_id};

    fn message(reactions: Vec<Reaction>) -> Message {
        Message {
            id: new_id(),
            room: new_id(),
            seq: 1,
            change_seq: 1,
            sender: User {
                id: new_id(),
                username: "ada".to_owned(),
                display_name: "\"reactions\":[{}]".to_owned(),
            },
            body: "\"reactions\":[{\"me\":false}]".to_owned(),
            client_msg_id: "c".to_owned(),
            reply_to: None,
            mentions: Vec::new(),
            reactions,
            metadata: None,
            created_at: Timestamp::from_millis(0),
            edited_at: None,
            deleted_at: None,
        }
    }

    fn reaction(emoji: &str, count: u32, users: &[UserId]) -> Reaction {
        Reaction {
            emoji: emoji.to_owned(),
            count,
            me: None,
            users: users.to_vec(),
        }
    }

    /// A store in which the user gave this emoji to every message; counts its reads.
    fn store(emoji: &'static str) -> (Reacted, Arc<parking_lot::Mutex<Vec<usize>>>) {
        let reads = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let counted = reads.clone();
        let reacted = Reacted::new(move |who: Vec<(MessageId, UserId)>| {
            counted.lock().push(who.len());
            async move { Ok(vec![vec![emoji.to_owned()]; who.len()]) }
        });
        (reacted, reads)
    }

    fn mine(page: &[u8]) -> Vec<Vec<Value>> {
        let page: Value = serde_json::from_slice(page).unwrap();
        let items = page["items"].as_array().unwrap().iter();
        items
            .map(|item| {
                let reactions = item["reactions"].as_array().unwrap().iter();
                reactions.map(|reaction| reaction["me"].clone()).collect()
            })
            .collect()
    }

    #[tokio::test]
    async fn a_page_without_reactions_is_shared() {
        let page = SharedPage::new(
            vec![message(Vec::new()), message(Vec::new())],
            Some(7),
            true,
        );
        let (reacted, reads) = store("👍");
        let shown = page.for_reader(&reacted, new_id()).await.unwrap();
        assert_eq!(shown.as_ptr(), page.json.as_ptr());
        assert_eq!(
            page.for_reader_now(new_id()).unwrap().as_ptr(),
            shown.as_ptr()
        );
        assert!(reads.lock().is_empty());
        let shown: Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!(
            (&shown["nextCursor"], &shown["hasMore"]),
            (&json!(7), &json!(true))
        );
        assert_eq!(shown["items"].as_array().unwrap().len(), 2);
        let empty = SharedPage::new(Vec::new(), None, false);
        assert_eq!(
            empty.json,
            r#"{"items":[],"nextCursor":null,"hasMore":false}"#
        );
    }

    #[tokio::test]
    async fn each_reader_sees_their_own_reactions() {
        let (ada, bob) = (new_id(), new_id());
        let few = message(vec![
            reaction("👍", 2, &[ada, bob]),
            reaction("🎉", 1, &[bob]),
        ]);
        let none = message(Vec::new());
        let page = SharedPage::new(vec![few.clone(), none, few], None, false);
        let (reacted, reads) = store("👍");
        for (user, expected) in [
            (ada, json!([[true, false], [], [true, false]])),
            (bob, json!([[true, true], [], [true, true]])),
            (new_id(), json!([[false, false], [], [false, false]])),
        ] {
            let shown = page.for_reader(&reacted, user).await.unwrap();
            assert_eq!(json!(mine(&shown)), expected);
            assert_eq!(page.for_reader_now(user).unwrap(), shown);
        }
        assert!(reads.lock().is_empty(), "the listed users are all");
    }

    #[tokio::test]
    async fn the_reactions_of_many_messages_are_one_read() {
        let first: Vec<UserId> = (0..REACTION_USERS).map(|_| new_id()).collect();
        let many = || {
            message(vec![
                reaction("❤\u{FE0F}", 27_250, &first),
                reaction("👍", 11, &first),
            ])
        };
        let page = SharedPage::new((0..50).map(|_| many()).collect(), None, false);
        let (reacted, reads) = store("❤");
        let stranger = new_id();
        assert!(page.for_reader_now(stranger).is_none());
        let shown = page.for_reader(&reacted, stranger).await.unwrap();
        assert_eq!(mine(&shown), vec![[json!(true), json!(false)]; 50]);
        assert!(reads.lock().len() <= 2, "{:?}", reads.lock());
        assert_eq!(reads.lock().iter().sum::<usize>(), 50);
        assert!(page.for_reader_now(first[3]).is_some(), "listed");
        let messages = [SharedMessage::new(many())];
        let shown = for_reader(&reacted, stranger, &messages).await.unwrap();
        let shown: Value = serde_json::from_str(shown[0].get()).unwrap();
        assert_eq!(shown["reactions"][0]["me"], true);
        assert_eq!(shown["body"], "\"reactions\":[{\"me\":false}]");
    }

    #[tokio::test]
    async fn an_answer_marks_the_callers_reactions() {
        let (ada, (reacted, _)) = (new_id(), store("🎉"));
        let changed = raw(&message(vec![
            reaction("👍", 1, &[ada]),
            reaction("🎉", 99, &[]),
        ]));
        let shown = answer(&reacted, ada, changed).await;
        let shown: Value = serde_json::from_str(shown.get()).unwrap();
        assert_eq!(shown["reactions"][0]["me"], true);
        assert_eq!(shown["reactions"][1]["me"], true);
        for other in [json!({"room": 1}), json!(message(Vec::new())), json!([1])] {
            let same = answer(&reacted, ada, raw(&other)).await;
            assert_eq!(same.get(), other.to_string());
        }
    }
}
