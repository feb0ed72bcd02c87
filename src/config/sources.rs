//! The sources of settings. Only collects them: nothing is opened or parsed here.

use std::ffi::OsString;
use std::path::PathBuf;

/// The sources of settings besides the built-in ones, lowest layer first.
///
/// Has no `Debug`, since the environment holds secrets. `Sources::default()` has no sources, so a test depends on
/// nothing outside itself.
#[derive(Clone, Default)]
pub struct Sources {
    /// A settings file (`--config`). `None`: the one that `CHAT_CONFIG` names in `env` or `dotenv`, if any.
    pub file: Option<PathBuf>,
    /// A file of `NAME=value` lines. It may be absent.
    pub dotenv: Option<PathBuf>,
    /// The environment. Other programs' variables are ignored.
    pub env: Vec<(OsString, OsString)>,
    /// Command line flags: key, value, and the flag's name as the user wrote it.
    pub flags: Vec<(String, String, String)>,
}

impl Sources {
    /// This process's environment and the `.env` of its working directory.
    pub fn from_process() -> Self {
        Sources {
            dotenv: Some(PathBuf::from(".env")),
            env: std::env::vars_os().collect(),
            ..Self::default()
        }
    }

    /// Adds the file of `--config`, if that was given.
    pub fn with_file(mut self, file: Option<PathBuf>) -> Self {
        self.file = file;
        self
    }

    /// Adds variables, as if they stood in the environment.
    pub fn with_env<N: Into<OsString>, V: Into<OsString>>(
        mut self,
        vars: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.env.extend(
            vars.into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        self
    }

    /// Adds a flag: `.with_flag("edge.port", "3001", "--port")`.
    pub fn with_flag(mut self, key: &str, value: impl Into<String>, flag: &str) -> Self {
        self.flags
            .push((key.to_owned(), value.into(), flag.to_owned()));
        self
    }
}
