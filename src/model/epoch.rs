//! The epoch of the store, and the rule by which a loss of history is recognised. No I/O.
//!
//! A database can lose its last transactions: a standby that was behind is promoted, or an older backup is restored.
//! Rooms then continue at lower numbers, and a number names another event than before. Each such loss begins a new
//! epoch; numbers are comparable only within one epoch.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{EventKind, FeedEvent, MessageId, RoomId, Seq};

/// Identifies the history that the numbers of all rooms belong to.
pub type Epoch = Uuid;

/// A message, and the number under which it was delivered. The store never gives the number to another event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    pub seq: Seq,
    pub message: MessageId,
}

impl Anchor {
    /// Of a new message; `None` for every other event, whose content may differ each time it is read.
    pub fn of(event: &FeedEvent) -> Option<Anchor> {
        if event.kind != EventKind::NewMessage {
            return None;
        }
        // `id` is the first field of a serialised message: its other fields need not be parsed.
        let id = event.data.strip_prefix("{\"id\":\"")?.get(..36)?;
        Some(Anchor {
            seq: event.seq,
            message: Uuid::try_parse(id).ok()?,
        })
    }
}

/// The position of a room that was delivered to sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    pub room: RoomId,
    pub seq: Seq,
    /// The newest message at or below `seq`, if one was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Anchor>,
}

/// The store's state of a room, read after a [`Delivered`] was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub room: RoomId,
    pub head: Seq,
    /// The number that was compared, and the event that has it.
    pub number: Seq,
    pub occupant: Occupant,
}

/// The event that has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupant {
    /// None, or one whose row was deleted.
    Nothing,
    Message(MessageId),
    Other,
}

/// A room that has lost history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostHistory {
    pub room: RoomId,
    /// The number that was delivered.
    pub delivered: Seq,
    /// The room's head now. It may be higher again: then another event has the delivered number.
    pub head: Seq,
}

impl Delivered {
    /// The number whose event [`Delivered::lost`] needs.
    pub fn number(&self) -> Seq {
        self.anchor.map_or(self.seq, |anchor| anchor.seq)
    }

    /// Whether the store has lost what was delivered. `found` was read later, and is `None` if the room does not exist.
    pub fn lost(&self, found: Option<&Position>) -> Option<LostHistory> {
        let head = found.map_or(0, |found| found.head);
        let replaced = match (self.anchor, found.map(|found| found.occupant)) {
            (Some(anchor), Some(Occupant::Message(message))) => message != anchor.message,
            (Some(_), Some(Occupant::Other)) => true,
            // A row that was deleted by hand is not a loss of history.
            _ => false,
        };
        (head < self.seq || replaced).then_some(LostHistory {
            room: self.room,
            delivered: self.seq,
            head,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Message, Timestamp, User, new_id};

    #[test]
    fn a_message_is_recognised_by_the_start_of_its_json() {
        let message = Message {
            id: new_id(),
            room: new_id(),
            seq: 7,
            change_seq: 7,
            sender: User {
                id: new_id(),
                username: "ada".into(),
                display_name: "Ada".into(),
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
        let event = |kind| FeedEvent {
            seq: 7,
            kind,
            data: crate::protocol::raw(&message).get().to_owned(),
        };
        let anchor = Anchor {
            seq: 7,
            message: message.id,
        };
        assert_eq!(Anchor::of(&event(EventKind::NewMessage)), Some(anchor));
        assert_eq!(Anchor::of(&event(EventKind::MessageUpdated)), None);
        for data in ["{}", "{\"id\":\"", "{\"id\":\"ä", "{\"id\":7}"] {
            let event = FeedEvent {
                seq: 7,
                kind: EventKind::NewMessage,
                data: data.to_owned(),
            };
            assert_eq!(Anchor::of(&event), None, "{data}");
        }
    }

    #[test]
    fn history_is_lost_where_the_head_is_lower_or_the_number_has_another_event() {
        let (room, message, other) = (new_id(), new_id(), new_id());
        let delivered = |anchor| Delivered {
            room,
            seq: 15,
            anchor,
        };
        let anchored = delivered(Some(Anchor { seq: 14, message }));
        assert_eq!((anchored.number(), delivered(None).number()), (14, 15));
        let at = |head, occupant| {
            Some(Position {
                room,
                head,
                number: 14,
                occupant,
            })
        };
        let lost = |delivered: Delivered, found: Option<Position>| {
            delivered.lost(found.as_ref()).map(|lost| lost.head)
        };
        for found in [
            at(15, Occupant::Message(message)),
            at(20, Occupant::Message(message)),
            at(20, Occupant::Nothing),
        ] {
            assert_eq!(lost(anchored, found), None, "{found:?}");
        }
        assert_eq!(lost(anchored, at(14, Occupant::Message(message))), Some(14));
        assert_eq!(lost(anchored, at(20, Occupant::Message(other))), Some(20));
        assert_eq!(lost(anchored, at(20, Occupant::Other)), Some(20));
        assert_eq!(lost(anchored, None), Some(0));
        // Without a message, only the head is compared.
        assert_eq!(
            lost(delivered(None), at(15, Occupant::Message(other))),
            None
        );
        assert_eq!(lost(delivered(None), at(10, Occupant::Nothing)), Some(10));
        let nothing = Delivered {
            seq: 0,
            ..delivered(None)
        };
        assert_eq!(lost(nothing, None), None);
    }
}
