//! Locates the wrong field in a client's JSON and states the expected value, in the same words over REST and sockets.
//! The error never repeats long input.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::error::{Code, Error, FieldError};

/// Maximum length of the parser's message in characters, since it may repeat the input.
const MAX_MESSAGE: usize = 200;

const HALF_PAIR: &str = "must not contain half of a surrogate pair (\\ud800 to \\udfff)";

/// A field that failed to parse.
pub struct WrongField {
    /// For example `inner[1].count`; `None` for the whole object.
    pub path: Option<String>,
    /// The field is missing.
    pub missing: bool,
    pub message: String,
}

impl WrongField {
    /// `None` if the text is not JSON.
    pub fn of(error: serde_path_to_error::Error<serde_json::Error>) -> Option<Self> {
        let around = Some(error.path().to_string()).filter(|path| path != ".");
        let error = error.into_inner();
        let text = error.to_string();
        if error.classify() != Category::Data {
            // JSON by its grammar, but no Unicode text.
            return text.contains("hex escape").then(|| WrongField {
                path: around,
                missing: false,
                message: HALF_PAIR.to_owned(),
            });
        }
        // The line and column are of no use in a one-line frame.
        let text = text.split(" at line ").next().unwrap_or(&text);
        // For "missing field `room`", the path is that of the enclosing object.
        let missing = text
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next());
        Some(match missing {
            Some(field) => WrongField {
                path: Some(around.map_or(field.to_owned(), |around| format!("{around}.{field}"))),
                missing: true,
                message: "is required".to_owned(),
            },
            None => WrongField {
                path: around,
                missing: false,
                message: plain(text).chars().take(MAX_MESSAGE).collect(),
            },
        })
    }

    /// `whole` names the object if no single field is wrong.
    pub fn error(self, code: Code, whole: &str) -> Error {
        let Some(field) = self.path else {
            return Error::new(code, format!("{whole}: {}", self.message));
        };
        let message = format!("{field}: {}", self.message);
        Error {
            fields: vec![FieldError {
                field,
                message: self.message,
            }],
            ..Error::new(code, message)
        }
    }
}

/// The wrong field of a text that does not parse as a `T`; `None` if it is not JSON.
pub fn find<T: DeserializeOwned>(text: &str) -> Option<WrongField> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let error = serde_path_to_error::deserialize::<_, T>(&mut reader).err()?;
    WrongField::of(error)
}

/// Rewrites the parser's message in plain words.
fn plain(text: &str) -> String {
    if text.starts_with("UUID parsing failed") {
        return "must be an id, such as 019adc7e-5e2c-7d3a-8b1e-0c5f6a7b8c9d".to_owned();
    }
    match text.strip_prefix("unknown variant `") {
        Some(rest) => match rest.split_once("`, expected ") {
            Some((_, expected)) => {
                let expected = expected.trim_start_matches("one of ");
                format!("must be one of {}", expected.replace('`', ""))
            }
            None => text.to_owned(),
        },
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use uuid::Uuid;

    use super::*;
    use crate::model::{RoomKind, Timestamp};

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only the types matter")]
    struct Sample {
        room: Uuid,
        kind: Option<RoomKind>,
        until: Option<Timestamp>,
    }

    #[test]
    fn the_field_is_named_and_what_it_must_be() {
        let message = |text: &str| {
            let wrong = find::<Sample>(text).unwrap();
            wrong.error(Code::Invalid, "data").message
        };
        assert_eq!(message("{}"), "room: is required");
        assert!(message(r#"{"room":"lobby"}"#).starts_with("room: must be an id"));
        let id = Uuid::nil();
        assert_eq!(
            message(&format!(r#"{{"room":"{id}","kind":"secret"}}"#)),
            "kind: must be one of public, private, direct"
        );
        for time in [
            "tomorrow",
            "10000-01-01T00:00:00Z",
            "+10000-01-01T00:00:00Z",
        ] {
            let text = format!(r#"{{"room":"{id}","until":"{time}"}}"#);
            assert!(
                message(&text).contains("the year 9999"),
                "{}",
                message(&text)
            );
        }
        let long = format!(r#"{{"room":"{id}","kind":{:?}}}"#, "x".repeat(9999));
        assert!(message(&long).len() < 300);
        assert!(find::<Sample>("{").is_none());
    }

    #[test]
    fn half_of_a_surrogate_pair_is_named() {
        #[derive(Debug, Deserialize)]
        #[allow(dead_code, reason = "only the types matter")]
        struct Text {
            body: String,
        }
        for bad in [
            r#"{"body":"\ud800"}"#,
            r#"{"body":"\udc00"}"#,
            r#"{"body":"x\ud800\n"}"#,
            r#"{"body":"\ud800\ud800"}"#,
        ] {
            let error = find::<Text>(bad).unwrap().error(Code::Invalid, "data");
            assert!(error.message.contains("surrogate pair"), "{bad}: {error}");
            assert_eq!(error.fields[0].field, "body", "{bad}");
        }
        assert!(find::<Text>(r#"{"body":"\ud83d\ude00"}"#).is_none());
        assert!(find::<Text>(r#"{"body":"\u12"}"#).is_none(), "not JSON");
        assert!(find::<Text>(r#"{"body":"\ud800"#).is_none(), "not JSON");
    }
}
