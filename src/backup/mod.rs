//! Backups of a standalone node: `chat backup` and `chat restore`. A backup is one SQLite file: the database as of one
//! moment, with the table `backup` that also holds the secret of the data directory.

mod make;
mod partial;
mod restore;

use std::{io, path::Path};

pub use make::{Backup, make};
pub use restore::{Restored, restore};

use crate::error::Error;

/// The table that makes a database a backup. One row. `secret` is NULL if the directory has none (`auth.secret` is set).
const TABLE: &str = "backup";
const CREATE_TABLE: &str = "CREATE TABLE backup (only_row INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1), \
     at INTEGER NOT NULL, version TEXT NOT NULL, secret TEXT) STRICT";

/// `conflict` for a file that cannot be read or written.
fn cannot(what: &str, path: &Path, error: &io::Error) -> Error {
    Error::conflict(format!("cannot {what} {}: {error}", path.display()))
}
