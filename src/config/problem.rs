//! Problems of the settings, with the source of each value. Must never hold a value that may be secret.

use std::fmt;
use std::path::PathBuf;

/// The layer a value came from, as shown to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The built-in `config.toml`.
    Default,
    /// A settings file. `line` counts from 1.
    File {
        /// As it was given on the command line or in `CHAT_CONFIG`.
        path: PathBuf,
        /// Where the key stands; `None` if the file as a whole is meant.
        line: Option<usize>,
    },
    /// A variable of this name in the `.env` file; an empty name means the file as a whole.
    DotEnv(String),
    /// An environment variable of this name.
    Env(String),
    /// A command line flag, written as the user writes it: `--port`.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::File {
                path,
                line: Some(line),
            } => write!(f, "{}:{line}", path.display()),
            Source::File { path, line: None } => write!(f, "{}", path.display()),
            Source::DotEnv(name) if name.is_empty() => write!(f, ".env"),
            Source::DotEnv(name) => write!(f, "{name} in .env"),
            Source::Env(name) | Source::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// One problem to correct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, as in `config.toml` with its section: `edge.port`. Empty if a file as a whole is meant.
    pub key: String,
    /// Where the value came from.
    pub source: Source,
    /// The problem. Shows the value unless the key is secret or unknown.
    pub message: String,
    /// The valid values, in words; empty if the message is enough.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.message)?;
        if !self.allowed.is_empty() {
            write!(f, "; allowed: {}", self.allowed)?;
        }
        write!(f, "   [from {}]", self.source)
    }
}

/// Everything that is wrong with the settings, never empty. Displays one problem a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
