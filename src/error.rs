//! The crate's error type, as callers see it: a stable code, a message with advice, and whether a retry can succeed.
//! Independent of HTTP and WebSocket; the edge maps codes to statuses and close codes.

use std::{error::Error as StdError, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// Stable error codes, the same in REST problems, socket acks and `sendFailed` events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request does not parse: invalid JSON, invalid UTF-8 or a wrong type.
    Malformed,
    /// The request parses, but a field is missing, too long or out of range.
    Invalid,
    /// The event name is unknown.
    UnknownEvent,
    /// Credentials are missing or invalid.
    Unauthorized,
    /// The access token has expired; refresh it.
    TokenExpired,
    /// The caller is authenticated but lacks the right.
    Forbidden,
    /// The resource does not exist, or the caller may not know that it does.
    NotFound,
    /// The resource exists already, or its state does not allow the operation.
    Conflict,
    /// The request exceeds a size limit.
    TooLarge,
    /// This caller exceeded its rate limit; other callers are not affected.
    RateLimited,
    /// The service is overloaded or a dependency is unavailable; retry the same request later.
    Busy,
    /// A bug or a failure of the server.
    Internal,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Malformed => "malformed",
            Code::Invalid => "invalid",
            Code::UnknownEvent => "unknown_event",
            Code::Unauthorized => "unauthorized",
            Code::TokenExpired => "token_expired",
            Code::Forbidden => "forbidden",
            Code::NotFound => "not_found",
            Code::Conflict => "conflict",
            Code::TooLarge => "too_large",
            Code::RateLimited => "rate_limited",
            Code::Busy => "busy",
            Code::Internal => "internal",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One rejected field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FieldError {
    /// The path of the field, such as `inner[1].count`.
    pub field: String,
    /// What is wrong with it, or which values are allowed.
    pub message: String,
}

/// The text of an internal error for clients of the API.
const INTERNAL: &str = "something went wrong on our side; the request id helps us find it";

/// The end of the text of an unavailable dependency for clients of the API.
const UNAVAILABLE: &str = " is not available just now; try again";

/// The crate's error. `source` is logged once, at the boundary, and never sent to clients.
#[derive(Debug)]
pub struct Error {
    pub code: Code,
    pub message: String,
    /// The delay after which the same request may be retried.
    pub retry_after: Option<Duration>,
    pub fields: Vec<FieldError>,
    /// The resource that a `conflict` is with.
    pub id: Option<Uuid>,
    /// The server that failed: `database`, `queue`, `cache`; none if it was no server's failure.
    pub dependency: Option<&'static str>,
    pub(crate) source: Option<Source>,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error {
            code,
            message: message.into(),
            retry_after: None,
            fields: Vec::new(),
            id: None,
            dependency: None,
            source: None,
        }
    }

    /// `invalid` for one field; `message` states the allowed values.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Error {
            fields: vec![FieldError {
                field: field.to_owned(),
                message: message.clone(),
            }],
            ..Error::new(Code::Invalid, format!("{field}: {message}"))
        }
    }

    pub fn malformed(message: impl Into<String>) -> Self {
        Error::new(Code::Malformed, message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        Error::new(Code::Unauthorized, message)
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Error::new(Code::Forbidden, message)
    }

    pub fn not_found(what: &str) -> Self {
        Error::new(
            Code::NotFound,
            format!("there is no such {what}, or you may not see it"),
        )
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Error::new(Code::Conflict, message)
    }

    /// `busy`: the request is rejected at once and may be retried after `retry_after`.
    pub fn busy(message: impl Into<String>, retry_after: Duration) -> Self {
        Error {
            retry_after: Some(retry_after),
            ..Error::new(Code::Busy, message)
        }
    }

    /// `busy`: the dependency named by `what` failed; a retry may succeed.
    pub fn unavailable(what: &'static str, source: impl Into<Source>) -> Self {
        Error {
            dependency: Some(what),
            retry_after: Some(Duration::from_secs(1)),
            source: Some(source.into()),
            ..Error::new(Code::Busy, format!("the {what}{UNAVAILABLE}"))
        }
    }

    /// `internal`: a failure of the server that a retry does not fix.
    pub fn internal(source: impl Into<Source>) -> Self {
        Error {
            source: Some(source.into()),
            ..Error::new(Code::Internal, INTERNAL)
        }
    }

    /// The error for the output of a command, whose reader may see everything: [`Error::chain`] without the advice for
    /// clients of the API.
    pub fn for_operator(&self) -> String {
        let reason = self.reason();
        match self.message.strip_suffix(UNAVAILABLE) {
            Some(what) if self.source.is_some() => format!("{what} is not available: {reason}"),
            _ => reason,
        }
    }

    /// The same where the text around it names the server already: the causes alone, if the message is one for
    /// clients of the API.
    pub fn reason(&self) -> String {
        let chain = self.chain();
        let for_clients = self.message == INTERNAL || self.message.ends_with(UNAVAILABLE);
        let causes = chain[self.message.len()..].trim_start_matches(": ");
        let shown = if for_clients && !causes.is_empty() {
            causes
        } else {
            &chain
        };
        shown.to_owned()
    }

    /// A copy for another request of the same failed batch. The source chain is copied as text, since sources cannot be
    /// cloned.
    pub fn shared(&self) -> Self {
        let chain = self.chain();
        let causes = chain[self.message.len()..].trim_start_matches(": ");
        Error {
            code: self.code,
            message: self.message.clone(),
            retry_after: self.retry_after,
            fields: self.fields.clone(),
            id: self.id,
            dependency: self.dependency,
            source: (!causes.is_empty()).then(|| causes.into()),
        }
    }

    pub fn retry_after_ms(&self) -> Option<u64> {
        self.retry_after.map(|d| d.as_millis() as u64)
    }

    /// Whether the unchanged request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.code, Code::Busy | Code::RateLimited)
    }

    /// The message followed by its source chain, for log lines.
    pub fn chain(&self) -> String {
        with_causes(self.message.clone(), self.source())
    }
}

/// The text of any error, followed by its source chain.
pub fn chain_of(error: &dyn StdError) -> String {
    with_causes(error.to_string(), error.source())
}

fn with_causes(mut text: String, mut next: Option<&dyn StdError>) -> String {
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        let cause_text = without_line(&cause_text);
        // Many errors include their cause in their own text.
        if !text.ends_with(cause_text) {
            text.push_str(": ");
            text.push_str(cause_text);
        }
        next = cause.source();
    }
    text
}

/// Without the line of PostgreSQL's source that sqlx adds to its errors: `… does not exist at line 948`.
fn without_line(text: &str) -> &str {
    match text.rsplit_once(" at line ") {
        Some((text, line)) if line.bytes().all(|byte| byte.is_ascii_digit()) => text,
        _ => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|s| s as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_read_causes_instead_of_advice_for_clients() {
        let refused = || std::io::Error::other("role \"x\" does not exist at line 948");
        let unavailable = Error::unavailable("database", refused());
        assert_eq!(unavailable.reason(), "role \"x\" does not exist");
        assert_eq!(
            unavailable.for_operator(),
            "the database is not available: role \"x\" does not exist"
        );
        let internal = Error::internal(refused());
        assert_eq!(internal.for_operator(), "role \"x\" does not exist");
        let own = Error::conflict("the file exists");
        assert_eq!(own.for_operator(), "the file exists");
    }
}
