//! Says which field of a client's JSON is wrong, and what it must be: the same words over REST and sockets. Never repeats a
//! value at length.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::error::{Code, Error, FieldError};

/// The longest message that comes from the parser, in characters: it may repeat what was sent.
const MAX_MESSAGE: usize = 200;

/// A field that could not be read.
pub struct WrongField {
    /// Such as `inner[1].count`; `None` where it is the whole object.
    pub path: Option<String>,
    /// It was left out.
    pub missing: bool,
    pub message: String,
}

impl WrongField {
    /// `None` where the text is no JSON at all.
    pub fn of(error: serde_path_to_error::Error<serde_json::Error>) -> Option<Self> {
        let around = Some(error.path().to_string()).filter(|path| path != ".");
        let error = error.into_inner();
        if error.classify() != Category::Data {
            return None;
        }
        let text = error.to_string();
        // The place helps nobody in a one-line frame.
        let text = text.split(" at line ").next().unwrap_or(&text);
        // "missing field `room`": the path is that of the object around it.
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

    /// `whole` names the object where no field is to blame.
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

/// What a text that cannot be read as a `T` has wrong; `None` where it is no JSON.
pub fn find<T: DeserializeOwned>(text: &str) -> Option<WrongField> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let error = serde_path_to_error::deserialize::<_, T>(&mut reader).err()?;
    WrongField::of(error)
}

/// The parser's words as a person would say them.
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
}
