//! What can go wrong, as the caller sees it: a stable code, a sentence that says what to do, and whether
//! trying again helps. Knows neither HTTP nor WebSocket; the edge maps codes to statuses and close codes.

use std::{error::Error as StdError, fmt, time::Duration};

use serde::{Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// The stable codes, the same in REST problems, socket acks and `sendFailed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is not what the protocol describes: not JSON, not UTF-8, a wrong type.
    Malformed,
    /// Well-formed, but a field is missing, too long or out of range.
    Invalid,
    /// An event name nobody knows.
    UnknownEvent,
    /// No credentials, or they do not hold.
    Unauthorized,
    /// The access token was good once; refresh it.
    TokenExpired,
    /// Who you are is known, and you may not.
    Forbidden,
    /// There is no such thing, or it is not yours to know of.
    NotFound,
    /// It exists already, or its state does not allow this.
    Conflict,
    /// Larger than a limit.
    TooLarge,
    /// This caller sends too much; others are not affected.
    RateLimited,
    /// The service is at its limit or a part of it is away; the same request will work later.
    Busy,
    /// A bug or a failure on our side.
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

/// One field that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FieldError {
    pub field: String,
    pub message: String,
}

/// The crate's error. `source` stays on our side: it is logged once, at the boundary, and never sent.
#[derive(Debug)]
pub struct Error {
    pub code: Code,
    pub message: String,
    /// When the same request is worth another try.
    pub retry_after: Option<Duration>,
    pub fields: Vec<FieldError>,
    pub(crate) source: Option<Source>,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error {
            code,
            message: message.into(),
            retry_after: None,
            fields: Vec::new(),
            source: None,
        }
    }

    /// One field is wrong: `message` says what is allowed.
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

    /// Answer at once, come back later.
    pub fn busy(message: impl Into<String>, retry_after: Duration) -> Self {
        Error {
            retry_after: Some(retry_after),
            ..Error::new(Code::Busy, message)
        }
    }

    /// A part we depend on (`what`) did not do its work; trying again may help.
    pub fn unavailable(what: &str, source: impl Into<Source>) -> Self {
        Error {
            retry_after: Some(Duration::from_secs(1)),
            source: Some(source.into()),
            ..Error::new(
                Code::Busy,
                format!("the {what} is not available just now; try again"),
            )
        }
    }

    /// Our own fault; trying the same again will not help.
    pub fn internal(source: impl Into<Source>) -> Self {
        Error {
            source: Some(source.into()),
            ..Error::new(
                Code::Internal,
                "something went wrong on our side; the request id helps us find it",
            )
        }
    }

    /// The same for one more of several whose work failed together; its causes are told as text.
    pub fn shared(&self) -> Self {
        let chain = self.chain();
        let causes = chain[self.message.len()..].trim_start_matches(": ");
        Error {
            code: self.code,
            message: self.message.clone(),
            retry_after: self.retry_after,
            fields: self.fields.clone(),
            source: (!causes.is_empty()).then(|| causes.into()),
        }
    }

    pub fn retry_after_ms(&self) -> Option<u64> {
        self.retry_after.map(|d| d.as_millis() as u64)
    }

    /// Whether the same thing may succeed later, unchanged.
    pub fn is_retryable(&self) -> bool {
        matches!(self.code, Code::Busy | Code::RateLimited)
    }

    /// The message with every cause behind it, for a log line.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next: Option<&dyn StdError> = self.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            // Many errors show their cause themselves.
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        text
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
