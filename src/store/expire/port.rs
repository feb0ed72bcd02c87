//! The port of expiry.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;

#[async_trait]
pub trait Expiry: Send + Sync {
    /// Deletes logins, codes, bans and mutes that ended longer than `after` ago, the room preferences of accounts that
    /// were deleted so long ago, and rows of the delivery log that are older than `keep`; at most [`EXPIRE_AT_ONCE`]
    /// rows of each. By the store's own clock: a node whose clock jumps must not delete rows that are still valid. An
    /// open digest stays, however old.
    async fn expire(&self, after: Duration, keep: Duration) -> Result<Expired>;
}

/// How many rows were deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    pub logins: u64,
    pub codes: u64,
    pub bans: u64,
    pub mutes: u64,
    pub notifications: u64,
    pub deliveries: u64,
    /// More rows may have expired.
    pub more: bool,
}

impl Expired {
    pub fn rows(&self) -> u64 {
        self.logins + self.codes + self.bans + self.mutes + self.notifications + self.deliveries
    }

    /// Whether one of the kinds reached [`EXPIRE_AT_ONCE`], and may have more rows.
    pub(super) fn filled(&self) -> bool {
        let all = [
            self.logins,
            self.codes,
            self.bans,
            self.mutes,
            self.notifications,
            self.deliveries,
        ];
        all.into_iter().any(|rows| rows >= EXPIRE_AT_ONCE.into())
    }

    pub fn add(&mut self, other: &Expired) {
        self.logins += other.logins;
        self.codes += other.codes;
        self.bans += other.bans;
        self.mutes += other.mutes;
        self.notifications += other.notifications;
        self.deliveries += other.deliveries;
        self.more = other.more;
    }
}

/// Rows of each kind that one [`Expiry::expire`] deletes at most: few enough to be done in milliseconds.
pub const EXPIRE_AT_ONCE: u32 = 1000;
