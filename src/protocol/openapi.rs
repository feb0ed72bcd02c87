//! Schemas of types for which `poem-openapi` and `schemars` cannot derive them.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::model::{ClientMetadata, Metadata, Timestamp};

const METADATA: &str = "Any JSON of at most 4096 bytes (whitespace between tokens not counted), 16 levels and 256 member names. Must be I-JSON (RFC 7493): no duplicate names in an object, no half of a surrogate pair, and numbers as an IEEE 754 double holds them (at most 17 significant digits; send larger integers than 2^53 as strings). Also no U+0000. Returned without that whitespace, otherwise as it was sent.";

macro_rules! scalar {
    ($type:ty, $name:literal, $schema:expr) => {
        impl Type for $type {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                $name.into()
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new($schema))
            }

            fn register(_: &mut Registry) {}

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(self.as_raw_value().into_iter())
            }
        }

        impl ParseFromJSON for $type {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                serde_json::from_value(value.unwrap_or_default()).map_err(ParseError::custom)
            }
        }
    };
}

macro_rules! written {
    ($type:ty) => {
        impl ToJSON for $type {
            fn to_json(&self) -> Option<Value> {
                serde_json::to_value(self).ok()
            }
        }
    };
}

macro_rules! metadata {
    ($type:ty) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                "Metadata".into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "description": METADATA })
            }

            fn inline_schema() -> bool {
                true
            }
        }
    };
}

scalar!(
    Timestamp,
    "Timestamp",
    MetaSchema::new_with_format("string", "date-time")
);
scalar!(
    Metadata,
    "Metadata",
    MetaSchema {
        description: Some(METADATA),
        ..MetaSchema::ANY
    }
);
scalar!(
    ClientMetadata,
    "Metadata",
    MetaSchema {
        description: Some(METADATA),
        ..MetaSchema::ANY
    }
);
written!(Timestamp);
written!(Metadata);
metadata!(Metadata);
metadata!(ClientMetadata);

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// Required by the trait; the type is only parsed, never written.
impl ToJSON for ClientMetadata {
    fn to_json(&self) -> Option<Value> {
        None
    }
}
