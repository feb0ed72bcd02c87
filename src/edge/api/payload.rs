//! Request and response payloads: JSON bodies whose errors name the invalid field, and responses that pass on JSON that
//! a worker or the store has already serialized.

use std::{borrow::Cow, marker::PhantomData};

use bytes::Bytes;
use poem::{FromRequest, IntoResponse, Request, RequestBody, Response, http::StatusCode};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions, Object,
    payload::Payload,
    registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use super::problem::Problem;
use crate::{
    edge::submit::SubmitResult,
    error::{Code, Error, Result},
    protocol::wrong_field::WrongField,
};

const JSON: &str = "application/json";

/// A JSON body. An empty one counts as `{}`. serde parses it directly, so that metadata is kept as it was written;
/// `poem_openapi` only describes the type.
pub struct Body<T>(pub T);

impl<'a, T: DeserializeOwned + Type> ApiExtractor<'a> for Body<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType {
                content_type: JSON,
                schema: T::schema_ref(),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let bytes = <Vec<u8> as FromRequest>::from_request(request, body).await?;
        check_type(request.content_type().filter(|_| !bytes.is_empty()))
            .map_err(|error| poem::Error::new(error, StatusCode::UNSUPPORTED_MEDIA_TYPE))?;
        let read = parse(if bytes.is_empty() { b"{}" } else { &bytes });
        Ok(Body(read.map_err(Problem::from)?))
    }
}

/// An empty body needs no `Content-Type`; any other must be JSON.
fn check_type(content_type: Option<&str>) -> Result<()> {
    let Some(content_type) = content_type else {
        return Ok(());
    };
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    if essence == JSON || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(Error::malformed(
        "send the body as JSON, with `Content-Type: application/json`",
    ))
}

/// Parses a body and names the invalid field. A missing or out-of-range field is `invalid`; a wrong type is
/// `malformed`.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    // serde would also accept an array for a struct, by position.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::malformed("the body must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let text = error.inner().to_string();
        match WrongField::of(error) {
            None => Error::malformed(format!("the body is not JSON: {text}")),
            Some(wrong) => {
                let code = if wrong.missing {
                    Code::Invalid
                } else {
                    Code::Malformed
                };
                wrong.error(code, "the body")
            }
        }
    })?;
    reader
        .end()
        .map_err(|error| Error::malformed(format!("the body is not JSON: {error}")))?;
    Ok(value)
}

/// Serialized JSON that is sent unchanged; `T` is its schema.
pub struct RawJson<T> {
    json: Bytes,
    shape: PhantomData<fn() -> T>,
}

impl<T> RawJson<T> {
    /// From serialized JSON.
    pub fn of_raw(json: Box<RawValue>) -> Self {
        RawJson {
            json: String::from(Box::<str>::from(json)).into(),
            shape: PhantomData,
        }
    }

    /// From serialized bytes that other responses may share.
    pub fn of_bytes(json: Bytes) -> Self {
        RawJson {
            json,
            shape: PhantomData,
        }
    }

    /// Serializes `value`.
    pub fn of(value: &T) -> Self
    where
        T: Serialize,
    {
        RawJson::of_raw(crate::protocol::raw(value))
    }
}

impl<T: Type> Payload for RawJson<T> {
    const CONTENT_TYPE: &'static str = JSON;

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T> IntoResponse for RawJson<T> {
    fn into_response(self) -> Response {
        Response::builder().content_type(JSON).body(self.json)
    }
}

/// The cursor of the next page, or `null`. A required field in the OpenAPI document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Cursor<T>(pub Option<T>);

impl<T: Type> Type for Cursor<T> {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        format!("Cursor_{}", T::name()).into()
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref().merge(MetaSchema {
            nullable: true,
            ..MetaSchema::ANY
        })
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl<T: ParseFromJSON> ParseFromJSON for Cursor<T> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        Option::<T>::parse_from_json(value)
            .map(Cursor)
            .map_err(ParseError::propagate)
    }
}

impl<T: ToJSON> ToJSON for Cursor<T> {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.to_json().unwrap_or_default())
    }
}

/// A write that was enqueued and that no worker has processed yet.
#[derive(Serialize, Object)]
#[oai(rename = "AcceptedWrite")]
pub struct Pending {
    /// The id of what the write concerns, such as a room, a message or a user.
    id: Uuid,
    /// Always `accepted`.
    status: String,
}

impl Pending {
    pub fn new(id: Uuid) -> Self {
        Pending {
            id,
            status: "accepted".to_owned(),
        }
    }
}

/// The response to a write that creates a resource.
#[derive(ApiResponse)]
pub enum Created<T: Type> {
    /// Stored.
    #[oai(status = 201)]
    Done(RawJson<T>),
    /// Enqueued and will be stored; the worker did not reply within `edge.wait`.
    #[oai(status = 202)]
    Accepted(RawJson<Pending>),
}

/// The response to a write that changes a resource.
#[derive(ApiResponse)]
pub enum Changed<T: Type> {
    /// Stored; the resource's new state.
    #[oai(status = 200)]
    Done(RawJson<T>),
    /// Enqueued and will be stored; the worker did not reply within `edge.wait`.
    #[oai(status = 202)]
    Accepted(RawJson<Pending>),
}

/// The response to a write without a result.
#[derive(ApiResponse)]
pub enum Gone {
    /// Done.
    #[oai(status = 204)]
    Done,
    /// Enqueued and will be done; the worker did not reply within `edge.wait`.
    #[oai(status = 202)]
    Accepted(RawJson<Pending>),
}

impl Gone {
    /// `id` identifies the write in a 202 response.
    pub fn of(result: SubmitResult, id: Uuid) -> Self {
        match result {
            SubmitResult::Done(_) => Gone::Done,
            SubmitResult::Accepted => Gone::Accepted(RawJson::of(&Pending::new(id))),
        }
    }
}

/// The response to a read.
#[derive(ApiResponse)]
pub enum Found<T: Type> {
    /// The requested data.
    #[oai(status = 200)]
    Ok(RawJson<T>),
}

impl<T: Type + Serialize> Found<T> {
    pub fn of(value: &T) -> Self {
        Found::Ok(RawJson::of(value))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::model::ClientMetadata;

    #[derive(Debug, Deserialize)]
    struct Sample {
        name: String,
        #[serde(default)]
        inner: Vec<Inner>,
        metadata: Option<ClientMetadata>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[allow(dead_code, reason = "only its type matters")]
        count: u32,
    }

    #[test]
    fn metadata_is_kept_as_it_was_written() {
        let text = r#"{"name":"n","metadata":{"z": 1.0, "a":1152921504606846976}}"#;
        let sample: Sample = parse(text.as_bytes()).unwrap();
        assert_eq!(sample.name, "n");
        assert_eq!(
            sample.metadata.unwrap().check().unwrap().as_json(),
            r#"{"z":1.0,"a":1152921504606846976}"#
        );
        assert!(sample.inner.is_empty());
    }

    #[test]
    fn the_wrong_field_is_named() {
        for (body, code, field) in [
            ("{}", Code::Invalid, Some("name")),
            (r#"{"name":5}"#, Code::Malformed, Some("name")),
            (
                r#"{"name":"n","inner":[{"count":1},{"count":-1}]}"#,
                Code::Malformed,
                Some("inner[1].count"),
            ),
            (
                r#"{"name":"n","inner":[{}]}"#,
                Code::Invalid,
                Some("inner[0].count"),
            ),
            ("[1", Code::Malformed, None),
            ("7", Code::Malformed, None),
            ("[\"n\"]", Code::Malformed, None),
            (r#"{"name":"n"} x"#, Code::Malformed, None),
            ("{\"name\":\"\u{0}\"}", Code::Malformed, None),
        ] {
            let error = parse::<Sample>(body.as_bytes()).unwrap_err();
            assert_eq!(error.code, code, "{body}: {error}");
            assert_eq!(
                error.fields.first().map(|f| f.field.as_str()),
                field,
                "{body}: {error}"
            );
        }
        assert_eq!(
            parse::<Sample>(b"{\"name\":\"\xff\"}").unwrap_err().code,
            Code::Malformed
        );
    }

    #[test]
    fn a_body_says_that_it_is_json() {
        for good in [
            None,
            Some("application/json; charset=utf-8"),
            Some("Application/JSON"),
            Some("application/x+json"),
        ] {
            check_type(good).unwrap();
        }
        for bad in ["text/plain", "application/x-www-form-urlencoded", ""] {
            assert_eq!(check_type(Some(bad)).unwrap_err().code, Code::Malformed);
        }
    }
}
