//! JSON of this crate's types.

use serde::Serialize;
use serde_json::value::RawValue;

/// JSON of one of this crate's types.
pub fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("our own types have string keys only")
}
