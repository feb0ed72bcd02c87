//! The wire encoding of a room's channel and of the recent-events cache, shared by all implementations.

use crate::model::{EphemeralEvent, EphemeralKind, EventKind, FeedEvent, Message, Seq};

/// One line `seq SP kind SP json` per event. A raw line feed in the JSON, which an earlier version stored, is replaced
/// by a space: it can only stand between two tokens, where both mean the same (RFC 8259, section 2).
pub fn encode_events(events: &[FeedEvent]) -> Vec<u8> {
    let size = events.iter().map(|e| e.data.len() + 40).sum();
    let mut out = Vec::with_capacity(size);
    for event in events {
        if !out.is_empty() {
            out.push(b'\n');
        }
        out.extend_from_slice(event.seq.to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(event.kind.as_str().as_bytes());
        out.push(b' ');
        let start = out.len();
        out.extend_from_slice(event.data.as_bytes());
        for at in memchr::memchr_iter(b'\n', event.data.as_bytes()) {
            out[start + at] = b' ';
        }
    }
    out
}

/// `None` for bytes that [`encode_events`] does not produce, a newer version's for example: the reader treats the
/// events as missing and fetches them.
pub fn decode_events(payload: &[u8]) -> Option<Vec<FeedEvent>> {
    let text = std::str::from_utf8(payload).ok()?;
    text.split('\n')
        .map(|line| {
            let (seq, rest) = line.split_once(' ')?;
            let (kind, data) = rest.split_once(' ')?;
            let (seq, kind) = (seq.parse().ok()?, EventKind::parse(kind)?);
            if kind == EventKind::ReactionUpdated {
                return Some(reaction(seq, data));
            }
            Some(FeedEvent {
                seq,
                kind,
                data: data.to_owned(),
            })
        })
        .collect()
}

/// The event of a reaction. A worker of an earlier version publishes the whole message with all users, which becomes a
/// `messageUpdated` of bounded size: clients do not expect a message in a `reactionUpdated`.
fn reaction(seq: Seq, data: &str) -> FeedEvent {
    // Only a message has a body.
    let message = data.contains("\"body\":").then(|| {
        let message = serde_json::from_str::<Message>(data).ok()?;
        serde_json::to_string(&message).ok()
    });
    match message.flatten() {
        Some(data) => FeedEvent {
            seq,
            kind: EventKind::MessageUpdated,
            data,
        },
        None => FeedEvent {
            seq,
            kind: EventKind::ReactionUpdated,
            data: data.to_owned(),
        },
    }
}

/// The prefix of an ephemeral event, in place of a number.
const EPHEMERAL: &[u8] = b"~ ";

/// `~ SP kind SP json`: an event without a number, for a room's channel. [`decode_events`] rejects it, so an older
/// reader drops it.
pub fn encode_ephemeral(event: &EphemeralEvent) -> Vec<u8> {
    let mut out = EPHEMERAL.to_vec();
    out.extend_from_slice(event.kind.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(event.data.as_bytes());
    out
}

/// A decoded payload of a room's channel.
#[derive(Debug)]
pub enum RoomPayload {
    /// Numbered events, to be delivered in order and without a missing range.
    Feed(Vec<FeedEvent>),
    Ephemeral(EphemeralEvent),
    /// Not decodable; a newer version may have sent it.
    Unknown,
}

pub fn decode_room(payload: &[u8]) -> RoomPayload {
    let Some(rest) = payload.strip_prefix(EPHEMERAL) else {
        return decode_events(payload).map_or(RoomPayload::Unknown, RoomPayload::Feed);
    };
    let event = std::str::from_utf8(rest).ok().and_then(|text| {
        let (kind, data) = text.split_once(' ')?;
        Some(EphemeralEvent {
            kind: EphemeralKind::parse(kind)?,
            data: data.to_owned(),
        })
    });
    event.map_or(RoomPayload::Unknown, RoomPayload::Ephemeral)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_encoding_and_decoding() {
        let events: Vec<_> = (1..4)
            .map(|seq| FeedEvent {
                seq,
                kind: EventKind::NewMessage,
                data: format!("{{\"body\":\"a\\nb {seq} c\"}}"),
            })
            .collect();
        let back = decode_events(&encode_events(&events)).unwrap();
        assert_eq!(back.len(), 3);
        for (a, b) in events.iter().zip(&back) {
            assert_eq!((a.seq, a.kind, &a.data), (b.seq, b.kind, &b.data));
        }
        assert!(decode_events(b"1 somethingNew {}").is_none());
        assert!(decode_events(b"").is_none());
    }

    #[test]
    fn a_reaction_of_an_earlier_worker_becomes_a_changed_message() {
        let users: Vec<_> = (0..300).map(|_| crate::model::new_id()).collect();
        let old = serde_json::json!({
            "id": users[0], "room": users[1], "seq": 3, "changeSeq": 7, "body": "\"emoji\"",
            "sender": {"id": users[2], "username": "ada", "displayName": "Ada"}, "clientMsgId": "c",
            "mentions": [], "reactions": [{"emoji": "\u{2764}", "users": users}],
            "createdAt": "2026-01-01T00:00:00.000Z",
        });
        let new = r#"{"emoji":"\"body\":","count":1}"#;
        let events = format!("7 reactionUpdated {old}\n8 reactionUpdated {new}");
        let events = decode_events(events.as_bytes()).unwrap();
        assert_eq!(
            (events[0].seq, events[0].kind),
            (7, EventKind::MessageUpdated)
        );
        let shown: Message = serde_json::from_str(&events[0].data).unwrap();
        let reaction = &shown.reactions[0];
        assert_eq!((reaction.count, reaction.users.len()), (300, 10));
        assert_eq!(reaction.emoji, "\u{2764}\u{FE0F}");
        assert_eq!(
            (events[1].kind, events[1].data.as_str()),
            (EventKind::ReactionUpdated, new)
        );
    }

    proptest::proptest! {
        #[test]
        fn an_event_is_one_line_for_any_data(
            data in proptest::collection::vec(
                proptest::prop_oneof!["[ \n\r\"\\\\{}~a]{0,20}", "\n7 newMessage \\{\\}\n", ".{0,20}"], 1..6
            ),
            first in 1..1_000_000_i64
        ) {
            let events: Vec<_> = (first..)
                .zip(&data)
                .map(|(seq, data)| FeedEvent {
                    seq,
                    kind: EventKind::NewMessage,
                    data: data.clone(),
                })
                .collect();
            let payload = encode_events(&events);
            let lines: Vec<&[u8]> = payload.split(|byte| *byte == b'\n').collect();
            proptest::prop_assert_eq!(lines.len(), events.len());
            let RoomPayload::Feed(back) = decode_room(&payload) else {
                panic!("not decoded as a feed");
            };
            for ((event, back), line) in events.iter().zip(&back).zip(lines) {
                proptest::prop_assert_eq!(
                    (event.seq, event.kind, &event.data.replace('\n', " ")),
                    (back.seq, back.kind, &back.data)
                );
                // Each line is one entry of the list in Redis.
                proptest::prop_assert_eq!(decode_events(line).map_or(0, |events| events.len()), 1);
            }
            let ephemeral = EphemeralEvent {
                kind: EphemeralKind::ReadUpdated,
                data: data.concat(),
            };
            let back = decode_room(&encode_ephemeral(&ephemeral));
            proptest::prop_assert!(matches!(back, RoomPayload::Ephemeral(back) if back == ephemeral));
        }
    }

    #[test]
    fn line_feeds_in_stored_metadata_are_delivered_as_spaces() {
        let data = "{\"metadata\":{\"a\":\n5 \n}}";
        let event = FeedEvent {
            seq: 4,
            kind: EventKind::NewMessage,
            data: data.to_owned(),
        };
        let back = decode_events(&encode_events(&[event])).unwrap();
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(json(&back[0].data), json(data));
    }

    #[test]
    fn an_ephemeral_event_is_distinguished_from_the_feed() {
        let event = EphemeralEvent {
            kind: EphemeralKind::ReadUpdated,
            data: "{\"seq\":3}".to_owned(),
        };
        let payload = encode_ephemeral(&event);
        assert!(matches!(decode_room(&payload), RoomPayload::Ephemeral(back) if back == event));
        assert!(decode_events(&payload).is_none());
        assert!(matches!(decode_room(b"~ other {}"), RoomPayload::Unknown));
        assert!(matches!(
            decode_room(b"1 newMessage {}"),
            RoomPayload::Feed(events) if events.len() == 1
        ));
    }
}
