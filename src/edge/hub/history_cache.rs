//! The newest page of a room's history as REST answers it, cached while the room is read often: a page that a thousand
//! clients request is read and serialised once. Every event of the room invalidates it, and it expires after
//! [`MAX_AGE`]: a change that the bus lost, or that is no event of the room (a renamed user), is visible after that
//! time.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    edge::reactions::{SharedMessage, SharedPage},
    model::{Seq, UserId},
};

/// How long a page is served without an event of the room.
const MAX_AGE: Duration = Duration::from_secs(3);
/// How long a membership counts without being read again: the bus may have lost the event that ended it.
const READER_AGE: Duration = Duration::from_secs(1);
/// Maximum bytes of the cached pages of all rooms.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The bytes that the cached pages of all rooms take now.
pub(super) type CacheBytes = Arc<AtomicUsize>;

/// The newest messages of a room, ascending.
pub type Newest = Arc<[SharedMessage]>;

fn size(newest: &Newest) -> usize {
    newest.iter().map(|message| message.size() + 32).sum()
}

/// One room's pages.
pub(super) struct HistoryCache {
    /// Incremented by every invalidation.
    version: u64,
    since: Instant,
    /// Users whose membership was read since the last invalidation, and when.
    pub(super) readers: HashMap<UserId, Instant>,
    /// Serialised pages, each with its `limit`.
    pages: Vec<(u32, SharedPage)>,
    /// The messages for the answer to a `joinRoom`, up to a number.
    pub(super) newest: Option<(Seq, Newest)>,
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

    /// Invalidates everything: the room has changed.
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

    /// Whether a page was read within [`MAX_AGE`].
    pub fn is_read(&self) -> bool {
        !self.pages.is_empty() && self.since.elapsed() < MAX_AGE
    }

    /// Invalidates pages that have expired.
    pub fn remove_expired(&mut self) {
        if self.since.elapsed() >= MAX_AGE && (!self.pages.is_empty() || self.newest.is_some()) {
            self.end();
        }
    }

    pub(super) fn version(&mut self) -> u64 {
        if self.since.elapsed() >= MAX_AGE {
            self.end();
        }
        self.version
    }

    pub(super) fn may_read(&self, user: &UserId) -> bool {
        let checked = self.readers.get(user);
        checked.is_some_and(|checked| checked.elapsed() < READER_AGE)
    }

    pub(super) fn find(&self, limit: u32) -> Option<SharedPage> {
        let mut pages = self.pages.iter();
        pages
            .find(|(of, _)| *of == limit)
            .map(|(_, page)| page.clone())
    }

    pub(super) fn keep(&mut self, limit: u32, page: &SharedPage) {
        if self.reserve(page.len()) {
            self.pages.push((limit, page.clone()));
        }
    }

    pub(super) fn keep_newest(&mut self, upto: Seq, newest: &Newest) {
        if self.newest.is_none() && self.reserve(size(newest)) {
            self.newest = Some((upto, newest.clone()));
        }
    }

    /// Reserves this many bytes; `false` if fewer are free.
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
