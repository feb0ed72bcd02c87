//! User presence: two sorted sets, the end of each user's connection and the last activity, both in milliseconds.

use std::time::Duration;

use async_trait::async_trait;
use redis::pipe;
use uuid::Uuid;

use super::connection::{RedisBus, millis};
use crate::{
    bus::{ACTIVITY_RETENTION, Presence, UserPresence},
    error::Result,
    model::{Timestamp, UserId},
};

/// Users in one script: Redis runs nothing else meanwhile.
const CHUNK: usize = 1000;

/// Moves each user's end and last activity forward, never back, and removes what expired, by the server's clock.
const MARK_CONNECTED: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 3, #ARGV, 2 do
    redis.call('ZADD', KEYS[1], 'GT', now + ARGV[1], ARGV[i])
    redis.call('ZADD', KEYS[2], 'GT', ARGV[i + 1], ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[2])";

#[async_trait]
impl Presence for RedisBus {
    async fn mark_connected(&self, users: &[(UserId, Timestamp)], ttl: Duration) -> Result<()> {
        for users in users.chunks(CHUNK) {
            let mut mark = pipe();
            let script = mark.cmd("EVAL").arg(MARK_CONNECTED).arg(2);
            script.arg(self.connected_key()).arg(self.active_key());
            script.arg(millis(ttl)).arg(millis(ACTIVITY_RETENTION));
            for (user, active) in users {
                script.arg(user.to_string()).arg(active.millis());
            }
            script.ignore();
            self.run::<()>(mark).await?;
        }
        Ok(())
    }

    async fn get(&self, users: &[UserId]) -> Result<Vec<UserPresence>> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<String> = users.iter().map(Uuid::to_string).collect();
        let mut read = pipe();
        read.cmd("TIME");
        read.cmd("ZMSCORE").arg(self.connected_key()).arg(&names);
        read.cmd("ZMSCORE").arg(self.active_key()).arg(&names);
        type Scores = Vec<Option<f64>>;
        let ((seconds, micros), ends, active): ((i64, i64), Scores, Scores) =
            self.run(read).await?;
        let now = seconds * 1000 + micros / 1000;
        let presence = ends.iter().zip(active).map(|(end, active)| UserPresence {
            connected: end.is_some_and(|end| end as i64 > now),
            last_active: active.map(|at| Timestamp::from_millis(at as i64)),
        });
        Ok(presence.collect())
    }
}

impl RedisBus {
    fn connected_key(&self) -> String {
        self.single_key("connected")
    }

    fn active_key(&self) -> String {
        self.single_key("active")
    }
}
