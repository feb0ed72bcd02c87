//! JSON of this crate's types.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::model::Message;

/// A message's JSON, serialised once for all recipients.
pub fn message_json(message: &Message) -> Box<RawValue> {
    raw(message)
}

/// JSON of one of this crate's types.
pub fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("our own types have string keys only")
}
