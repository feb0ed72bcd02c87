//! The error of this crate.

use std::{error::Error as StdError, fmt, time::Duration};

pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

#[derive(Debug)]
pub enum Error {
    /// An argument that cannot be used.
    Argument {
        argument: &'static str,
        problem: String,
    },
    /// The server refused a request.
    Refused {
        request: String,
        answer: String,
        /// How long the server asks to wait before the same request.
        retry_after: Option<Duration>,
    },
    /// A step of a benchmark failed: a connection, a file, a server.
    Failed { step: String, source: Source },
    /// The run was completed, and the judge found faults.
    Faults,
}

impl Error {
    pub(crate) fn argument(argument: &'static str, problem: impl Into<String>) -> Error {
        Error::Argument {
            argument,
            problem: problem.into(),
        }
    }

    /// The message with every cause behind it.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
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

/// A failure of `step`; `source` is an error or a text.
pub(crate) fn failed(step: impl Into<String>, source: impl Into<Source>) -> Error {
    Error::Failed {
        step: step.into(),
        source: source.into(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Argument { argument, problem } => write!(f, "{argument}: {problem}"),
            Error::Refused {
                request, answer, ..
            } => write!(f, "{request}: {answer}"),
            Error::Failed { step, source } => write!(f, "{step}: {source}"),
            Error::Faults => f.write_str("messages were lost, repeated or out of order"),
        }
    }
}

impl StdError for Error {
    /// The cause of `Failed`'s source, which `Display` shows already.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Failed { source, .. } => source.source(),
            _ => None,
        }
    }
}
