//! Parser of Engine.IO 4 and Socket.IO 5 packets, after the public protocol documents. No I/O and no decisions.
//!
//! An Engine.IO packet is a digit and its data; `4` carries a Socket.IO packet: a digit, `attachments-`, `/namespace,`,
//! an acknowledgement number and JSON, all but the digit optional.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Maximum attachments that one packet may announce, as in the reference parser.
const MAX_ATTACHMENTS: usize = 10;

/// The packets that a client may send on an open Engine.IO connection.
#[derive(Debug)]
pub enum Packet<'a> {
    Close,
    Pong,
    Noop,
    /// A Socket.IO packet, not parsed yet.
    Message(&'a str),
    /// A binary message in base64, as polling carries it.
    Binary,
}

/// The Socket.IO packets that a client may send.
#[derive(Debug)]
pub enum Message<'a> {
    Connect(Namespace<'a>, &'a str),
    Disconnect(Namespace<'a>),
    Event(Namespace<'a>, Event<'a>),
    /// An acknowledgement; ignored, since the server requests none.
    Ack {
        attachments: usize,
    },
}

/// `/` is the main namespace.
pub type Namespace<'a> = &'a str;

#[derive(Debug)]
pub struct Event<'a> {
    pub ack: Option<u64>,
    /// Number of binary messages that follow.
    pub attachments: usize,
    pub name: Cow<'a, str>,
    /// The first argument.
    pub data: Option<&'a RawValue>,
}

/// The packet violates the protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Packet<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        let mut chars = text.chars();
        let kind = chars.next().ok_or(Malformed)?;
        let rest = chars.as_str();
        match kind {
            '1' if rest.is_empty() => Ok(Packet::Close),
            '3' => Ok(Packet::Pong),
            '4' => Ok(Packet::Message(rest)),
            '6' => Ok(Packet::Noop),
            'b' => Ok(Packet::Binary),
            // Only the server sends open and ping; an upgrade packet is only valid on a new WebSocket.
            _ => Err(Malformed),
        }
    }
}

impl<'a> Message<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        let kind = text.bytes().next().ok_or(Malformed)?;
        if !kind.is_ascii_digit() {
            return Err(Malformed);
        }
        let mut rest = &text[1..];
        let mut attachments = 0;
        if matches!(kind, b'5' | b'6') {
            let (count, after) = digits(rest)?;
            attachments = count
                .and_then(|count| usize::try_from(count).ok())
                .filter(|count| *count <= MAX_ATTACHMENTS)
                .ok_or(Malformed)?;
            rest = after.strip_prefix('-').ok_or(Malformed)?;
        }
        let mut namespace = "/";
        if rest.starts_with('/') {
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
            // A query string is not part of the name.
            namespace = namespace.split('?').next().unwrap_or(namespace);
        }
        let (ack, json) = digits(rest)?;
        match kind {
            b'0' if ack.is_none() && (json.is_empty() || json.starts_with('{')) => {
                Ok(Message::Connect(namespace, json))
            }
            b'1' if ack.is_none() && json.is_empty() => Ok(Message::Disconnect(namespace)),
            b'2' | b'5' => {
                let Arguments(name, data) = serde_json::from_str(json).map_err(|_| Malformed)?;
                let event = Event {
                    ack,
                    attachments,
                    name,
                    data,
                };
                Ok(Message::Event(namespace, event))
            }
            b'3' | b'6' if ack.is_some() && json.starts_with('[') => {
                Ok(Message::Ack { attachments })
            }
            _ => Err(Malformed),
        }
    }
}

/// The leading number of a text, if any, and the rest.
fn digits(text: &str) -> Result<(Option<u64>, &str), Malformed> {
    let end = text
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    match end {
        0 => Ok((None, text)),
        _ => Ok((
            Some(text[..end].parse().map_err(|_| Malformed)?),
            &text[end..],
        )),
    }
}

/// An event's name and first argument, borrowed where possible.
struct Arguments<'a>(Cow<'a, str>, Option<&'a RawValue>);

impl<'de> Deserialize<'de> for Arguments<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Arguments<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an array that begins with the event's name")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let name: Name = seq
                    .next_element()?
                    .ok_or_else(|| serde::de::Error::invalid_length(0, &self))?;
                let data = seq.next_element()?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Arguments(name.0, data))
            }
        }
        deserializer.deserialize_seq(Array)
    }
}

/// A name may be a number.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<'a> {
            Text(#[serde(borrow)] Cow<'a, str>),
            Number(f64),
        }
        Ok(Name(match Either::deserialize(deserializer)? {
            Either::Text(text) => text,
            Either::Number(number) => Cow::Owned(number.to_string()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> (String, Option<u64>, usize, String, Option<String>) {
        match Message::parse(text).unwrap() {
            Message::Event(namespace, e) => (
                namespace.to_owned(),
                e.ack,
                e.attachments,
                e.name.into_owned(),
                e.data.map(|d| d.get().to_owned()),
            ),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn engine_packets() {
        assert!(matches!(Packet::parse("1"), Ok(Packet::Close)));
        assert!(matches!(Packet::parse("3"), Ok(Packet::Pong)));
        assert!(matches!(Packet::parse("4"), Ok(Packet::Message(""))));
        assert!(matches!(
            Packet::parse("42[\"é\"]"),
            Ok(Packet::Message("2[\"é\"]"))
        ));
        assert!(matches!(Packet::parse("bAQID"), Ok(Packet::Binary)));
        for bad in ["", "abc", "0", "2", "2probe", "5", "7", "é", "\u{1e}"] {
            assert!(Packet::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn events() {
        let expected = |namespace: &str, ack, attachments, name: &str, data: Option<&str>| {
            (
                namespace.to_owned(),
                ack,
                attachments,
                name.to_owned(),
                data.map(str::to_owned),
            )
        };
        for (text, e) in [
            ("2[\"a\"]", expected("/", None, 0, "a", None)),
            (
                "2[\"a\",{\"b\":1},2,[3]]",
                expected("/", None, 0, "a", Some("{\"b\":1}")),
            ),
            ("212[\"a\",1]", expected("/", Some(12), 0, "a", Some("1"))),
            (
                "2/admin,456[\"a\\n\"]",
                expected("/admin", Some(456), 0, "a\n", None),
            ),
            (
                "2/admin?x=1,[\"a\"]",
                expected("/admin", None, 0, "a", None),
            ),
            ("2[5]", expected("/", None, 0, "5", None)),
            (
                "51-7[\"a\",{\"_placeholder\":true,\"num\":0}]",
                expected(
                    "/",
                    Some(7),
                    1,
                    "a",
                    Some("{\"_placeholder\":true,\"num\":0}"),
                ),
            ),
        ] {
            assert_eq!(event(text), e, "{text}");
        }
    }

    #[test]
    fn connections_and_answers() {
        assert!(matches!(Message::parse("0"), Ok(Message::Connect("/", ""))));
        assert!(matches!(
            Message::parse("0{\"token\":\"a,b\"}"),
            Ok(Message::Connect("/", "{\"token\":\"a,b\"}"))
        ));
        assert!(matches!(
            Message::parse("0/admin,{}"),
            Ok(Message::Connect("/admin", "{}"))
        ));
        assert!(matches!(
            Message::parse("0/random"),
            Ok(Message::Connect("/random", ""))
        ));
        assert!(matches!(
            Message::parse("1/admin,"),
            Ok(Message::Disconnect("/admin"))
        ));
        assert!(matches!(
            Message::parse("312[]"),
            Ok(Message::Ack { attachments: 0 })
        ));
        assert!(matches!(
            Message::parse("62-12[]"),
            Ok(Message::Ack { attachments: 2 })
        ));
    }

    #[test]
    fn forbidden_packets_are_refused() {
        for bad in [
            "",
            "abc",
            "é",
            "2",
            "2{}",
            "2[]",
            "2[null]",
            "2[{}]",
            "2abc[\"a\"]",
            "2-1[\"a\"]",
            "299999999999999999999[\"a\"]",
            "2[\"a\"",
            "2[\"a\"]x",
            "0[]",
            "0\"x\"",
            "01{}",
            "1{}",
            "3[]",
            "35",
            "4{}",
            "4",
            "5[\"a\"]",
            "5-[\"a\"]",
            "511-[\"a\"]",
            "7",
            "9[\"a\"]",
            "2/admin[\"a\"]",
        ] {
            assert!(Message::parse(bad).is_err(), "{bad:?}");
        }
    }
}
