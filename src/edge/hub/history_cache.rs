//! The newest page of a room's history as REST answers it, kept while the room is read often: a page that a thousand
//! clients ask for is read and written down once. Any event of the room ends it, and so does a short time: what the
//! bus lost, and what is no event of the room (a name that changed), is seen after that.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Hub, Joining, room::State};
use crate::{
    error::Result,
    model::{RoomId, Seq, UserId},
};

/// How long a page may be told although no event of the room came.
const MAX_AGE: Duration = Duration::from_secs(3);
/// How long someone counts as a member without being looked up, although no event of the room came: the bus may have
/// lost the one that says that they left.
const READER_AGE: Duration = Duration::from_secs(1);
/// What all rooms' pages may take, in bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that all rooms' pages take.
pub(super) type CacheBytes = Arc<AtomicUsize>;

/// The newest messages of a room, ascending, each as everyone is told it.
pub type Newest = Arc<[Arc<RawValue>]>;

fn size(newest: &Newest) -> usize {
    newest.iter().map(|json| json.get().len() + 32).sum()
}

/// One room's pages.
pub(super) struct HistoryCache {
    /// Goes up whenever what was read before may not be true any more.
    version: u64,
    since: Instant,
    /// Who has been found to be a member since the version began, and when.
    readers: HashMap<UserId, Instant>,
    /// By the limit that was asked for.
    pages: Vec<(u32, Bytes)>,
    /// What a joining socket is told, up to a number.
    newest: Option<(Seq, Newest)>,
    taken: CacheBytes,
}

impl HistoryCache {
    pub fn new(taken: CacheBytes) -> Self {
        HistoryCache {
            version: 0,
            since: Instant::now(),
            readers: HashMap::new(),
            pages: Vec::new(),
            newest: None,
            taken,
        }
    }

    /// The room has changed.
    pub fn end(&mut self) {
        self.version += 1;
        self.since = Instant::now();
        self.readers = HashMap::new();
        let pages = std::mem::take(&mut self.pages);
        let mut bytes = pages.iter().map(|(_, page)| page.len()).sum();
        if let Some((_, newest)) = self.newest.take() {
            bytes += size(&newest);
        }
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether anyone has read here of late.
    pub fn is_read(&self) -> bool {
        !self.pages.is_empty() && self.since.elapsed() < MAX_AGE
    }

    /// Nobody is told a page any more that is too old.
    pub fn forget_old(&mut self) {
        if self.since.elapsed() >= MAX_AGE && (!self.pages.is_empty() || self.newest.is_some()) {
            self.end();
        }
    }

    fn version(&mut self) -> u64 {
        if self.since.elapsed() >= MAX_AGE {
            self.end();
        }
        self.version
    }

    fn may_read(&self, user: &UserId) -> bool {
        let checked = self.readers.get(user);
        checked.is_some_and(|checked| checked.elapsed() < READER_AGE)
    }

    fn find(&self, limit: u32) -> Option<Bytes> {
        let mut pages = self.pages.iter();
        pages
            .find(|(of, _)| *of == limit)
            .map(|(_, page)| page.clone())
    }

    fn keep(&mut self, limit: u32, page: &Bytes) {
        if self.reserve(page.len()) {
            self.pages.push((limit, page.clone()));
        }
    }

    fn keep_newest(&mut self, upto: Seq, newest: &Newest) {
        if self.newest.is_none() && self.reserve(size(newest)) {
            self.newest = Some((upto, newest.clone()));
        }
    }

    /// Whether there is room for so many bytes more.
    fn reserve(&self, bytes: usize) -> bool {
        let fits = self.taken.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_BYTES;
        if !fits {
            self.taken.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }
}

impl Drop for HistoryCache {
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
        let known = whole && state.pages.may_read(&user);
        known.then(|| state.pages.find(limit)).flatten()
    }

    /// The newest page of `limit` messages: a kept one, or what `read` reads, which is then kept. Of many who ask at
    /// once, one reads. `check` says whether `user` may, and up to which number: the room's head, which `read` is given.
    ///
    /// # Errors
    /// Those of `check` and `read`.
    pub async fn newest_page<C>(
        self: &Arc<Self>,
        room: RoomId,
        user: UserId,
        limit: u32,
        check: impl Fn() -> C,
        read: impl AsyncFnOnce(Seq) -> Result<Bytes>,
    ) -> Result<Bytes>
    where
        C: Future<Output = Result<Seq>>,
    {
        // Nobody makes us look after rooms that are not theirs.
        if self.find(room).is_none() {
            check().await?;
        }
        if self.bus_lost.load(Ordering::Relaxed) {
            let head = check().await?;
            return read(head).await;
        }
        let room = self.open(room).await?;
        let (checked, now) = (room.lock().pages.version(), Instant::now());
        let head = check().await?;
        let _turn = room.reading.lock().await;
        let version = {
            let mut state = room.lock();
            let version = state.pages.version();
            if version == checked {
                state.pages.readers.insert(user, now);
            }
            if state.is_whole()
                && let Some(page) = state.pages.find(limit)
            {
                return Ok(page);
            }
            version
        };
        let page = read(head).await?;
        let mut state = room.lock();
        // A page that was read up to another number is no one else's.
        if state.pages.version() == version && state.is_whole() && state.last == head {
            state.pages.keep(limit, &page);
        }
        Ok(page)
    }
}

impl Joining {
    /// The room's newest messages up to [`Joining::live_from`]: kept ones, or what `read` reads, which are then kept. Of
    /// many who join at once, one reads. Whoever joins has shown that it may.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn newest(&self, read: impl Future<Output = Result<Newest>>) -> Result<Newest> {
        if self.hub.bus_lost.load(Ordering::Relaxed) {
            return read.await;
        }
        let kept = || {
            let mut state = self.room.lock();
            let version = state.pages.version();
            match &state.pages.newest {
                Some((upto, newest)) if *upto == self.live_from && state.is_whole() => {
                    Ok(newest.clone())
                }
                _ => Err(version),
            }
        };
        if let Ok(newest) = kept() {
            return Ok(newest);
        }
        let _turn = self.room.reading.lock().await;
        let version = match kept() {
            Ok(newest) => return Ok(newest),
            Err(version) => version,
        };
        let newest = read.await?;
        let mut state = self.room.lock();
        if state.pages.version() == version && state.is_whole() && state.last == self.live_from {
            state.pages.keep_newest(self.live_from, &newest);
        }
        Ok(newest)
    }
}
