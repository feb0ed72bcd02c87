//! Reads the few fields of a frame that a run needs, by searching for their names: parsing every frame as JSON would cost
//! more than all else.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::judge::Seq;

/// A frame of interest.
#[derive(Debug, PartialEq)]
pub(super) enum Event<'a> {
    /// The answer to a request; `refused` is the error code.
    Answer { id: u64, refused: Option<&'a str> },
    NewMessage {
        room: &'a str,
        seq: Seq,
        change_seq: Seq,
        client_msg_id: &'a str,
    },
    /// Any other durable event.
    Other { room: &'a str, change_seq: Seq },
}

/// `None` for frames that are neither an answer nor a durable event.
pub(super) fn read(text: &[u8]) -> Option<Event<'_>> {
    let names = &*NAMES;
    if let Some(rest) = text
        .strip_prefix(b"{\"ack\":")
        .or_else(|| text.strip_prefix(b"43"))
    {
        let id = digits(rest)?;
        let refused = match names.ok.find(rest) {
            Some(_) => None,
            None => Some(text_after(rest, &names.code).unwrap_or("unknown")),
        };
        return Some(Event::Answer { id, refused });
    }
    let room = text_after(text, &names.room)?;
    let change_seq = number_after(text, &names.change_seq)?;
    let is_new =
        text.starts_with(b"{\"event\":\"newMessage\"") || text.starts_with(b"42[\"newMessage\"");
    if !is_new {
        return Some(Event::Other { room, change_seq });
    }
    Some(Event::NewMessage {
        room,
        seq: number_after(text, &names.seq)?,
        change_seq,
        client_msg_id: text_after(text, &names.client_msg_id)?,
    })
}

/// The room's head in an answer to `joinRoom`.
pub(super) fn head(answer: &str) -> Option<Seq> {
    number_after(answer.as_bytes(), &NAMES.seq)
}

struct Names {
    ok: Finder<'static>,
    code: Finder<'static>,
    room: Finder<'static>,
    seq: Finder<'static>,
    change_seq: Finder<'static>,
    client_msg_id: Finder<'static>,
}

static NAMES: LazyLock<Names> = LazyLock::new(|| Names {
    ok: Finder::new("\"ok\":true"),
    code: Finder::new("\"code\":\""),
    room: Finder::new("\"room\":\""),
    seq: Finder::new("\"seq\":"),
    change_seq: Finder::new("\"changeSeq\":"),
    client_msg_id: Finder::new("\"clientMsgId\":\""),
});

fn text_after<'a>(text: &'a [u8], name: &Finder) -> Option<&'a str> {
    let rest = &text[name.find(text)? + name.needle().len()..];
    std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
}

fn number_after(text: &[u8], name: &Finder) -> Option<Seq> {
    let rest = &text[name.find(text)? + name.needle().len()..];
    digits(rest)?.try_into().ok()
}

/// The number at the beginning of the text.
fn digits(text: &[u8]) -> Option<u64> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&text[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_events_of_both_transports_are_read() {
        let data = "{\"id\":\"x\",\"room\":\"r\",\"seq\":7,\"changeSeq\":8,\"body\":\"\",\"clientMsgId\":\"42\"}";
        let expected = Event::NewMessage {
            room: "r",
            seq: 7,
            change_seq: 8,
            client_msg_id: "42",
        };
        let plain = format!("{{\"event\":\"newMessage\",\"data\":{data}}}");
        assert_eq!(read(plain.as_bytes()), Some(expected));
        let socketio = format!("42[\"memberJoined\",{data}]");
        assert_eq!(
            read(socketio.as_bytes()),
            Some(Event::Other {
                room: "r",
                change_seq: 8
            })
        );
        assert_eq!(
            read(b"{\"ack\":9,\"ok\":false,\"error\":{\"code\":\"busy\",\"message\":\"\"}}"),
            Some(Event::Answer {
                id: 9,
                refused: Some("busy")
            })
        );
        assert_eq!(
            read(b"439[{\"ok\":true,\"data\":{}}]"),
            Some(Event::Answer {
                id: 9,
                refused: None
            })
        );
        assert_eq!(
            read(b"{\"event\":\"typing\",\"data\":{\"room\":\"r\"}}"),
            None
        );
        assert_eq!(
            head("{\"ack\":1,\"ok\":true,\"data\":{\"seq\":12}}"),
            Some(12)
        );
    }
}
