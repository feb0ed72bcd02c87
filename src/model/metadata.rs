//! JSON that clients attach to messages. It is validated and rewritten without insignificant whitespace before it is
//! used: raw client JSON never becomes part of a command, an event or a response.

use std::ops::Range;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::error::{Code, Error, Result};

/// Maximum size in bytes, without insignificant whitespace.
pub const MAX_METADATA: usize = 4096;
/// Maximum nesting depth of arrays and objects.
pub const MAX_METADATA_DEPTH: usize = 16;
/// Maximum number of member names, over all objects.
pub const MAX_METADATA_KEYS: usize = 256;

const FIELD: &str = "metadata";

/// Validated metadata in compact form: no control characters, no whitespace outside of strings, no duplicate names in
/// an object; digits of numbers are unchanged. Deserialising validates as well.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Metadata(Box<RawValue>);

/// Metadata as a client sent it; its only use is [`ClientMetadata::check`].
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct ClientMetadata(Box<RawValue>);

impl ClientMetadata {
    /// # Errors
    /// `too_large` beyond [`MAX_METADATA`]; `invalid` beyond the other limits, and for strings with U+0000 (PostgreSQL
    /// cannot store it) or an unpaired surrogate (not Unicode text, RFC 7493 section 2.1).
    pub fn check(self) -> Result<Metadata> {
        Metadata::checked(self.0)
    }
}

impl Metadata {
    fn checked(json: Box<RawValue>) -> Result<Metadata> {
        let scanned = scan(json.get(), Bounds::Enforced)?;
        let checked = if scanned.repeats {
            let text = scanned.compact.as_deref().unwrap_or(json.get());
            let mut once = String::with_capacity(text.len());
            last_of_each_name(text, &mut once).map_err(Error::internal)?;
            rebuild(json, Some(once))?
        } else {
            rebuild(json, scanned.compact)?
        };
        let size = checked.0.get().len();
        if size > MAX_METADATA {
            let message = format!("is {size} bytes long; at most {MAX_METADATA} are allowed");
            return Err(Error {
                code: Code::TooLarge,
                ..Error::field(FIELD, message)
            });
        }
        Ok(checked)
    }

    /// Metadata stored by an earlier version: compacted, but not validated, since a limit introduced later must not
    /// hide a message.
    ///
    /// # Errors
    /// `internal` if it is not JSON.
    pub fn stored(text: String) -> Result<Metadata> {
        let json = RawValue::from_string(text).map_err(Error::internal)?;
        let scanned = scan(json.get(), Bounds::Ignored)?;
        rebuild(json, scanned.compact)
    }

    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

fn rebuild(json: Box<RawValue>, compact: Option<String>) -> Result<Metadata> {
    match compact {
        None => Ok(Metadata(json)),
        Some(text) => RawValue::from_string(text)
            .map(Metadata)
            .map_err(Error::internal),
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        Metadata::checked(json).map_err(D::Error::custom)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bounds {
    Enforced,
    Ignored,
}

struct Scanned {
    /// `None` if the input is compact already.
    compact: Option<String>,
    /// An object contains a duplicate name. Only determined when bounds are enforced.
    repeats: bool,
}

/// Scans valid JSON once; a [`RawValue`] is always valid.
fn scan(json: &str, bounds: Bounds) -> Result<Scanned> {
    let bytes = json.as_bytes();
    let strict = bounds == Bounds::Enforced;
    let mut compact = String::new();
    // Everything before this offset is in `compact` or was omitted.
    let mut copied = 0;
    let mut open: Vec<usize> = Vec::new();
    let mut objects = 0;
    let mut last_string = 0..0;
    let mut names: Vec<(usize, Range<usize>)> = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = end_of_string(bytes, at, strict)?;
                last_string = at..end;
                at = end;
                continue;
            }
            b'{' | b'[' => {
                objects += 1;
                open.push(objects);
                if strict && open.len() > MAX_METADATA_DEPTH {
                    return refuse(format!(
                        "is nested too deep; at most {MAX_METADATA_DEPTH} levels are allowed"
                    ));
                }
            }
            b'}' | b']' => {
                open.pop();
            }
            b':' if strict => {
                names.push((open.last().copied().unwrap_or(0), last_string.clone()));
                if names.len() > MAX_METADATA_KEYS {
                    return refuse(format!(
                        "has too many names; at most {MAX_METADATA_KEYS} are allowed"
                    ));
                }
            }
            b' ' | b'\t' | b'\n' | b'\r' => {
                compact.push_str(&json[copied..at]);
                copied = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    if copied > 0 {
        compact.push_str(&json[copied..]);
    }
    Ok(Scanned {
        compact: (copied > 0).then_some(compact),
        repeats: names.len() > 1 && any_twice(json, names),
    })
}

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::field(FIELD, message))
}

/// The offset after the closing quote of the string that begins at `start`.
fn end_of_string(bytes: &[u8], start: usize, strict: bool) -> Result<usize> {
    let mut at = start + 1;
    loop {
        match memchr::memchr2(b'"', b'\\', &bytes[at.min(bytes.len())..]) {
            // Impossible in valid JSON.
            None => return Ok(bytes.len()),
            Some(step) if bytes[at + step] == b'"' => return Ok(at + step + 1),
            Some(step) => {
                at += step + 2;
                if strict && bytes.get(at - 1) == Some(&b'u') {
                    at = check_escape(bytes, at)?;
                }
            }
        }
    }
}

/// Checks the `\u` escape whose digits begin at `at`; returns its end, including the second half of a surrogate pair.
fn check_escape(bytes: &[u8], at: usize) -> Result<usize> {
    match unit(bytes, at) {
        Some(0) => refuse("must not contain the character U+0000"),
        Some(0xD800..=0xDBFF)
            if bytes.get(at + 4..at + 6) == Some(b"\\u")
                && matches!(unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) =>
        {
            Ok(at + 10)
        }
        Some(0xD800..=0xDFFF) => refuse("must not contain half of a surrogate pair"),
        _ => Ok(at + 4),
    }
}

/// Four hexadecimal digits.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = std::str::from_utf8(bytes.get(at..at + 4)?).ok()?;
    u16::from_str_radix(digits, 16).ok()
}

/// Whether an object contains a duplicate name, after unescaping.
fn any_twice(json: &str, names: Vec<(usize, Range<usize>)>) -> bool {
    let text = |range: Range<usize>| {
        let token = &json[range];
        if token.contains('\\') {
            serde_json::from_str(token).unwrap_or_else(|_| token.to_owned())
        } else {
            token.trim_matches('"').to_owned()
        }
    };
    let mut names: Vec<(usize, String)> = names
        .into_iter()
        .map(|(object, range)| (object, text(range)))
        .collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

/// Appends `json` without duplicate names: the first position and the last value win, as in JavaScript. The depth of
/// `json` is already validated.
fn last_of_each_name(json: &str, out: &mut String) -> serde_json::Result<()> {
    match json.as_bytes().first() {
        Some(b'{') => {
            let mut members: Vec<(String, &RawValue)> = Vec::new();
            for (name, value) in serde_json::from_str::<Members<'_>>(json)?.0 {
                match members.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, before)) => *before = value,
                    None => members.push((name, value)),
                }
            }
            out.push('{');
            for (number, (name, value)) in members.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(name)?);
                out.push(':');
                last_of_each_name(value.get(), out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json)?;
            out.push('[');
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                last_of_each_name(item.get(), out)?;
            }
            out.push(']');
        }
        _ => out.push_str(json),
    }
    Ok(())
}

/// An object's members in order, duplicates included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn check(json: &str) -> Result<String, Code> {
        let client: ClientMetadata = serde_json::from_str(json).unwrap();
        client
            .check()
            .map(|metadata| metadata.as_json().to_owned())
            .map_err(|error| {
                assert_eq!(error.fields[0].field, "metadata", "{error}");
                error.code
            })
    }

    #[test]
    fn whitespace_goes_and_nothing_else_changes() {
        for (json, compact) in [
            (
                "{ \"b\" :\t1.10 ,\r\n \"a\": [ 1e400, 12345678901234567890123 , -0.0 ] }",
                r#"{"b":1.10,"a":[1e400,12345678901234567890123,-0.0]}"#,
            ),
            (r#"{" a : b ":" { \" [ \\"}"#, r#"{" a : b ":" { \" [ \\"}"#),
            (
                r#"["\u0041\n\ud83d\ude00","\\u0000"]"#,
                r#"["\u0041\n\ud83d\ude00","\\u0000"]"#,
            ),
            (" \"text\" ", "\"text\""),
            ("[ ]", "[]"),
            ("{\n}", "{}"),
            ("true", "true"),
        ] {
            assert_eq!(check(json).as_deref(), Ok(compact), "{json}");
            let stored = Metadata::stored(json.trim().to_owned()).unwrap();
            assert_eq!(stored.as_json(), compact);
        }
    }

    #[test]
    fn a_name_twice_counts_as_its_last_value() {
        for (json, once) in [
            (r#"{"a":1,"b":2,"\u0061":3}"#, r#"{"a":3,"b":2}"#),
            (
                r#"[{"a":{"x":1.0, "x":2.0}}, {"a":1, "a":[ ]}]"#,
                r#"[{"a":{"x":2.0}},{"a":[]}]"#,
            ),
            (
                r#"{"a":{"a":1},"b":{"a":1}}"#,
                r#"{"a":{"a":1},"b":{"a":1}}"#,
            ),
            (r#"{"\"":1,"\"":2,"":3}"#, r#"{"\"":2,"":3}"#),
            (r#"[{},[[]],{"":"","":{ }}]"#, r#"[{},[[]],{"":{}}]"#),
        ] {
            assert_eq!(check(json).as_deref(), Ok(once), "{json}");
        }
    }

    #[test]
    fn bounds_hold_to_the_last_byte() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(check(&nested(MAX_METADATA_DEPTH)).is_ok());
        assert_eq!(check(&nested(MAX_METADATA_DEPTH + 1)), Err(Code::Invalid));
        assert_eq!(check(&nested(30_000)), Err(Code::Invalid));
        let siblings = format!("[{}0]", "[],".repeat(1000));
        assert!(check(&siblings).is_ok(), "side by side is not deep");

        let members = |count: usize| {
            let all: Vec<String> = (0..count).map(|n| format!("\"{n}\":0")).collect();
            format!("{{{}}}", all.join(" ,"))
        };
        assert!(check(&members(MAX_METADATA_KEYS)).is_ok());
        assert_eq!(check(&members(MAX_METADATA_KEYS + 1)), Err(Code::Invalid));

        let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
        assert!(check(&text(MAX_METADATA)).is_ok());
        assert_eq!(check(&text(MAX_METADATA + 1)), Err(Code::TooLarge));
        let spaced = format!("[{}1]", " ".repeat(MAX_METADATA));
        assert_eq!(check(&spaced).as_deref(), Ok("[1]"));
    }

    #[test]
    fn strings_are_text_that_can_be_stored() {
        for bad in [
            r#""\u0000""#,
            r#"{"\u0000":1}"#,
            r#""\ud800""#,
            r#""\udc00\ud800""#,
            r#""\ud800\ud800""#,
            r#""\ud800x""#,
            r#""\ud800\n""#,
        ] {
            assert_eq!(check(bad), Err(Code::Invalid), "{bad}");
            assert_eq!(Metadata::stored(bad.to_owned()).unwrap().as_json(), bad);
        }
        assert!(Metadata::stored("{\"a\":".to_owned()).is_err());
    }

    #[test]
    fn reading_checks_as_well() {
        let error = serde_json::from_str::<Metadata>(&"[".repeat(9)).unwrap_err();
        assert!(error.is_eof());
        let deep = "[".repeat(17) + &"]".repeat(17);
        assert!(serde_json::from_str::<Metadata>(&deep).is_err());
        let read: Metadata = serde_json::from_str("{ \"a\":\n1 }").unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), "{\"a\":1}");
    }

    /// Any JSON, with arbitrary whitespace between its tokens.
    pub fn spaced_json() -> impl Strategy<Value = String> {
        let space = "[ \t\r\n]{0,3}";
        let text =
            any::<String>().prop_map(|text| Value::String(text.replace('\0', "")).to_string());
        let number = prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            "-?[1-9][0-9]{0,30}",
            "[0-9]\\.[0-9]{1,20}",
        ];
        let leaf = prop_oneof![
            text,
            number,
            Just("null".to_owned()),
            Just("true".to_owned())
        ];
        leaf.prop_recursive(5, 32, 5, move |inner| {
            let item = (space, inner.clone(), space).prop_map(|(a, b, c)| format!("{a}{b}{c}"));
            let name = any::<String>().prop_map(|n| Value::String(n.replace('\0', "")).to_string());
            let member = (space, name, space, item.clone())
                .prop_map(|(a, name, b, value)| format!("{a}{name}{b}:{value}"));
            prop_oneof![
                proptest::collection::vec(item, 0..5)
                    .prop_map(|all| format!("[{}]", all.join(","))),
                proptest::collection::vec(member, 0..5)
                    .prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_metadata_comes_out_equal_and_without_a_line_break(json in spaced_json()) {
            let before: Value = serde_json::from_str(&json).unwrap();
            match check(&json) {
                Ok(compact) => {
                    let after: Value = serde_json::from_str(&compact).unwrap();
                    prop_assert_eq!(before, after);
                    prop_assert!(compact.bytes().all(|byte| byte >= b' '));
                    prop_assert_eq!(check(&compact), Ok(compact.clone()));
                }
                Err(code) => prop_assert_eq!(code, Code::TooLarge),
            }
        }
    }
}
