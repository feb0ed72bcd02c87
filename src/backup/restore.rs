//! `chat restore`: puts a backup into a data directory. The backup is copied, checked and updated beside the present
//! files, which are moved aside only then.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::Serialize;
use sqlx::{AssertSqlSafe, Row as _};

use super::{CREATE_TABLE, TABLE, cannot};
use crate::{
    config::Secret,
    data_dir,
    error::{Code, Error, Result},
    model::Timestamp,
    output::Progress,
    sqlite::{Database, failure, schema, snapshot},
};

/// Bytes copied between two looks at the clock.
const CHUNK: usize = 1 << 20;

/// A backup that was restored.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    pub data: PathBuf,
    /// The time of the backup.
    pub at: Timestamp,
    /// The version of the program that made it.
    pub version: String,
    /// Whether the backup had the secret that signs the tokens. Without it, logins end unless `auth.secret` is set as it
    /// was.
    pub with_secret: bool,
    /// The directory with the files that were there before.
    pub replaced: Option<PathBuf>,
}

/// The row in the table of a backup.
struct Mark {
    at: Timestamp,
    version: String,
    secret: Option<Secret>,
}

/// Restores `file` into the directory `data`, which is created if missing. The store gets a new epoch: clients that were
/// ahead of the backup get `reset` when they resume.
///
/// # Errors
/// `conflict` if a server runs on the directory, if it has data and `force` is not set, or if the backup is damaged or
/// of a newer version; `invalid` for a file that is no backup. The directory is as before then.
pub async fn restore(file: &Path, data: &Path, force: bool) -> Result<Restored> {
    let backup = File::open(file).map_err(|e| cannot("read", file, &e))?;
    let _lock = data_dir::lock_to_restore(data)?;
    let staging = Staging::of(data);
    let has_data = data_dir::files(data).iter().any(|file| file.exists());
    if !force && (has_data || staging.is_interrupted()) {
        return Err(Error::conflict(format!(
            "{} has data already; --force moves it aside",
            data.display()
        )));
    }
    staging.begin().map_err(|e| cannot("use", data, &e))?;
    let mark = prepare(backup, file, &staging).await?;
    let replaced = staging
        .finish()
        .map_err(|e| cannot("replace the files in", data, &e))?;
    Ok(Restored {
        data: data.to_owned(),
        at: mark.at,
        version: mark.version,
        with_secret: mark.secret.is_some(),
        replaced,
    })
}

/// Copies the backup and makes it ready for a server.
async fn prepare(backup: File, file: &Path, staging: &Staging) -> Result<Mark> {
    let database = staging.new.join(data_dir::DATABASE);
    let mut progress = Progress::new();
    copy(backup, &database, &mut progress)
        .map_err(|error| cannot("copy the backup to", &database, &error))?;
    progress.step("checking the backup");
    let mark = check(&database, file).await?;
    progress.step("bringing the schema up to date");
    let opened = Database::open(&database).await.map_err(|error| Error {
        message: error
            .message
            .replace(&database.display().to_string(), &file.display().to_string()),
        ..error
    })?;
    let result = renew(&opened).await;
    // Checkpoints and deletes the write-ahead log.
    opened.close().await;
    result?;
    if let Some(secret) = &mark.secret {
        data_dir::write_secret(&staging.new, secret)
            .map_err(|error| cannot("write the secret to", &staging.new, &error))?;
    }
    Ok(mark)
}

/// In the calling thread: the program does nothing else.
fn copy(mut from: File, to: &Path, progress: &mut Progress) -> io::Result<()> {
    let total = from.metadata()?.len();
    let mut options = OpenOptions::new();
    let mut to = options.write(true).create_new(true).mode(0o600).open(to)?;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return to.sync_all();
        }
        to.write_all(&buffer[..count])?;
        done += count as u64;
        progress.show("copying the backup", done >> 20, total >> 20, "MiB");
    }
}

/// Reads the table of the backup and checks the whole file.
async fn check(database: &Path, file: &Path) -> Result<Mark> {
    let shown = file.display();
    let no_backup = |why: &str| {
        Error::new(
            Code::Invalid,
            format!("{shown} is no backup that `chat backup` wrote: {why}"),
        )
    };
    let damaged = |why: String| Error::conflict(format!("{shown} is damaged: {why}"));
    let unreadable = |error: sqlx::Error| {
        if snapshot::is_no_database(&error) {
            no_backup(&error.to_string())
        } else {
            damaged(error.to_string())
        }
    };
    let opened = snapshot::open_for_reading(database).await;
    let mut copy = opened.map_err(unreadable)?;
    let found = async {
        let is_marked = snapshot::has_table(&mut copy, TABLE).await;
        if !is_marked.map_err(unreadable)? {
            return Err(no_backup(&format!("it has no table `{TABLE}`")));
        }
        // Before anything else is read or run.
        let foreign = schema::difference(&mut copy, &[CREATE_TABLE]).await;
        if let Some(foreign) = foreign.map_err(|error| damaged(error.to_string()))? {
            return Err(no_backup(&foreign));
        }
        let fault = snapshot::fault(&mut copy).await;
        if let Some(fault) = fault.map_err(|error| damaged(error.to_string()))? {
            return Err(damaged(fault));
        }
        let select = format!("SELECT at, version, secret FROM {TABLE}");
        let row = sqlx::query(AssertSqlSafe(select))
            .fetch_one(&mut copy)
            .await;
        let mark = row.and_then(|row| {
            Ok(Mark {
                at: Timestamp::from_millis(row.try_get("at")?),
                version: row.try_get("version")?,
                secret: row.try_get::<Option<String>, _>("secret")?.map(Secret::new),
            })
        });
        mark.map_err(|error| damaged(error.to_string()))
    };
    let found = found.await;
    snapshot::close(copy).await;
    found
}

/// Begins a new epoch and removes the table of the backup, which holds the secret.
async fn renew(database: &Database) -> Result<()> {
    let drop = format!("DROP TABLE {TABLE}");
    let mut transaction = database.write().await?;
    for statement in [
        "PRAGMA secure_delete = ON",
        "UPDATE store_epoch SET epoch = randomblob(16), since = CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        &drop,
    ] {
        sqlx::query(AssertSqlSafe(statement.to_owned()))
            .execute(&mut *transaction)
            .await
            .map_err(failure)?;
    }
    transaction.commit().await.map_err(failure)
}

/// The directory of a restore under way. It holds the new files and, in the end, those that were there before. Renames
/// within the data directory also work where that is a mount point. When dropped, it is removed, unless a restore was
/// interrupted after it had moved files.
struct Staging {
    data: PathBuf,
    root: PathBuf,
    new: PathBuf,
    old: PathBuf,
}

impl Staging {
    fn of(data: &Path) -> Staging {
        let root = data_dir::restoring(data);
        Staging {
            data: data.to_owned(),
            new: root.join("new"),
            old: root.join("old"),
            root,
        }
    }

    /// Whether an earlier restore did not end.
    fn is_interrupted(&self) -> bool {
        self.root.exists()
    }

    fn begin(&self) -> io::Result<()> {
        if self.new.exists() {
            fs::remove_dir_all(&self.new)?;
        }
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.new)?;
        builder.create(&self.old)?;
        File::open(&self.data)?.sync_all()
    }

    /// Moves the present files aside and the new ones to their places. Returns the directory of the former.
    fn finish(self) -> io::Result<Option<PathBuf>> {
        for file in data_dir::files(&self.data) {
            let Some(name) = file.file_name().filter(|_| file.exists()) else {
                continue;
            };
            let old = self.old.join(name);
            if old.exists() {
                // A new file, moved here by a restore that was interrupted after this.
                fs::remove_file(&file)?;
            } else {
                fs::rename(&file, old)?;
            }
        }
        File::open(&self.old)?.sync_all()?;
        for entry in fs::read_dir(&self.new)? {
            let entry = entry?;
            fs::rename(entry.path(), self.data.join(entry.file_name()))?;
        }
        File::open(&self.data)?.sync_all()?;
        fs::remove_dir(&self.new)?;
        let replaced = if fs::remove_dir(&self.old).is_ok() {
            None
        } else {
            let at = Timestamp::now().to_string().replace(':', "-");
            let replaced = data_dir::replaced(&self.data, &at);
            fs::rename(&self.old, &replaced)?;
            Some(replaced)
        };
        fs::remove_dir(&self.root)?;
        File::open(&self.data)?.sync_all()?;
        Ok(replaced)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.new);
        // Fails if it is not empty.
        if fs::remove_dir(&self.old).is_ok() {
            let _ = fs::remove_dir(&self.root);
        }
    }
}
