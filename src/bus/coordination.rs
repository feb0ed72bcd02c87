//! The port for coordination between processes: leases, semaphores, counters, small values, reports and worker
//! heartbeats. Each entry has a time to live, by the bus's own clock, so that a killed process leaves nothing behind.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::error::Result;

pub type WorkerId = Uuid;

#[async_trait]
pub trait Coordination: Send + Sync {
    /// Stores a small value for at most `ttl`; replaces the one before.
    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<()>;
    /// Removes and returns a value: of many concurrent callers exactly one gets it.
    async fn take(&self, key: &str) -> Result<Option<String>>;

    /// Increments a counter and returns its value. The first increment opens the window; later ones do not extend it.
    async fn increment(&self, key: &str, window: Duration) -> Result<u64>;
    /// Adds to counters and returns their totals, in the same order. Adding 0 only reads. A counter expires `ttl` after
    /// the last addition.
    async fn add(&self, additions: &[(&str, u64)], ttl: Duration) -> Result<Vec<u64>>;

    /// Acquires or renews the lease named `key`: one holder at a time has it, until `ttl` after its last call or until
    /// [`Coordination::release_lease`]. Returns whether `holder` has it now.
    async fn acquire_lease(&self, key: &str, holder: Uuid, ttl: Duration) -> Result<bool>;
    /// Releases the lease if `holder` has it.
    async fn release_lease(&self, key: &str, holder: Uuid) -> Result<()>;

    /// Acquires or renews one of `permits` permits of the semaphore named `key`; it is the holder's until `ttl` after
    /// the last call or until [`Coordination::release_permit`]. Returns whether `holder` has one now.
    async fn acquire_permit(
        &self,
        key: &str,
        holder: Uuid,
        permits: u32,
        ttl: Duration,
    ) -> Result<bool>;
    /// Releases the holder's permit, if it has one.
    async fn release_permit(&self, key: &str, holder: Uuid) -> Result<()>;

    /// Stores a reporter's small value under `key` for at most `ttl`; replaces the reporter's previous value.
    async fn report(&self, key: &str, reporter: Uuid, value: &str, ttl: Duration) -> Result<()>;
    /// The values of all reporters, in any order, without those that expired.
    async fn reports(&self, key: &str) -> Result<Vec<String>>;

    /// Records a worker's heartbeat and returns all live workers, itself included. A worker is live until `ttl` after
    /// its last heartbeat.
    async fn heartbeat(&self, worker: WorkerId, ttl: Duration) -> Result<Vec<WorkerId>>;
    /// Ends a worker's liveness at once: the others see it at their next heartbeat.
    async fn deregister(&self, worker: WorkerId) -> Result<()>;
}
