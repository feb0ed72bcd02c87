//! Leases, semaphores, counters, values, reports and heartbeats.

use std::time::Duration;

use async_trait::async_trait;
use redis::pipe;
use uuid::Uuid;

use super::connection::{RedisBus, millis};
use crate::{
    bus::{Coordination, WorkerId},
    error::Result,
};

/// Acquires a lease that is free, or renews the caller's own.
const ACQUIRE_LEASE: &str = "
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

const RELEASE_LEASE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1";

/// Removes expired holders, then acquires or renews a permit if one is left, by the server's clock. The key expires
/// with its last holder.
const ACQUIRE_PERMIT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
    return 0
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], last[2])
return 1";

/// Stores a reporter's value with its end, and removes those that expired, by the server's clock. The key expires with
/// its last report.
const REPORT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    if tonumber(string.match(all[i + 1], '^%d+')) <= now then redis.call('HDEL', KEYS[1], all[i]) end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d ', now + ARGV[2]) .. ARGV[3])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1";

/// The values that have not expired, by the server's clock.
const REPORTS: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local live = {}
for _, report in ipairs(redis.call('HVALS', KEYS[1])) do
    local ends, value = string.match(report, '^(%d+) (.*)$')
    if tonumber(ends) > now then table.insert(live, value) end
end
return live";

/// Adds a worker, removes those that expired, and returns the rest, by the server's clock.
const HEARTBEAT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)";

#[async_trait]
impl Coordination for RedisBus {
    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<()> {
        let mut set = pipe();
        set.cmd("SET")
            .arg(self.key("kv", key))
            .arg(value)
            .arg("PX")
            .arg(millis(ttl))
            .ignore();
        self.run(set).await
    }

    async fn take(&self, key: &str) -> Result<Option<String>> {
        let mut take = pipe();
        take.cmd("GETDEL").arg(self.key("kv", key));
        let (value,) = self.run(take).await?;
        Ok(value)
    }

    async fn increment(&self, key: &str, window: Duration) -> Result<u64> {
        let key = self.key("hits", key);
        let mut increment = pipe();
        // One transaction: a counter without an expiry would refuse its caller for ever.
        increment.atomic();
        increment.cmd("INCR").arg(&key);
        increment
            .cmd("PEXPIRE")
            .arg(&key)
            .arg(millis(window))
            .arg("NX")
            .ignore();
        let (count,) = self.run(increment).await?;
        Ok(count)
    }

    async fn add(&self, additions: &[(&str, u64)], ttl: Duration) -> Result<Vec<u64>> {
        if additions.is_empty() {
            return Ok(Vec::new());
        }
        let mut add = pipe();
        add.atomic();
        for (key, addition) in additions {
            let key = self.key("count", key);
            if *addition == 0 {
                add.cmd("GET").arg(key);
                continue;
            }
            add.cmd("INCRBY").arg(&key).arg(*addition);
            add.cmd("PEXPIRE").arg(key).arg(millis(ttl)).ignore();
        }
        let totals: Vec<Option<u64>> = self.run(add).await?;
        Ok(totals.into_iter().map(Option::unwrap_or_default).collect())
    }

    async fn acquire_lease(&self, key: &str, holder: Uuid, ttl: Duration) -> Result<bool> {
        let mut acquire = pipe();
        acquire
            .cmd("EVAL")
            .arg(ACQUIRE_LEASE)
            .arg(1)
            .arg(self.key("leader", key))
            .arg(holder.to_string())
            .arg(millis(ttl));
        let (acquired,): (bool,) = self.run(acquire).await?;
        Ok(acquired)
    }

    async fn release_lease(&self, key: &str, holder: Uuid) -> Result<()> {
        let mut release = pipe();
        release
            .cmd("EVAL")
            .arg(RELEASE_LEASE)
            .arg(1)
            .arg(self.key("leader", key))
            .arg(holder.to_string())
            .ignore();
        self.run(release).await
    }

    async fn acquire_permit(
        &self,
        key: &str,
        holder: Uuid,
        permits: u32,
        ttl: Duration,
    ) -> Result<bool> {
        let mut acquire = pipe();
        acquire
            .cmd("EVAL")
            .arg(ACQUIRE_PERMIT)
            .arg(1)
            .arg(self.key("places", key))
            .arg(holder.to_string())
            .arg(permits)
            .arg(millis(ttl));
        let (acquired,): (bool,) = self.run(acquire).await?;
        Ok(acquired)
    }

    async fn release_permit(&self, key: &str, holder: Uuid) -> Result<()> {
        let mut release = pipe();
        release
            .cmd("ZREM")
            .arg(self.key("places", key))
            .arg(holder.to_string())
            .ignore();
        self.run(release).await
    }

    async fn report(&self, key: &str, reporter: Uuid, value: &str, ttl: Duration) -> Result<()> {
        let mut report = pipe();
        report
            .cmd("EVAL")
            .arg(REPORT)
            .arg(1)
            .arg(self.key("reports", key))
            .arg(reporter.to_string())
            .arg(millis(ttl))
            .arg(value)
            .ignore();
        self.run(report).await
    }

    async fn reports(&self, key: &str) -> Result<Vec<String>> {
        let mut read = pipe();
        read.cmd("EVAL")
            .arg(REPORTS)
            .arg(1)
            .arg(self.key("reports", key));
        let (values,) = self.run(read).await?;
        Ok(values)
    }

    async fn heartbeat(&self, worker: WorkerId, ttl: Duration) -> Result<Vec<WorkerId>> {
        let mut heartbeat = pipe();
        heartbeat
            .cmd("EVAL")
            .arg(HEARTBEAT)
            .arg(1)
            .arg(self.single_key("workers"))
            .arg(worker.to_string())
            .arg(millis(ttl));
        let (workers,): (Vec<String>,) = self.run(heartbeat).await?;
        Ok(workers
            .iter()
            .filter_map(|id| Uuid::parse_str(id).ok())
            .collect())
    }

    async fn deregister(&self, worker: WorkerId) -> Result<()> {
        let mut remove = pipe();
        remove
            .cmd("ZREM")
            .arg(self.single_key("workers"))
            .arg(worker.to_string())
            .ignore();
        self.run(remove).await
    }
}
