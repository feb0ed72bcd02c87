//! JSON that clients attach to messages. It is validated and rewritten without insignificant whitespace before it is
//! used: raw client JSON never becomes part of a command, an event or a response. What leaves the server is I-JSON
//! (RFC 7493), whatever was stored.

mod number;
mod scan;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::value::RawValue;

use self::scan::{FIELD, Source, scan};
pub use self::scan::{MAX_METADATA_DEPTH, MAX_METADATA_KEYS};
use crate::error::{Code, Error, Result};

/// Maximum size in bytes, without insignificant whitespace.
pub const MAX_METADATA: usize = 4096;

/// Validated metadata in compact form: no control characters, no whitespace outside of strings, no duplicate names in
/// an object, no half of a surrogate pair, and only numbers that an IEEE 754 double holds. Deserialising validates as
/// well, and rounds numbers that an earlier version accepted.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Metadata(Box<RawValue>);

/// Metadata as a client sent it; its only use is [`ClientMetadata::check`].
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct ClientMetadata(Box<RawValue>);

impl ClientMetadata {
    /// # Errors
    /// `too_large` beyond [`MAX_METADATA`]; `invalid` beyond the other limits, for duplicate names in an object, for
    /// numbers that a double does not hold (RFC 7493 section 2.2), and for strings with U+0000 (PostgreSQL cannot store
    /// it) or an unpaired surrogate (not Unicode text, RFC 7493 section 2.1).
    pub fn check(self) -> Result<Metadata> {
        Metadata::checked(self.0, Source::Client)
    }
}

impl Metadata {
    fn checked(json: Box<RawValue>, source: Source) -> Result<Metadata> {
        let compact = scan(json.get(), source)?;
        let received = json.get().len();
        let checked = rebuild(json, compact)?;
        // The repair of what an earlier version accepted may lengthen it.
        let size = match source {
            Source::Queue => received,
            Source::Client | Source::Store => checked.0.get().len(),
        };
        if size > MAX_METADATA {
            let message = format!("is {size} bytes long; at most {MAX_METADATA} are allowed");
            return Err(Error {
                code: Code::TooLarge,
                ..Error::field(FIELD, message)
            });
        }
        Ok(checked)
    }

    /// Metadata stored by this or an earlier version. Numbers are rounded to doubles (`null` beyond their range),
    /// halves of surrogate pairs become U+FFFD, the last of duplicate names counts. Metadata that is nested deeper than
    /// [`MAX_METADATA_DEPTH`] or no JSON becomes `null`: it must not make a history unreadable.
    pub fn stored(text: String) -> Metadata {
        let repaired = RawValue::from_string(text)
            .map_err(Error::internal)
            .and_then(|json| {
                let compact = scan(json.get(), Source::Store)?;
                rebuild(json, compact)
            });
        repaired.unwrap_or_else(|error| {
            tracing::debug!(error = %error.chain(), "stored metadata is not I-JSON; null is shown instead");
            Metadata(RawValue::NULL.to_owned())
        })
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
        Metadata::checked(json, Source::Queue).map_err(D::Error::custom)
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

    /// An edge of an earlier version has accepted it, so it must be stored.
    #[test]
    fn metadata_from_the_queue_may_grow_when_it_is_repaired() {
        let long = format!("[{}]", ["12345678901234567"; 227].join(","));
        assert_eq!(check(&long), Err(Code::Invalid));
        let read: Metadata = serde_json::from_str(&long).unwrap();
        assert!(read.as_json().len() > MAX_METADATA);
        let longer = format!("\"{}\"", "m".repeat(MAX_METADATA));
        assert!(serde_json::from_str::<Metadata>(&longer).is_err());
    }

    #[test]
    fn whitespace_goes_and_nothing_else_changes() {
        for (json, compact) in [
            (
                "{ \"b\" :\t1.10 ,\r\n \"a\": [ 1E+300, 1152921504606846976 , -0.0 ] }",
                r#"{"b":1.10,"a":[1E+300,1152921504606846976,-0.0]}"#,
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
            let stored = Metadata::stored(json.trim().to_owned());
            assert_eq!(stored.as_json(), compact);
        }
    }

    #[test]
    fn duplicate_names_are_refused_and_stored_ones_keep_the_last_value() {
        for (json, once) in [
            (r#"{"a":1,"b":2,"\u0061":3}"#, r#"{"a":3,"b":2}"#),
            (
                r#"[{"a":{"x":1.0, "x":2.0}}, {"a":1, "a":[ ]}]"#,
                r#"[{"a":{"x":2.0}},{"a":[]}]"#,
            ),
            (r#"{"\"":1,"\"":2,"":3}"#, r#"{"\"":2,"":3}"#),
            (r#"[{},[[]],{"":"","":{ }}]"#, r#"[{},[[]],{"":{}}]"#),
        ] {
            assert_eq!(check(json), Err(Code::Invalid), "{json}");
            assert_eq!(Metadata::stored(json.to_owned()).as_json(), once, "{json}");
        }
        let apart = r#"{"a":{"a":1},"b":{"a":1}}"#;
        assert_eq!(check(apart).as_deref(), Ok(apart));
    }

    #[test]
    fn numbers_are_those_of_a_double() {
        for bad in [
            "1e999",
            "[-1e400]",
            "{\"id\":12345678901234567890123}",
            "9007199254740993",
            "1e-400",
        ] {
            assert_eq!(check(bad), Err(Code::Invalid), "{bad}");
        }
        let long = "7".repeat(3000);
        assert_eq!(check(&long), Err(Code::Invalid));
        // Accepted by an earlier version: from the queue or the store, the nearest double.
        for (old, now) in [
            ("1e999", "null"),
            ("[ -1e400,1]", "[null,1]"),
            (
                "{\"id\":12345678901234567890123}",
                "{\"id\":1.2345678901234568e+22}",
            ),
            ("9007199254740993", "9007199254740992.0"),
            ("1e-400", "0.0"),
            (long.as_str(), "null"),
        ] {
            assert_eq!(Metadata::stored(old.to_owned()).as_json(), now);
            let queued: Metadata = serde_json::from_str(old).unwrap();
            assert_eq!(queued.as_json(), now);
        }
    }

    #[test]
    fn stored_metadata_is_returned_as_i_json() {
        let deep = "[".repeat(1990) + &"]".repeat(1990);
        let many: Vec<String> = (0..1000).map(|n| format!("\"{n}\":0")).collect();
        let many = format!("{{{}}}", many.join(","));
        for (old, now) in [
            (deep.as_str(), "null"),
            ("{\"a\":", "null"),
            ("", "null"),
            (r#""\ud800""#, r#""\ufffd""#),
            (r#""x\udc00\ud800y""#, r#""x\ufffd\ufffdy""#),
            (
                r#"["\ud83d\ude00", "\ud800\n"]"#,
                r#"["\ud83d\ude00","\ufffd\n"]"#,
            ),
            (r#"{"\ud800":1,"\udc00":2}"#, r#"{"\ufffd":2}"#),
            (r#"{"\u0000":1}"#, r#"{"\u0000":1}"#),
            (many.as_str(), many.as_str()),
        ] {
            let shown = Metadata::stored(old.to_owned());
            let same = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            assert_eq!(same(shown.as_json()), same(now), "{old}");
            strict(shown.as_json());
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
            assert!(serde_json::from_str::<Metadata>(bad).is_err(), "{bad}");
        }
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

    /// A strict reader: I-JSON with numbers that are doubles, unique names, and 16 levels at most.
    fn strict(json: &str) -> Value {
        fn depth(value: &Value) -> usize {
            match value {
                Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
                Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
                Value::Number(number) => {
                    assert!(number.as_f64().is_some_and(f64::is_finite), "{number}");
                    0
                }
                _ => 0,
            }
        }
        let value: Value =
            serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert!(depth(&value) <= MAX_METADATA_DEPTH, "{json}");
        value
    }

    /// JSON as a careless or hostile client writes it.
    fn loose_json() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?",
            any::<f64>().prop_filter_map("finite", |n| serde_json::Number::from_f64(n)
                .map(|n| n.to_string())),
            any::<i64>().prop_map(|n| n.to_string()),
        ];
        let string = "\"([a-c]|\\\\u(d[89a-f]|00)[0-9a-f]{2}|\\\\\\\\|\\\\n){0,4}\"";
        let leaf = prop_oneof![
            number,
            string.prop_map(String::from),
            Just("null".to_owned())
        ];
        leaf.prop_recursive(20, 60, 4, move |inner| {
            let member =
                (string, inner.clone()).prop_map(|(name, value)| format!("{name}:{value}"));
            prop_oneof![
                proptest::collection::vec(inner, 1..4)
                    .prop_map(|all| format!("[{}]", all.join(","))),
                proptest::collection::vec(member, 0..4)
                    .prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        })
    }

    /// Any I-JSON, with arbitrary whitespace between its tokens.
    pub fn spaced_json() -> impl Strategy<Value = String> {
        let space = "[ \t\r\n]{0,3}";
        let text =
            any::<String>().prop_map(|text| Value::String(text.replace('\0', "")).to_string());
        let number = prop_oneof![
            any::<i32>().prop_map(|n| n.to_string()),
            "-?[1-9][0-9]{0,14}",
            "[0-9]\\.[0-9]{1,16}",
        ];
        let leaf = prop_oneof![
            text,
            number,
            Just("null".to_owned()),
            Just("true".to_owned())
        ];
        leaf.prop_recursive(5, 32, 5, move |inner| {
            let item = (space, inner.clone(), space).prop_map(|(a, b, c)| format!("{a}{b}{c}"));
            let name = any::<String>().prop_map(|n| n.replace('\0', ""));
            let member = (space, name, space, item.clone());
            prop_oneof![
                proptest::collection::vec(item, 0..5)
                    .prop_map(|all| format!("[{}]", all.join(","))),
                proptest::collection::vec(member, 0..5).prop_map(|all| {
                    // Unique names.
                    let members =
                        all.into_iter()
                            .enumerate()
                            .map(|(number, (a, name, b, value))| {
                                format!(
                                    "{a}{}{b}:{value}",
                                    Value::String(format!("{number}{name}"))
                                )
                            });
                    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
                }),
            ]
        })
    }

    proptest! {
        /// A strict parser reads all accepted and all stored metadata.
        #[test]
        fn what_leaves_is_i_json(json in loose_json()) {
            if let Ok(kept) = check(&json) {
                let stored = Metadata::stored(kept.clone());
                prop_assert_eq!(stored.as_json(), &kept);
                strict(&kept);
            }
            let shown = Metadata::stored(json);
            strict(shown.as_json());
            // Repaired once, it stays.
            let again = Metadata::stored(shown.as_json().to_owned());
            prop_assert_eq!(again.as_json(), shown.as_json());
        }

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
