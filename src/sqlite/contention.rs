//! Another process holds the write lock of the database file: since when, and whether that was logged. Logged once when
//! writes begin to be refused, and once when the lock is free again, not per refused write.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{info, warn};

/// An attempt that finds the file locked this long after the last one begins a new episode: the lock may have been free
/// in between.
const NEW_CONTENTION_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Contention {
    file: PathBuf,
    episode: Mutex<Option<Episode>>,
}

#[derive(Debug)]
struct Episode {
    since: Instant,
    last: Instant,
    logged: bool,
}

impl Contention {
    pub fn new(file: &Path) -> Contention {
        Contention {
            file: file.to_owned(),
            episode: Mutex::default(),
        }
    }

    /// The file is locked: returns for how long it has been.
    pub fn locked_for(&self) -> Duration {
        self.locked_at(Instant::now())
    }

    fn locked_at(&self, now: Instant) -> Duration {
        let mut episode = self.episode.lock();
        let current = episode.get_or_insert(Episode {
            since: now,
            last: now,
            logged: false,
        });
        if now.duration_since(current.last) > NEW_CONTENTION_AFTER {
            current.since = now;
        }
        current.last = now;
        now.duration_since(current.since)
    }

    /// A write is refused because of it.
    pub fn report(&self) {
        let first = (self.episode.lock().as_mut())
            .is_some_and(|episode| !std::mem::replace(&mut episode.logged, true));
        if first {
            warn!(
                file = %self.file.display(),
                "another process holds the write lock of the database file; writes are answered busy until it ends. \
                 Find it with `fuser` or `lsof` and the file's name. Backups with VACUUM INTO or the backup API of \
                 SQLite do not need this lock"
            );
        }
    }

    /// The file is not locked.
    pub fn ended(&self) {
        let ended = self.episode.lock().take();
        if let Some(Episode {
            since,
            logged: true,
            ..
        }) = ended
        {
            let seconds = since.elapsed().as_secs_f64();
            info!(
                file = %self.file.display(),
                seconds,
                "no other process holds the write lock of the database file any more"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_ends_with_a_success_or_after_a_pause() {
        let contention = Contention::new(Path::new("chat.db"));
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(contention.locked_at(start), Duration::ZERO);
        assert_eq!(contention.locked_at(after(2)), Duration::from_secs(2));
        assert_eq!(contention.locked_at(after(6)), Duration::from_secs(6));
        assert_eq!(contention.locked_at(after(20)), Duration::ZERO);
        assert_eq!(contention.locked_at(after(21)), Duration::from_secs(1));
        contention.ended();
        assert_eq!(contention.locked_at(after(22)), Duration::ZERO);
    }

    #[test]
    fn an_episode_is_reported_once() {
        let contention = Contention::new(Path::new("chat.db"));
        let logged = || (contention.episode.lock().as_ref()).is_some_and(|episode| episode.logged);
        contention.report();
        assert!(!logged(), "nothing to report");
        contention.locked_for();
        contention.report();
        assert!(logged());
        contention.ended();
        contention.locked_for();
        assert!(!logged());
    }
}
