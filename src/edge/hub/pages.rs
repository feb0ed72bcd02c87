//! The newest page of a room's history as REST answers it, kept while the room is read often: a page that a thousand
//! clients ask for is read and written down once. Any event of the room ends it, and so does a short time: what the
//! bus lost, and what is no event of the room (a name that changed), is seen after that.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Hub, room::State};
use crate::{
    error::Result,
    model::{RoomId, UserId},
};

/// How long a page may be told although no event of the room came.
const MAX_AGE: Duration = Duration::from_secs(3);
/// What all rooms' pages may take, in bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that all rooms' pages take.
pub(super) type Taken = Arc<AtomicUsize>;

/// One room's pages.
pub(super) struct Pages {
    /// Goes up whenever what was read before may not be true any more.
    version: u64,
    since: Instant,
    /// Who was a member when the version began, or has been found to be one since.
    readers: HashSet<UserId>,
    /// By the limit that was asked for.
    pages: Vec<(u32, Bytes)>,
    taken: Taken,
}

impl Pages {
    pub fn new(taken: Taken) -> Self {
        Pages {
            version: 0,
            since: Instant::now(),
            readers: HashSet::new(),
            pages: Vec::new(),
            taken,
        }
    }

    /// The room has changed.
    pub fn end(&mut self) {
        self.version += 1;
        self.since = Instant::now();
        self.readers = HashSet::new();
        let bytes = self.pages.drain(..).map(|(_, page)| page.len()).sum();
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether anyone has read here of late.
    pub fn is_read(&self) -> bool {
        !self.pages.is_empty() && self.since.elapsed() < MAX_AGE
    }

    fn version(&mut self) -> u64 {
        if self.since.elapsed() >= MAX_AGE {
            self.end();
        }
        self.version
    }

    fn find(&self, limit: u32) -> Option<Bytes> {
        let mut pages = self.pages.iter();
        pages
            .find(|(of, _)| *of == limit)
            .map(|(_, page)| page.clone())
    }

    fn keep(&mut self, limit: u32, page: &Bytes) {
        if self.taken.fetch_add(page.len(), Ordering::Relaxed) + page.len() > MAX_BYTES {
            self.taken.fetch_sub(page.len(), Ordering::Relaxed);
        } else {
            self.pages.push((limit, page.clone()));
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    /// Whether everything that is known to exist has been seen.
    fn is_whole(&self) -> bool {
        self.last >= 0 && self.last == self.target && self.ahead.is_empty() && !self.repairing
    }
}

impl Hub {
    /// The newest page of `limit` messages, if one is kept that `user` may see.
    pub fn page(&self, room: RoomId, user: UserId, limit: u32) -> Option<Bytes> {
        if self.bus_lost.load(Ordering::Relaxed) {
            return None;
        }
        let room = self.find(room)?;
        let mut state = room.lock();
        let whole = state.is_whole();
        state.pages.version();
        let known = whole && state.pages.readers.contains(&user);
        known.then(|| state.pages.find(limit)).flatten()
    }

    /// The newest page of `limit` messages: a kept one, or what `read` reads, which is then kept. Of many who ask at
    /// once, one reads. `check` says whether `user` may.
    ///
    /// # Errors
    /// Those of `check` and `read`.
    pub async fn newest_page<C>(
        self: &Arc<Self>,
        room: RoomId,
        user: UserId,
        limit: u32,
        check: impl Fn() -> C,
        read: impl Future<Output = Result<Bytes>>,
    ) -> Result<Bytes>
    where
        C: Future<Output = Result<()>>,
    {
        // Nobody makes us look after rooms that are not theirs.
        if self.find(room).is_none() {
            check().await?;
        }
        if self.bus_lost.load(Ordering::Relaxed) {
            check().await?;
            return read.await;
        }
        let room = self.open(room).await?;
        let checked = room.lock().pages.version();
        check().await?;
        let _turn = room.reading.lock().await;
        let version = {
            let mut state = room.lock();
            let version = state.pages.version();
            if version == checked {
                state.pages.readers.insert(user);
            }
            if state.is_whole()
                && let Some(page) = state.pages.find(limit)
            {
                return Ok(page);
            }
            version
        };
        let page = read.await?;
        let mut state = room.lock();
        if state.pages.version() == version && state.is_whole() {
            state.pages.keep(limit, &page);
        }
        Ok(page)
    }
}
