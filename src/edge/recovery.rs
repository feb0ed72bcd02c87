//! Recovery of missed events: one page of a room's feed for a `joinRoom`. No I/O.

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::reactions::SharedMessage;
use crate::{
    error::{Error, Result},
    model::{self, RoomId, Seq},
    protocol::{Gap, MissedEvent},
    store::{Missed, MissedContent},
    telemetry::metrics,
};

/// Maximum event numbers that one `joinRoom` covers.
pub const RESUME_PAGE: Seq = 500;

#[derive(Default)]
pub struct Recovered {
    /// The page covers all events up to and including this number.
    pub position: Seq,
    pub more: bool,
    pub messages: Vec<SharedMessage>,
    /// The ids of `messages`.
    pub ids: HashSet<model::MessageId>,
    pub events: Vec<MissedEvent>,
    pub gaps: Vec<Gap>,
}

impl Recovered {
    /// A page of the `RESUME_PAGE` numbers above `after`, of which those up to `head` exist. Numbers that the store
    /// does not have are reported as gaps, so that a client does not request them again. A page has at most `budget`
    /// bytes of messages and events, or one of them, which has at most twice as many.
    pub fn page(
        room: RoomId,
        after: Seq,
        head: Seq,
        events: Vec<Missed>,
        budget: usize,
    ) -> Result<Recovered> {
        let upto = after + RESUME_PAGE;
        let mut recovered = Recovered {
            position: after,
            ..Recovered::default()
        };
        let mut bytes = 0;
        for Missed { seq, content } in events {
            // The page has this message already, with the same content.
            let content = match content {
                MissedContent::Message(message) if recovered.ids.contains(&message.id) => {
                    MissedContent::Repeated
                }
                content => content,
            };
            let content = Content::of(content)?;
            // Larger than the present settings allow; other settings were in effect when it was stored. It becomes a
            // gap.
            if content.size() > 2 * budget {
                continue;
            }
            bytes += content.size();
            if bytes > budget && recovered.position > after {
                recovered.more = true;
                return Ok(recovered);
            }
            recovered.miss(room, seq - 1);
            recovered.position = seq;
            recovered.add(content);
        }
        recovered.miss(room, head.min(upto));
        recovered.more = recovered.position == upto;
        Ok(recovered)
    }

    /// Adds the newest of `messages`, at most `budget` bytes or one of at most twice as many.
    pub fn newest(&mut self, messages: &[SharedMessage], budget: usize) {
        let mut bytes = 0;
        let possible = messages.iter().rev();
        let possible = possible.filter(|message| message.size() <= 2 * budget);
        let fits = possible.take_while(|message| {
            let is_first = bytes == 0;
            bytes += message.size();
            is_first || bytes <= budget
        });
        self.messages = fits.cloned().collect();
        self.messages.reverse();
    }

    /// Reports the numbers between the position and `upto` as a gap.
    fn miss(&mut self, room: RoomId, upto: Seq) {
        let from = self.position + 1;
        if from <= upto {
            metrics().gaps.inc();
            let to = upto;
            self.gaps.push(Gap { room, from, to });
            self.position = upto;
        }
    }

    fn add(&mut self, content: Content) {
        match content {
            Content::Message(id, message) => {
                self.ids.insert(id);
                self.messages.push(message);
            }
            Content::Event(event) => self.events.push(event),
            Content::Nothing => {}
        }
    }
}

/// The addition of an event to a page.
enum Content {
    Message(model::MessageId, SharedMessage),
    Event(MissedEvent),
    Nothing,
}

impl Content {
    fn of(content: MissedContent) -> Result<Content> {
        Ok(match content {
            MissedContent::Message(message) => {
                Content::Message(message.id, SharedMessage::new(*message))
            }
            MissedContent::Repeated => Content::Nothing,
            MissedContent::Event(kind, data) => Content::Event(MissedEvent {
                event: kind.as_str(),
                data: RawValue::from_string(data).map_err(Error::internal)?,
            }),
        })
    }

    fn size(&self) -> usize {
        match self {
            Content::Message(_, message) => message.size(),
            Content::Event(event) => event.data.get().len(),
            Content::Nothing => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EventKind, Message, Timestamp};

    fn page(after: Seq, head: Seq, seqs: &[Seq]) -> (Seq, bool, Vec<(Seq, Seq)>) {
        let event = |seq: &Seq| Missed {
            seq: *seq,
            content: MissedContent::Event(EventKind::MemberJoined, "{}".to_owned()),
        };
        let events = seqs.iter().map(event).collect();
        let recovered = Recovered::page(RoomId::nil(), after, head, events, 1000).unwrap();
        let gaps = recovered
            .gaps
            .iter()
            .map(|gap| (gap.from, gap.to))
            .collect();
        assert_eq!(recovered.events.len(), seqs.len());
        (recovered.position, recovered.more, gaps)
    }

    #[test]
    fn a_page_always_advances_and_reports_gaps() {
        assert_eq!(page(3, 5, &[4, 5]), (5, false, vec![]));
        assert_eq!(page(3, 4, &[4, 5]), (5, false, vec![]), "stored meanwhile");
        assert_eq!(page(5, 5, &[]), (5, false, vec![]));
        assert_eq!(
            page(3, 9, &[5, 8]),
            (9, false, vec![(4, 4), (6, 7), (9, 9)])
        );
        assert_eq!(page(3, 9, &[]), (9, false, vec![(4, 9)]));
        let end = 3 + RESUME_PAGE;
        assert_eq!(page(3, 9000, &[]), (end, true, vec![(4, end)]));
    }

    fn message(seq: Seq, body: usize) -> Message {
        Message {
            id: model::new_id(),
            room: RoomId::nil(),
            seq,
            change_seq: seq,
            sender: model::User {
                id: model::new_id(),
                username: "ada".to_owned(),
                display_name: "Ada".to_owned(),
            },
            body: "x".repeat(body),
            client_msg_id: "c".to_owned(),
            reply_to: None,
            mentions: Vec::new(),
            reactions: Vec::new(),
            metadata: None,
            created_at: Timestamp::from_millis(0),
            edited_at: None,
            deleted_at: None,
        }
    }

    fn recovered(contents: Vec<MissedContent>, budget: usize) -> Recovered {
        let head = contents.len() as Seq;
        let missed = (1..).zip(contents);
        let missed = missed.map(|(seq, content)| Missed { seq, content });
        Recovered::page(RoomId::nil(), 0, head, missed.collect(), budget).unwrap()
    }

    #[test]
    fn repeated_changes_of_a_message_count_once() {
        let one = message(1, 2_000);
        let shown = |_| MissedContent::Message(Box::new(one.clone()));
        let page = recovered((0..300).map(shown).collect(), 4_000);
        assert_eq!(
            (page.position, page.more, page.messages.len()),
            (300, false, 1)
        );
        let mut contents: Vec<_> = (0..300).map(|_| MissedContent::Repeated).collect();
        contents.push(shown(0));
        let page = recovered(contents, 4_000);
        assert_eq!(
            (page.position, page.more, page.messages.len()),
            (301, false, 1)
        );
    }

    #[test]
    fn a_page_is_bounded_in_bytes() {
        let budget = 10_000;
        let mut after = 0;
        let all: Vec<Message> = (1..=20).map(|seq| message(seq, 3_000)).collect();
        let mut pages = 0;
        while after < 20 {
            let missed = all.iter().filter(|message| message.seq > after);
            let missed = missed.map(|message| Missed {
                seq: message.seq,
                content: MissedContent::Message(Box::new(message.clone())),
            });
            let page = Recovered::page(RoomId::nil(), after, 20, missed.collect(), budget).unwrap();
            let bytes: usize = page.messages.iter().map(SharedMessage::size).sum();
            assert!(bytes <= budget && page.position > after);
            assert_eq!(page.more, page.position < 20);
            (after, pages) = (page.position, pages + 1);
        }
        assert_eq!(pages, 7, "three messages of 3.3 KB in each");
        // One that the settings no longer allow is a gap, one of up to twice the budget a page of its own.
        for (body, gaps, messages) in [(15_000, 0, 1), (20_000, 1, 0)] {
            let large = message(1, body);
            let page = recovered(
                vec![MissedContent::Message(Box::new(large.clone()))],
                budget,
            );
            assert_eq!((page.gaps.len(), page.messages.len()), (gaps, messages));
            assert_eq!((page.position, page.more), (1, false));
            let mut newest = Recovered::default();
            let small = SharedMessage::new(message(2, 10));
            newest.newest(&[SharedMessage::new(large)], budget);
            assert_eq!(newest.messages.len(), messages);
            newest.newest(&[SharedMessage::new(message(1, 9_900)), small], budget);
            assert_eq!(newest.messages.len(), 1, "the newest");
        }
    }
}
