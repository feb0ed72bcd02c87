//! The bus over Redis. Commands go through a pool; each listener has a connection of its own (see `listen`).
//! Every command has a deadline, so that a frozen Redis costs its callers a second and never more. Every key and
//! channel begins with the deployment's prefix.

mod listen;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use deadpool_redis::{
    Connection, Manager, Pool, Runtime,
    redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError, cmd, pipe},
};
use tokio::{sync::mpsc, time::timeout};
use uuid::Uuid;

use super::{
    Bus, Channel, Incoming, Presence, Publications, REMEMBER_ACTIVE, Subscriptions, WorkerId,
    decode_events, encode_events,
};
use crate::{
    error::{Error, Result},
    model::{FeedEvent, RoomId, Timestamp, UserId},
};

/// What a command may take, waiting for a connection included.
const DEADLINE: Duration = Duration::from_secs(1);

/// Adds a worker, forgets those whose time is over, and returns the rest, all by the server's clock.
const BEAT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)";

/// Moves each user's end and last activity forward, never back, and forgets what is over.
const HERE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 3, #ARGV, 2 do
    redis.call('ZADD', KEYS[1], 'GT', now + ARGV[1], ARGV[i])
    redis.call('ZADD', KEYS[2], 'GT', ARGV[i + 1], ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[2])";

/// Takes or renews a leadership that is free or the caller's own.
const LEAD: &str = "
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

const RESIGN: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1";

/// Forgets the holders whose time is over, and takes or keeps a place if one is left, all by the server's clock. The key
/// goes with its last holder.
const OCCUPY: &str = "
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

#[derive(Clone)]
pub struct Settings {
    /// `redis://` or `rediss://`. May hold a password: never logged.
    pub url: String,
    /// Begins the name of every key and channel, with a colon after it.
    pub prefix: String,
    /// Events kept a room, at least 1.
    pub recent_messages: usize,
    /// How long they are kept after the last one.
    pub recent_ttl: Duration,
    /// Connections for commands, at least 1.
    pub pool: usize,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("prefix", &self.prefix)
            .field("recent_messages", &self.recent_messages)
            .field("recent_ttl", &self.recent_ttl)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

pub struct RedisBus {
    settings: Settings,
    pool: Pool,
    client: Client,
}

impl RedisBus {
    /// Does not connect yet: Redis may come later. Fails only where the URL is none.
    pub fn connect(settings: Settings) -> Result<RedisBus> {
        let invalid = |error: RedisError| Error::field("redis.url", error.to_string());
        let client = Client::open(settings.url.as_str()).map_err(invalid)?;
        let connection = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let manager =
            Manager::new_with_config(settings.url.as_str(), connection).map_err(invalid)?;
        let pool = Pool::builder(manager)
            .max_size(settings.pool.max(1))
            .create_timeout(Some(DEADLINE))
            .wait_timeout(Some(DEADLINE))
            .recycle_timeout(Some(DEADLINE))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(Error::internal)?;
        Ok(RedisBus {
            settings,
            pool,
            client,
        })
    }

    async fn run<T: FromRedisValue>(&self, pipeline: Pipeline) -> Result<T> {
        let answer = async {
            let mut connection: Connection = self.pool.get().await.map_err(unavailable)?;
            pipeline
                .query_async(&mut connection)
                .await
                .map_err(unavailable)
        };
        timeout(DEADLINE, answer)
            .await
            .unwrap_or_else(|elapsed| Err(unavailable(elapsed)))
    }

    fn key(&self, kind: &str, name: impl fmt::Display) -> String {
        format!("{}:{kind}:{name}", self.settings.prefix)
    }

    fn room_key(&self, room: RoomId) -> String {
        self.key("recent", room.simple())
    }

    fn connected_key(&self) -> String {
        format!("{}:connected", self.settings.prefix)
    }

    fn active_key(&self) -> String {
        format!("{}:active", self.settings.prefix)
    }

    fn workers_key(&self) -> String {
        format!("{}:workers", self.settings.prefix)
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable("cache", error)
}

/// Redis takes whole milliseconds, and no zero.
fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis())
        .unwrap_or(u64::MAX >> 12)
        .max(1)
}

/// A channel's name in Redis, and back.
struct Names {
    prefix: String,
}

impl Names {
    fn of(&self, channel: Channel) -> String {
        let prefix = &self.prefix;
        match channel {
            Channel::Room(id) => format!("{prefix}:room:{}", id.simple()),
            Channel::Edge(id) => format!("{prefix}:edge:{}", id.simple()),
            Channel::Everyone => format!("{prefix}:everyone"),
        }
    }

    fn parse(&self, name: &str) -> Option<Channel> {
        let rest = name.strip_prefix(&self.prefix)?.strip_prefix(':')?;
        if rest == "everyone" {
            return Some(Channel::Everyone);
        }
        let (kind, id) = rest.split_once(':')?;
        let id = Uuid::parse_str(id).ok()?;
        match kind {
            "room" => Some(Channel::Room(id)),
            "edge" => Some(Channel::Edge(id)),
            _ => None,
        }
    }
}

#[async_trait]
impl Bus for RedisBus {
    async fn publish(&self, publications: &Publications) -> Result<()> {
        let Publications {
            rooms,
            stale,
            notices,
        } = publications;
        let names = Names {
            prefix: self.settings.prefix.clone(),
        };
        let mut pipeline = pipe();
        if !stale.is_empty() {
            let keys: Vec<_> = stale.iter().map(|room| self.room_key(*room)).collect();
            pipeline.cmd("DEL").arg(keys).ignore();
        }
        let keep = isize::try_from(self.settings.recent_messages.max(1)).unwrap_or(isize::MAX);
        for room in rooms.iter().filter(|room| !room.events.is_empty()) {
            let key = self.room_key(room.room);
            let payload = encode_events(&room.events);
            let push = pipeline.cmd("RPUSH").arg(&key);
            // The others would be trimmed away again.
            let first = room.events.len().saturating_sub(keep.unsigned_abs());
            for line in payload.split(|byte| *byte == b'\n').skip(first) {
                push.arg(line);
            }
            push.ignore();
            pipeline.cmd("LTRIM").arg(&key).arg(-keep).arg(-1).ignore();
            pipeline
                .cmd("PEXPIRE")
                .arg(&key)
                .arg(millis(self.settings.recent_ttl))
                .ignore();
            let channel = names.of(Channel::Room(room.room));
            pipeline.cmd("PUBLISH").arg(channel).arg(payload).ignore();
        }
        for (channel, payload) in notices {
            pipeline
                .cmd("PUBLISH")
                .arg(names.of(*channel))
                .arg(&payload[..])
                .ignore();
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        self.run(pipeline).await
    }

    async fn listen(&self) -> Result<(Arc<dyn Subscriptions>, mpsc::Receiver<Incoming>)> {
        let names = Names {
            prefix: self.settings.prefix.clone(),
        };
        let (listener, incoming) = listen::start(self.client.clone(), names).await;
        Ok((Arc::new(listener), incoming))
    }

    async fn recent(&self, room: RoomId) -> Result<Vec<FeedEvent>> {
        let mut range = pipe();
        range.cmd("LRANGE").arg(self.room_key(room)).arg(0).arg(-1);
        let (lines,): (Vec<Vec<u8>>,) = self.run(range).await?;
        Ok(contiguous_tail(&lines))
    }

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

    async fn hit(&self, key: &str, window: Duration) -> Result<u64> {
        let key = self.key("hits", key);
        let mut hit = pipe();
        // In one transaction: a counter without an end would refuse its caller for ever.
        hit.atomic();
        hit.cmd("INCR").arg(&key);
        hit.cmd("PEXPIRE")
            .arg(&key)
            .arg(millis(window))
            .arg("NX")
            .ignore();
        let (count,) = self.run(hit).await?;
        Ok(count)
    }

    async fn count(&self, additions: &[(&str, u64)], ttl: Duration) -> Result<Vec<u64>> {
        if additions.is_empty() {
            return Ok(Vec::new());
        }
        let mut count = pipe();
        count.atomic();
        for (key, addition) in additions {
            let key = self.key("count", key);
            if *addition == 0 {
                count.cmd("GET").arg(key);
                continue;
            }
            count.cmd("INCRBY").arg(&key).arg(*addition);
            count.cmd("PEXPIRE").arg(key).arg(millis(ttl)).ignore();
        }
        let totals: Vec<Option<u64>> = self.run(count).await?;
        Ok(totals.into_iter().map(Option::unwrap_or_default).collect())
    }

    async fn lead(&self, key: &str, holder: Uuid, ttl: Duration) -> Result<bool> {
        let mut lead = pipe();
        lead.cmd("EVAL")
            .arg(LEAD)
            .arg(1)
            .arg(self.key("leader", key))
            .arg(holder.to_string())
            .arg(millis(ttl));
        let (leads,): (bool,) = self.run(lead).await?;
        Ok(leads)
    }

    async fn resign(&self, key: &str, holder: Uuid) -> Result<()> {
        let mut resign = pipe();
        resign
            .cmd("EVAL")
            .arg(RESIGN)
            .arg(1)
            .arg(self.key("leader", key))
            .arg(holder.to_string())
            .ignore();
        self.run(resign).await
    }

    async fn occupy(&self, key: &str, holder: Uuid, places: u32, ttl: Duration) -> Result<bool> {
        let mut occupy = pipe();
        occupy
            .cmd("EVAL")
            .arg(OCCUPY)
            .arg(1)
            .arg(self.key("places", key))
            .arg(holder.to_string())
            .arg(places)
            .arg(millis(ttl));
        let (has,): (bool,) = self.run(occupy).await?;
        Ok(has)
    }

    async fn vacate(&self, key: &str, holder: Uuid) -> Result<()> {
        let mut vacate = pipe();
        vacate
            .cmd("ZREM")
            .arg(self.key("places", key))
            .arg(holder.to_string())
            .ignore();
        self.run(vacate).await
    }

    async fn beat(&self, worker: WorkerId, ttl: Duration) -> Result<Vec<WorkerId>> {
        let mut beat = pipe();
        beat.cmd("EVAL")
            .arg(BEAT)
            .arg(1)
            .arg(self.workers_key())
            .arg(worker.to_string())
            .arg(millis(ttl));
        let (workers,): (Vec<String>,) = self.run(beat).await?;
        Ok(workers
            .iter()
            .filter_map(|id| Uuid::parse_str(id).ok())
            .collect())
    }

    async fn retire(&self, worker: WorkerId) -> Result<()> {
        let mut retire = pipe();
        retire
            .cmd("ZREM")
            .arg(self.workers_key())
            .arg(worker.to_string())
            .ignore();
        self.run(retire).await
    }

    async fn here(&self, users: &[(UserId, Timestamp)], ttl: Duration) -> Result<()> {
        // A script holds up everyone else: in pieces.
        for users in users.chunks(1000) {
            let mut here = pipe();
            let script = here.cmd("EVAL").arg(HERE).arg(2);
            script.arg(self.connected_key()).arg(self.active_key());
            script.arg(millis(ttl)).arg(millis(REMEMBER_ACTIVE));
            for (user, active) in users {
                script.arg(user.to_string()).arg(active.millis());
            }
            script.ignore();
            self.run::<()>(here).await?;
        }
        Ok(())
    }

    async fn presence(&self, users: &[UserId]) -> Result<Vec<Presence>> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<String> = users.iter().map(Uuid::to_string).collect();
        let mut ask = pipe();
        ask.cmd("TIME");
        ask.cmd("ZMSCORE").arg(self.connected_key()).arg(&names);
        ask.cmd("ZMSCORE").arg(self.active_key()).arg(&names);
        type Scores = Vec<Option<f64>>;
        let ((seconds, micros), ends, active): ((i64, i64), Scores, Scores) = self.run(ask).await?;
        let now = seconds * 1000 + micros / 1000;
        let presence = ends.iter().zip(active).map(|(end, active)| Presence {
            connected: end.is_some_and(|end| end as i64 > now),
            active: active.map(|at| Timestamp::from_millis(at as i64)),
        });
        Ok(presence.collect())
    }

    async fn ping(&self) -> Result<()> {
        let mut ping = pipe();
        ping.add_command(cmd("PING")).ignore();
        self.run(ping).await
    }
}

/// From the end back to the first hole, repetition or line nobody can read.
fn contiguous_tail(lines: &[Vec<u8>]) -> Vec<FeedEvent> {
    let mut tail: Vec<FeedEvent> = Vec::with_capacity(lines.len());
    for line in lines.iter().rev() {
        let Some(event) = decode_events(line).and_then(|mut events| events.pop()) else {
            break;
        };
        if tail.last().is_some_and(|after| after.seq != event.seq + 1) {
            break;
        }
        tail.push(event);
    }
    tail.reverse();
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_found_again_by_its_name() {
        let names = Names {
            prefix: "a:b".to_owned(),
        };
        let id = Uuid::now_v7();
        for channel in [Channel::Room(id), Channel::Edge(id), Channel::Everyone] {
            assert_eq!(names.parse(&names.of(channel)), Some(channel));
        }
        assert_eq!(names.parse("a:everyone"), None);
        assert_eq!(names.parse("a:b:room:1"), None);
    }

    #[test]
    fn only_what_is_contiguous_counts() {
        let lines = |seqs: &[i64]| -> Vec<Vec<u8>> {
            let line = |seq| format!("{seq} newMessage {{}}").into_bytes();
            seqs.iter().map(line).collect()
        };
        let tail = |lines: &[Vec<u8>]| -> Vec<i64> {
            contiguous_tail(lines).iter().map(|e| e.seq).collect()
        };
        assert_eq!(tail(&lines(&[1, 2, 3])), [1, 2, 3]);
        assert_eq!(tail(&lines(&[1, 2, 5, 6])), [5, 6]);
        assert_eq!(tail(&lines(&[5, 6, 5, 6])), [5, 6]);
        assert_eq!(tail(&[]), [0; 0]);
        let mut unknown = lines(&[1, 2, 3]);
        unknown[1] = b"2 somethingNew {}".to_vec();
        assert_eq!(tail(&unknown), [3]);
    }
}
