//! The newest page of a room's history, from the cache or read once for all clients that want it at the same time.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{history_cache::Newest, hub::Hub, joining::Joining, room::RoomState};
use crate::{
    edge::reactions::SharedPage,
    error::Result,
    model::{RoomId, Seq, UserId},
};

impl RoomState {
    /// Whether every event that is known to exist has been delivered here.
    fn is_whole(&self) -> bool {
        self.last >= 0 && self.last == self.target && self.ahead.is_empty() && !self.repairing
    }
}

impl Hub {
    /// The newest page of `limit` messages, if it is cached and `user` may read it.
    pub fn page(&self, room: RoomId, user: UserId, limit: u32) -> Option<SharedPage> {
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

    /// The newest page of `limit` messages: the cached one, or the result of `read`, which is then cached. Concurrent
    /// calls share one read. `check` returns whether `user` may read the room, and its head, which is passed to `read`.
    ///
    /// # Errors
    /// Those of `check` and `read`.
    pub async fn newest_page<C>(
        self: &Arc<Self>,
        room: RoomId,
        user: UserId,
        limit: u32,
        check: impl Fn() -> C,
        read: impl AsyncFnOnce(Seq) -> Result<SharedPage>,
    ) -> Result<SharedPage>
    where
        C: Future<Output = Result<Seq>>,
    {
        // A user must not make this edge subscribe to rooms that they may not read.
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
        let _reading = room.reading.lock().await;
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
        // Only a page that ends at the room's current head is cached.
        if state.pages.version() == version && state.is_whole() && state.last == head {
            state.pages.keep(limit, &page);
        }
        Ok(page)
    }
}

impl Joining {
    /// The room's newest messages up to [`Joining::live_from`]: the cached ones, or the result of `read`, which is then
    /// cached. Concurrent joins share one read. The right to read was checked by the join.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn newest(&self, read: impl Future<Output = Result<Newest>>) -> Result<Newest> {
        if self.bus_lost.load(Ordering::Relaxed) {
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
        let _reading = self.room.reading.lock().await;
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
