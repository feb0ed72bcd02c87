//! The data directory of a standalone node: the database, the token secret and the lock file. Their modes are set to
//! owner-only, whatever the umask and whatever their modes were before.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{
    config::Secret,
    error::{Code, Error, Result},
};

/// For [`existing_database`], of commands with `--data`.
pub const NAME_IT_WITH_DATA: &str = "name the data directory of the server with --data";

/// File name of the database.
pub const DATABASE: &str = "chat.db";
const SECRET: &str = "secret";
const NEW_SECRET: &str = "secret.new";
const LOCK: &str = "lock";
/// Directory in which `chat restore` prepares the files. While it exists, the directory holds the files of neither
/// state for sure, and no server starts on it.
const RESTORING: &str = "restoring";
/// The start of the names of directories with the files that `chat restore --force` has replaced.
const REPLACED: &str = "before-restore-";
/// Suffixes of the files that SQLite keeps beside a database (sqlite.org/tempfiles.html).
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
/// Minimum secret length in bytes: the size of an HMAC-SHA-256 output (RFC 7518 section 3.2).
const MIN_SECRET: usize = 32;

const OWNER_FILE: u32 = 0o600;
const OWNER_DIR: u32 = 0o700;
/// Permission bits of the group and of others.
const OTHERS: u32 = 0o077;

/// Creates the directory if missing and locks it against other processes until the returned file is closed.
///
/// # Errors
/// `conflict` if the directory cannot be used, another process holds the lock, or a restore was interrupted.
pub fn lock(data: &Path) -> Result<File> {
    let file = lock_to_restore(data)?;
    if restoring(data).exists() {
        return Err(Error::conflict(format!(
            "a restore into {} was interrupted: run `chat restore` again with --force. It moves what was there before \
             into a directory whose name begins with {REPLACED}",
            data.display()
        )));
    }
    Ok(file)
}

/// Where a restore prepares its files.
pub fn restoring(data: &Path) -> PathBuf {
    data.join(RESTORING)
}

/// Where a restore moves the files that it replaces. `at` is part of the name.
pub fn replaced(data: &Path, at: &str) -> PathBuf {
    data.join(format!("{REPLACED}{at}"))
}

/// The files of the data: the database, the files that SQLite keeps beside it, and the secret. Not all of them exist.
pub fn files(data: &Path) -> Vec<PathBuf> {
    let beside = BESIDE.map(|suffix| data.join(format!("{DATABASE}{suffix}")));
    let mut files = vec![data.join(DATABASE), data.join(SECRET)];
    files.extend(beside);
    files
}

/// As [`lock`], also after an interrupted restore.
///
/// # Errors
/// `conflict` if the directory cannot be used or another process holds the lock.
pub fn lock_to_restore(data: &Path) -> Result<File> {
    let shown = data.display();
    let failed = |error: io::Error| {
        Error::new(
            Code::Conflict,
            format!("cannot use the data directory {shown}: {error}"),
        )
    };
    prepare(data).map_err(failed)?;
    let path = data.join(LOCK);
    owner_only(&path).map_err(failed)?;
    let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::new(
            Code::Conflict,
            format!(
                "another chat process uses the data directory {shown}; stop it, or choose another with --data"
            ),
        )),
        Err(fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Whether a server uses the directory.
pub fn is_in_use(data: &Path) -> bool {
    let file = File::open(data.join(LOCK));
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
}

/// Restricts the directory to its owner, unless it holds other files too (a home directory, for example).
fn prepare(data: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(OWNER_DIR).create(data)?;
    let mode = fs::metadata(data)?.permissions().mode();
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let ours = |name: &str| {
        [SECRET, NEW_SECRET, LOCK, RESTORING].contains(&name)
            || name.starts_with(DATABASE)
            || name.starts_with(REPLACED)
    };
    let mut entries = fs::read_dir(data)?;
    let all_ours =
        entries.all(|entry| entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(ours)));
    if all_ours && fs::set_permissions(data, fs::Permissions::from_mode(OWNER_DIR)).is_ok() {
        return Ok(());
    }
    tracing::warn!(
        directory = %data.display(),
        mode = format!("{:o}", mode & 0o777),
        "the data directory is accessible to other users; its files are owner-only. Restrict it with chmod 700"
    );
    Ok(())
}

/// The path of the directory's database.
///
/// # Errors
/// `not_found` without one; `advice` says how the directory is named.
pub fn existing_database(data: &Path, advice: &str) -> Result<PathBuf> {
    let file = data.join(DATABASE);
    if file.exists() {
        return Ok(file);
    }
    Err(Error::new(
        Code::NotFound,
        format!("there is no database {}; {advice}", file.display()),
    ))
}

/// Creates the database file if missing. SQLite gives its companion files the same mode.
///
/// # Errors
/// If the file cannot be created or its mode cannot be changed.
pub fn database_file(file: &Path) -> io::Result<()> {
    owner_only(file)?;
    for suffix in BESIDE {
        let mut beside = file.as_os_str().to_owned();
        beside.push(suffix);
        match tighten(Path::new(&beside)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Creates an empty file if missing, and restricts it to its owner.
fn owner_only(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    match options
        .write(true)
        .create_new(true)
        .mode(OWNER_FILE)
        .open(path)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        // The umask may have removed bits of the owner as well.
        _ => tighten(path),
    }
}

/// Sets mode 0600. A failure is ignored if group and others have no rights anyway (a file of another owner).
fn tighten(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o777 == OWNER_FILE {
        return Ok(());
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(OWNER_FILE)) {
        Err(_) if mode & OTHERS == 0 => Ok(()),
        result => result,
    }
}

/// The directory's token secret, created at the first start. Call it with the directory locked.
///
/// # Errors
/// `invalid`, with advice, for an existing secret that is unusable. It is never replaced, since that would end every
/// session.
pub fn secret(data: &Path) -> Result<Secret> {
    let Some(secret) = existing_secret(data)? else {
        return make(data).map_err(|error| unusable(data, format!("cannot be written: {error}")));
    };
    tighten(&data.join(SECRET))
        .map_err(|error| unusable(data, format!("its mode cannot be changed: {error}")))?;
    Ok(secret)
}

/// The directory's token secret, if it has one. Changes nothing.
///
/// # Errors
/// `invalid`, with advice, for an existing secret that is unusable.
pub fn existing_secret(data: &Path) -> Result<Option<Secret>> {
    match fs::read_to_string(data.join(SECRET)) {
        Ok(text) if text.trim().len() >= MIN_SECRET => Ok(Some(Secret::new(text.trim()))),
        Ok(text) => {
            let length = text.trim().len();
            let why = format!("is only {length} bytes long; it needs {MIN_SECRET}");
            Err(unusable(data, why))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(data, format!("cannot be read: {error}"))),
    }
}

fn unusable(data: &Path, why: String) -> Error {
    Error::new(
        Code::Invalid,
        format!(
            "{} holds the secret that signs the tokens, and {why}. Put the secret back from a backup, or delete the file \
             to have a new one made (every session ends then), or set auth.secret",
            data.join(SECRET).display()
        ),
    )
}

fn make(data: &Path) -> io::Result<Secret> {
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let secret = Secret::new(secret);
    write_secret(data, &secret)?;
    Ok(secret)
}

/// Writes the directory's secret atomically: a crash leaves either the whole file or none.
///
/// # Errors
/// If the file cannot be written.
pub fn write_secret(data: &Path, secret: &Secret) -> io::Result<()> {
    let new = data.join(NEW_SECRET);
    // Left by an interrupted start.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(OWNER_FILE)
        .open(&new)?;
    file.set_permissions(fs::Permissions::from_mode(OWNER_FILE))?;
    file.write_all(secret.expose().as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, data.join(SECRET))?;
    File::open(data)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> std::path::PathBuf {
        std::env::temp_dir().join(format!("chat_test_{}", Uuid::new_v4().simple()))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_and_its_files_are_closed_and_closed_again() {
        let data = directory().join("below");
        let file = data.join(DATABASE);
        for _ in 0..2 {
            let held = lock(&data).unwrap();
            assert_eq!(lock(&data).unwrap_err().code, Code::Conflict);
            database_file(&file).unwrap();
            let kept = secret(&data).unwrap();
            assert_eq!(kept, secret(&data).unwrap());
            assert_eq!(mode(&data), OWNER_DIR);
            for name in [LOCK, SECRET, DATABASE] {
                assert_eq!(mode(&data.join(name)), OWNER_FILE, "{name}");
            }
            // As an earlier version left the files.
            fs::write(data.join("chat.db-wal"), "").unwrap();
            chmod(&data, 0o755);
            for name in [LOCK, SECRET, DATABASE, "chat.db-wal"] {
                chmod(&data.join(name), 0o644);
            }
            drop(held);
        }
        database_file(&file).unwrap();
        assert_eq!(mode(&data.join("chat.db-wal")), OWNER_FILE);
        fs::remove_dir_all(data.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_directory_with_other_things_in_it_keeps_its_mode() {
        let data = directory();
        fs::create_dir(&data).unwrap();
        chmod(&data, 0o755);
        fs::write(data.join("README"), "").unwrap();
        drop(lock(&data).unwrap());
        assert_eq!(mode(&data), 0o755);
        assert_eq!(mode(&data.join(LOCK)), OWNER_FILE);
        fs::remove_dir_all(&data).unwrap();
    }

    #[test]
    fn a_secret_that_is_no_good_is_never_replaced() {
        let data = directory();
        let _held = lock(&data).unwrap();
        let path = data.join(SECRET);
        for bad in [&b""[..], b"\n", &[b'x'; MIN_SECRET - 1], &[0xff; 64]] {
            fs::write(&path, bad).unwrap();
            let error = secret(&data).unwrap_err();
            assert_eq!(error.code, Code::Invalid);
            assert!(error.message.contains("auth.secret"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
        fs::write(&path, [b'x'; MIN_SECRET]).unwrap();
        assert_eq!(secret(&data).unwrap().expose(), "x".repeat(MIN_SECRET));
        // A directory at the secret's path cannot be read.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(secret(&data).unwrap_err().code, Code::Invalid);
        fs::remove_dir(&path).unwrap();
        // The temporary file of an interrupted start is not used as the secret.
        fs::write(data.join(NEW_SECRET), "half").unwrap();
        assert_eq!(secret(&data).unwrap().expose().len(), 64);
        assert!(!data.join(NEW_SECRET).exists());
        fs::remove_dir_all(&data).unwrap();
    }
}
