//! HTTP error responses: `application/problem+json` (RFC 9457) with stable codes. Every failure passes through
//! [`render()`], which logs internal errors once.

mod render;

use std::borrow::Cow;

use poem::http::StatusCode;
use poem_openapi::{
    ApiResponse, Object,
    registry::{
        MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
    },
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::Serialize;

pub use self::render::{document, render, write};
use crate::error::{Code, Error, FieldError};

const MEDIA_TYPE: &str = "application/problem+json";

/// Every code with its HTTP status and its description for the OpenAPI document.
const CODES: &[(Code, u16, &str)] = &[
    (
        Code::Malformed,
        400,
        "`malformed`: not JSON, not UTF-8, or a value of a wrong type.",
    ),
    (
        Code::Unauthorized,
        401,
        "`unauthorized`: no credentials, or invalid ones.",
    ),
    (
        Code::TokenExpired,
        401,
        "`token_expired`: the access token has expired; refresh it.",
    ),
    (
        Code::Forbidden,
        403,
        "`forbidden`: the caller is authenticated but lacks the permission.",
    ),
    (
        Code::NotFound,
        404,
        "`not_found`: the resource does not exist, or the caller may not see it.",
    ),
    (
        Code::UnknownEvent,
        404,
        "`unknown_event`: no such event (sockets only).",
    ),
    (
        Code::Conflict,
        409,
        "`conflict`: the resource exists already, or its state does not allow the operation.",
    ),
    (
        Code::TooLarge,
        413,
        "`too_large`: larger than a limit; `errors` names the field.",
    ),
    (
        Code::Invalid,
        422,
        "`invalid`: a field is missing, too long or out of range; `errors` names it.",
    ),
    (
        Code::RateLimited,
        429,
        "`rate_limited`: too many requests; repeat the request after `retryAfterMs`.",
    ),
    (
        Code::Internal,
        500,
        "`internal`: a server error; `requestId` identifies it in the server's log.",
    ),
    (
        Code::Busy,
        503,
        "`busy`: overloaded, or a dependency is unavailable; repeat the request after `retryAfterMs`.",
    ),
];

/// Status and description for an unsupported media type; its code is `malformed`.
const MEDIA_TYPE_STATUS: u16 = 415;
const MEDIA_TYPE_MEANING: &str =
    "`malformed`: the `Content-Type` is not JSON; send `application/json`.";

/// The HTTP status of a code.
pub fn status(code: Code) -> StatusCode {
    CODES
        .iter()
        .find(|(known, ..)| *known == code)
        .and_then(|(_, status, _)| StatusCode::from_u16(*status).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The error response of every operation.
#[derive(Debug)]
pub struct Problem(pub Error);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem(error)
    }
}

impl From<Problem> for poem::Error {
    fn from(Problem(error): Problem) -> Self {
        let status = status(error.code);
        poem::Error::new(error, status)
    }
}

impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        let mut responses: Vec<MetaResponse> = Vec::new();
        // Codes of the same status are adjacent.
        for group in CODES.chunk_by(|a, b| a.1 == b.1) {
            let status = group[0].1;
            if status > MEDIA_TYPE_STATUS
                && responses
                    .last()
                    .is_some_and(|last| last.status < Some(MEDIA_TYPE_STATUS))
            {
                responses.push(response(MEDIA_TYPE_STATUS, MEDIA_TYPE_MEANING));
            }
            responses.push(response(status, describe(status)));
        }
        MetaResponses { responses }
    }

    fn register(registry: &mut Registry) {
        ProblemBody::register(registry);
    }
}

fn response(status: u16, description: &'static str) -> MetaResponse {
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType {
            content_type: MEDIA_TYPE,
            schema: ProblemBody::schema_ref(),
        }],
        headers: headers(status),
    }
}

/// The OpenAPI description of a status; several codes can share one. `poem_openapi` requires `'static` texts.
fn describe(status: u16) -> &'static str {
    match status {
        400 => concat!(
            "`malformed`: not JSON, not UTF-8, or a value of a wrong type. ",
            "`invalid`: a query parameter that the operation does not have, or that is given twice or with another that \
             excludes it; `errors` names it."
        ),
        401 => concat!(
            "`unauthorized`: no credentials, or invalid ones. ",
            "`token_expired`: the access token has expired; refresh it."
        ),
        404 => "`not_found`: the resource does not exist, or the caller may not see it.",
        _ => CODES
            .iter()
            .find(|(_, of, _)| *of == status)
            .map_or("", |(.., meaning)| meaning),
    }
}

fn headers(status: u16) -> Vec<MetaHeader> {
    let header = |name: &str, description: &str, schema| MetaHeader {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        required: false,
        deprecated: false,
        schema,
    };
    match status {
        401 => vec![header(
            "WWW-AUTHENTICATE",
            "RFC 6750.",
            String::schema_ref(),
        )],
        429 | 503 => vec![header(
            "RETRY-AFTER",
            "Whole seconds; `retryAfterMs` is more precise.",
            u32::schema_ref(),
        )],
        _ => Vec::new(),
    }
}

/// An error (RFC 9457).
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Problem")]
struct ProblemBody {
    /// Always `about:blank`; `code` identifies the error.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    kind: String,
    /// The reason phrase of the HTTP status.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request and how to correct it.
    detail: String,
    /// The stable error code.
    code: CodeName,
    /// Identifies this request in the server's log; also in the header `X-Request-Id`.
    request_id: String,
    /// When to repeat the same request, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    retry_after_ms: Option<u64>,
    /// The invalid fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[oai(skip_serializing_if_is_empty)]
    errors: Vec<RefusedField>,
    /// With `conflict` of `sendMessage`: the id of the message that was sent first with this `clientMsgId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    id: Option<uuid::Uuid>,
}

/// An invalid field.
#[derive(Serialize, Object)]
#[oai(rename = "RefusedField")]
struct RefusedField {
    /// The field's name in the request.
    field: String,
    /// The constraint that it violates.
    message: String,
}

impl From<&FieldError> for RefusedField {
    fn from(error: &FieldError) -> Self {
        RefusedField {
            field: error.field.clone(),
            message: error.message.clone(),
        }
    }
}

/// The error code's schema.
#[derive(Clone, Serialize)]
#[serde(transparent)]
struct CodeName(Code);

impl Type for CodeName {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "Code".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Reference("Code".to_owned())
    }

    fn register(registry: &mut Registry) {
        registry.create_schema::<Self, _>("Code".to_owned(), |_| MetaSchema {
            description: Some(
                "A stable code, the same as on sockets. The responses of each operation describe its meaning.",
            ),
            enum_items: CODES.iter().map(|(code, ..)| code.as_str().into()).collect(),
            ..MetaSchema::new("string")
        });
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl ParseFromJSON for CodeName {
    fn parse_from_json(value: Option<serde_json::Value>) -> ParseResult<Self> {
        serde_json::from_value(value.unwrap_or_default())
            .map(CodeName)
            .map_err(ParseError::custom)
    }
}

impl ToJSON for CodeName {
    fn to_json(&self) -> Option<serde_json::Value> {
        Some(self.0.as_str().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_status() {
        for (code, of, text) in CODES {
            assert_eq!(status(*code).as_u16(), *of);
            assert!(text.starts_with(&format!("`{code}`")), "{text}");
        }
    }
}
