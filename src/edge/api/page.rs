//! Pages of a room's history. A page is always ascending by `seq`; [`Direction`] determines at which end it continues.

use poem_openapi::Object;
use serde::Serialize;

use super::{payload::Cursor, query};
use crate::{
    edge::reactions::SharedPage,
    error::{Code, Error, Result},
    model::{Message, RoomId, Seq},
    store::{Reads, Window},
};

/// The approximate limit of a page in bytes of JSON: enough for 200 messages of 8,000 bytes. A single message that is
/// larger makes a page of its own.
pub const MAX_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of an id in a JSON list.
const ID: usize = 39;

/// A page of messages, ascending by `seq`.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "MessagePage")]
pub struct MessagePage {
    pub items: Vec<Message>,
    /// Pass it as `cursor`, with the other parameters unchanged, to get the next page in the same direction; `null` if
    /// there is none.
    pub next_cursor: Cursor<Seq>,
    /// Whether there is a next page.
    pub has_more: bool,
}

impl MessagePage {
    /// The page as readers share it.
    pub fn shared(self) -> SharedPage {
        SharedPage::new(self.items, self.next_cursor.0, self.has_more)
    }
}

/// The paging direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The newest messages; continues downwards.
    Newest,
    /// Messages below a number; continues downwards.
    Before(Seq),
    /// Messages above a number; continues upwards.
    After(Seq),
    /// Messages on both sides of a number; continues upwards.
    Around(Seq),
}

impl Direction {
    /// # Errors
    /// `invalid` if more than one of the parameters is given.
    pub fn of(before: Option<Seq>, after: Option<Seq>, around: Option<Seq>) -> Result<Self> {
        match (before, after, around) {
            (None, None, None) => Ok(Direction::Newest),
            (Some(seq), None, None) => Ok(Direction::Before(seq)),
            (None, Some(seq), None) => Ok(Direction::After(seq)),
            (None, None, Some(seq)) => Ok(Direction::Around(seq)),
            _ => Err(Error::new(
                Code::Invalid,
                "give at most one of `before`, `after` and `around`",
            )),
        }
    }

    /// The direction continued at `cursor`, a page's `nextCursor`. The parameter of the first page determines the
    /// direction; the page around a number continues upwards.
    ///
    /// # Errors
    /// `malformed` if no page of this list can have returned the cursor.
    pub fn continued(self, cursor: Option<Seq>, head: Seq) -> Result<Self> {
        let Some(cursor) = cursor else {
            return Ok(self);
        };
        let (next, known) = match self {
            Direction::Newest => (Direction::Before(cursor), 1..=head),
            Direction::Before(seq) => (Direction::Before(cursor), 1..=head.min(seq)),
            Direction::After(seq) => (Direction::After(cursor), seq..=head),
            Direction::Around(_) => (Direction::After(cursor), 1..=head),
        };
        if known.contains(&cursor) {
            Ok(next)
        } else {
            Err(query::bad_cursor())
        }
    }

    /// # Errors
    /// `invalid` for a negative number, or for one above the room's head. `before` may be above the head.
    pub fn check(self, head: Seq) -> Result<()> {
        match self {
            Direction::Newest => Ok(()),
            Direction::Before(seq) => check_seq("before", seq, Seq::MAX),
            Direction::After(seq) => check_seq("after", seq, head),
            Direction::Around(seq) => check_seq("around", seq, head),
        }
    }

    /// The window to read; a downward window begins at `head` at the highest.
    fn window(self, head: Seq) -> Window {
        let above = head.saturating_add(1);
        match self {
            Direction::Newest => Window::Before(above),
            Direction::Before(seq) => Window::Before(seq.min(above)),
            Direction::After(seq) => Window::After(seq),
            Direction::Around(seq) => Window::Around(seq),
        }
    }
}

/// # Errors
/// `invalid` for a negative number or one above `head`.
pub fn check_seq(field: &str, seq: Seq, head: Seq) -> Result<()> {
    match seq {
        seq if seq < 0 => Err(Error::field(field, "must be 0 or more")),
        seq if seq > head => Err(Error::field(
            field,
            format!("is in the future: the room is at {head}"),
        )),
        _ => Ok(()),
    }
}

/// Reads a page of at most `limit` messages up to `head`, the room's head when the caller's membership was checked.
/// Messages above it may have been stored after the membership ended.
pub async fn read(
    reads: &dyn Reads,
    room: RoomId,
    head: Seq,
    direction: Direction,
    limit: u32,
) -> Result<MessagePage> {
    let messages = async |window, limit| -> Result<Vec<Message>> {
        let mut items = reads.messages(room, window, limit).await?;
        items.retain(|message| message.seq <= head);
        Ok(items)
    };
    if let Direction::Around(_) = direction {
        let items = messages(direction.window(head), limit).await?;
        let newest = match items.last() {
            Some(last) => !messages(Window::After(last.seq), 1).await?.is_empty(),
            None => false,
        };
        return Ok(around(items, direction, newest));
    }
    // Reads one more than requested to learn whether there is another page.
    let items = messages(direction.window(head), limit + 1).await?;
    Ok(cut(items, direction, limit as usize))
}

fn cut(mut items: Vec<Message>, direction: Direction, limit: usize) -> MessagePage {
    let fits = match direction {
        Direction::Newest | Direction::Before(_) => fitting(items.iter().rev()),
        Direction::After(_) | Direction::Around(_) => fitting(items.iter()),
    };
    let limit = limit.min(fits);
    let has_more = items.len() > limit;
    if has_more {
        match direction {
            // The page continues downwards, so the surplus messages are the oldest.
            Direction::Newest | Direction::Before(_) => drop(items.drain(..items.len() - limit)),
            Direction::After(_) | Direction::Around(_) => items.truncate(limit),
        }
    }
    finish(items, direction, has_more)
}

/// How many messages fit into [`MAX_BYTES`]; at least one.
fn fitting<'a>(items: impl Iterator<Item = &'a Message>) -> usize {
    let mut bytes = 0;
    let fits = items.take_while(|message| {
        let first = bytes == 0;
        bytes += wire_size(message);
        first || bytes <= MAX_BYTES
    });
    fits.count().max(1)
}

/// The approximate size of a message's JSON in bytes.
fn wire_size(message: &Message) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    let body: usize = message.body.bytes().map(escaped).sum();
    let metadata = message.metadata.as_ref().map_or(0, |m| m.as_json().len());
    let reactions = message.reactions.iter();
    let reactions = reactions.map(|r| 128 + r.users.len() * ID);
    1024 + body + metadata + message.mentions.len() * ID + reactions.sum::<usize>()
}

/// A page around a number. If it exceeds [`MAX_BYTES`], the messages farthest from the number are dropped.
fn around(mut items: Vec<Message>, direction: Direction, mut newer: bool) -> MessagePage {
    let mut bytes: usize = items.iter().map(wire_size).sum();
    let middle = items.len() / 2;
    let mut kept = 0..items.len();
    while bytes > MAX_BYTES && kept.len() > 1 {
        let end = if kept.end - 1 - middle >= middle - kept.start {
            kept.end -= 1;
            newer = true;
            kept.end
        } else {
            kept.start += 1;
            kept.start - 1
        };
        bytes -= wire_size(&items[end]);
    }
    items.truncate(kept.end);
    items.drain(..kept.start);
    finish(items, direction, newer)
}

fn finish(items: Vec<Message>, direction: Direction, has_more: bool) -> MessagePage {
    let end = match direction {
        Direction::Newest | Direction::Before(_) => items.first(),
        Direction::After(_) | Direction::Around(_) => items.last(),
    };
    MessagePage {
        next_cursor: Cursor(end.filter(|_| has_more).map(|message| message.seq)),
        items,
        has_more,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Timestamp, User, new_id};

    fn messages(seqs: std::ops::RangeInclusive<Seq>) -> Vec<Message> {
        let message = |seq| Message {
            id: new_id(),
            room: new_id(),
            seq,
            change_seq: seq,
            sender: User {
                id: new_id(),
                username: "u".into(),
                display_name: "u".into(),
            },
            body: "b".into(),
            client_msg_id: "c".into(),
            reply_to: None,
            mentions: Vec::new(),
            reactions: Vec::new(),
            metadata: None,
            created_at: Timestamp::now(),
            edited_at: None,
            deleted_at: None,
        };
        seqs.map(message).collect()
    }

    fn shape(page: &MessagePage) -> (Vec<Seq>, Option<Seq>, bool) {
        (
            page.items.iter().map(|m| m.seq).collect(),
            page.next_cursor.0,
            page.has_more,
        )
    }

    #[test]
    fn a_page_grows_in_the_requested_direction() {
        let back = cut(messages(6..=9), Direction::Newest, 3);
        assert_eq!(shape(&back), (vec![7, 8, 9], Some(7), true));
        let last = cut(messages(1..=2), Direction::Before(3), 3);
        assert_eq!(shape(&last), (vec![1, 2], None, false));
        let on = cut(messages(4..=7), Direction::After(3), 3);
        assert_eq!(shape(&on), (vec![4, 5, 6], Some(6), true));
        let exact = cut(messages(4..=6), Direction::After(3), 3);
        assert_eq!(shape(&exact), (vec![4, 5, 6], None, false));
        assert_eq!(
            shape(&cut(Vec::new(), Direction::Newest, 3)),
            (vec![], None, false)
        );
    }

    #[test]
    fn a_page_is_bounded_in_bytes_and_has_one_message_at_least() {
        // Each control character takes six bytes of JSON.
        let large = || {
            let mut all = messages(1..=9);
            for message in &mut all {
                message.body = "\u{1}".repeat(MAX_BYTES / 6 / 3);
            }
            all
        };
        let back = cut(large(), Direction::Newest, 9);
        assert_eq!(shape(&back), (vec![8, 9], Some(8), true));
        let on = cut(large(), Direction::After(0), 9);
        assert_eq!(shape(&on), (vec![1, 2], Some(2), true));
        let middle = around(large(), Direction::Around(5), false);
        assert_eq!(shape(&middle), (vec![4, 5], Some(5), true));
        let mut one = messages(1..=1);
        one[0].body = "x".repeat(2 * MAX_BYTES);
        let one = cut(one, Direction::After(0), 9);
        assert_eq!(shape(&one), (vec![1], None, false));
        let small = around(messages(1..=9), Direction::Around(5), false);
        assert_eq!(small.items.len(), 9);
    }

    #[test]
    fn a_cursor_continues_in_the_direction_of_the_first_page() {
        use Direction::{After, Around, Before, Newest};
        for (first, cursor, next) in [
            (Newest, 41, Some(Before(41))),
            (Before(50), 41, Some(Before(41))),
            (After(0), 41, Some(After(41))),
            (Around(30), 41, Some(After(41))),
            (Around(30), 29, Some(After(29))),
            // Not a position that a page ends at.
            (Newest, 0, None),
            (Newest, 101, None),
            (Before(40), 41, None),
            (Before(1000), 101, None),
            (After(42), 41, None),
            (After(0), 101, None),
            (Around(30), 101, None),
            (Newest, -1, None),
            (After(0), Seq::MIN, None),
        ] {
            let found = first.continued(Some(cursor), 100);
            assert_eq!(found.ok(), next, "{first:?} at {cursor}");
        }
        assert_eq!(After(7).continued(None, 3).ok(), Some(After(7)));
        let error = Newest.continued(Some(0), 9).unwrap_err();
        assert_eq!(error.code, Code::Malformed);
    }

    #[test]
    fn directions_exclude_each_other_and_the_future() {
        assert_eq!(
            Direction::of(Some(1), Some(2), None).unwrap_err().code,
            Code::Invalid
        );
        Direction::Before(1_000).check(5).unwrap();
        Direction::After(5).check(5).unwrap();
        assert!(Direction::After(6).check(5).is_err());
        assert!(Direction::Around(6).check(5).is_err());
        assert!(Direction::Before(-1).check(5).is_err());
    }
}
