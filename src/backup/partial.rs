//! The file of a backup while it is written. Its directory may be writable by others: its name cannot be guessed, it is
//! always created and never opened by its name, and it is checked to be the same file before it is used by its name.

use std::{
    ffi::OsString,
    fs::{self, DirEntry, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use tracing::warn;
use uuid::Uuid;

use super::cannot;
use crate::error::{Error, Result};

const SUFFIX: &str = ".partial";

/// Removed when dropped.
pub struct Partial {
    path: PathBuf,
    /// Holds the lock by which another backup knows that it is in use.
    file: File,
}

impl Partial {
    /// Creates a file beside `target`, whose path is `target`, a random part and `.partial`. Those of interrupted backups
    /// are removed.
    ///
    /// # Errors
    /// `conflict` if the file cannot be created, or while another backup of this user writes one for the same target.
    pub fn create(target: &Path) -> Result<Partial> {
        let mut path = target.as_os_str().to_owned();
        path.push(format!(".{}{SUFFIX}", Uuid::new_v4().simple()));
        let path = PathBuf::from(path);
        let failed = |error: io::Error| cannot("write", &path, &error);
        let mut options = OpenOptions::new();
        // Fails if anything has the name, a symbolic link too.
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        let partial = Partial {
            path: path.clone(),
            file,
        };
        let locked = partial.file.try_lock().map_err(io::Error::from);
        locked.map_err(failed)?;
        partial.remove_others(target)?;
        Ok(partial)
    }

    /// Removes the files of interrupted backups into the same target.
    fn remove_others(&self, target: &Path) -> Result<()> {
        let directory = directory(target);
        let failed = |error: io::Error| cannot("read", directory, &error);
        let own = self.file.metadata().map_err(failed)?;
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !is_partial(&entry, target) {
                continue;
            }
            let path = entry.path();
            match Other::of(&path, own.uid(), own.ino()) {
                Ok(Other::Itself) => {}
                Ok(Other::InUse) => {
                    return Err(Error::conflict(format!(
                        "another `chat backup` is writing {}",
                        target.display()
                    )));
                }
                Ok(Other::Left) => {
                    // It may be gone by now.
                    let _ = fs::remove_file(&path);
                }
                Ok(Other::Foreign) => warn!(
                    "{} is not a file that this user wrote; it is left there",
                    path.display()
                ),
                Err(error) => warn!("{} is left there: {error}", path.display()),
            }
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn text(&self) -> sqlx::Result<&str> {
        let text = self.path.to_str();
        text.ok_or_else(|| sqlx::Error::Configuration("the name of the file is not UTF-8".into()))
    }

    pub fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Checks that the name still belongs to the file that was created.
    ///
    /// # Errors
    /// `conflict` if not.
    pub fn check(&self) -> Result<()> {
        match self.is_at(&self.path) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.replaced()),
            Err(error) => Err(cannot("write", &self.path, &error)),
        }
    }

    fn replaced(&self) -> Error {
        Error::conflict(format!(
            "{} was replaced by another file meanwhile; no backup was written",
            self.path.display()
        ))
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let (own, there) = (self.file.metadata()?, fs::symlink_metadata(path)?);
        Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
    }

    /// Gives the file its name once its content is on disk; returns its size. A file that has the name is replaced only
    /// with `force`.
    pub fn keep(self, target: &Path, force: bool) -> Result<u64> {
        let failed = |error: io::Error| cannot("write", target, &error);
        self.file.sync_all().map_err(failed)?;
        let bytes = self.file.metadata().map_err(failed)?.len();
        self.check()?;
        if !force && fs::symlink_metadata(target).is_ok() {
            return Err(Error::conflict(format!(
                "{} has been created meanwhile; choose another name, or replace it with --force",
                target.display()
            )));
        }
        fs::rename(&self.path, target).map_err(failed)?;
        if !self.is_at(target).map_err(failed)? {
            return Err(self.replaced());
        }
        let directory = File::open(directory(target)).map_err(failed)?;
        directory.sync_all().map_err(failed)?;
        Ok(bytes)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Another one, or missing if it was kept.
        if self.is_at(&self.path).unwrap_or_default() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn directory(target: &Path) -> &Path {
    let parent = target.parent();
    parent
        .filter(|parent| *parent != Path::new(""))
        .unwrap_or(Path::new("."))
}

/// Whether the entry has the name of a partial file for this target.
fn is_partial(entry: &DirEntry, target: &Path) -> bool {
    let mut prefix = target.file_name().map(OsString::from).unwrap_or_default();
    prefix.push(".");
    let name = entry.file_name();
    let random = name
        .as_encoded_bytes()
        .strip_prefix(prefix.as_encoded_bytes())
        .and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
    random.is_some_and(|random| random.len() == 32 && random.iter().all(u8::is_ascii_hexdigit))
}

/// A file that has the name of a partial file.
enum Other {
    Itself,
    InUse,
    Left,
    /// Not a regular file, or another user's.
    Foreign,
}

impl Other {
    fn of(path: &Path, uid: u32, itself: u64) -> io::Result<Other> {
        let found = fs::symlink_metadata(path)?;
        if !found.is_file() || found.uid() != uid {
            return Ok(Other::Foreign);
        }
        if found.ino() == itself {
            return Ok(Other::Itself);
        }
        // It may be another file by now.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags.bits().cast_signed());
        match options.open(path)?.try_lock() {
            Ok(()) => Ok(Other::Left),
            Err(fs::TryLockError::WouldBlock) => Ok(Other::InUse),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}
