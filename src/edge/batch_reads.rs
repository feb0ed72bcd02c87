//! Batched reads, as in DataLoader: keys that are requested while a read is under way are read together by the next
//! one. On an idle edge that is a read of one key without delay; when all clients reconnect after a restart, one read
//! has hundreds of keys.
//!
//! Not a cache: each read starts after all of its callers asked, so its result is never older than that of a read of
//! their own.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    bus::Presence,
    error::{Error, Result},
    model::{Account, LoginId, MessageId, RoomId, Timestamp, UserId},
    store::{Reads, RoomEntry},
};

/// Reads under way at once. A second one starts only beside one that is slow: otherwise two would split the keys.
const READS: usize = 2;
/// A read that takes longer does not delay later keys.
const SLOW: Duration = Duration::from_millis(50);
/// Keys in one read.
const KEYS: usize = 256;
/// The deadline of a read.
const WITHIN: Duration = Duration::from_secs(5);

type Read<K, V> = dyn Fn(Vec<K>) -> BoxFuture<'static, Result<Vec<V>>> + Send + Sync;

pub struct BatchedRead<K, V> {
    shared: Arc<Shared<K, V>>,
}

struct Shared<K, V> {
    read: Box<Read<K, V>>,
    state: Mutex<BatchState<K, V>>,
}

struct BatchState<K, V> {
    waiting: Vec<Asked<K, V>>,
    /// Reads under way.
    reading: usize,
    /// When the last of them began.
    began: Instant,
}

struct Asked<K, V> {
    key: K,
    answer: oneshot::Sender<Result<V>>,
}

impl<K: Send + 'static, V: Send + 'static> BatchedRead<K, V> {
    /// `read` answers each key, in the order given.
    pub fn new<F>(read: impl Fn(Vec<K>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Vec<V>>> + Send + 'static,
    {
        BatchedRead {
            shared: Arc::new(Shared {
                read: Box::new(move |keys| Box::pin(read(keys))),
                state: Mutex::new(BatchState {
                    waiting: Vec::new(),
                    reading: 0,
                    began: Instant::now(),
                }),
            }),
        }
    }

    /// The value of `key` from a read that starts after this call.
    ///
    /// # Errors
    /// Those of the read, for all keys of the batch; `busy` where it exceeds its deadline.
    pub async fn get(&self, key: K) -> Result<V> {
        let (answer, answered) = oneshot::channel();
        let begins = {
            let mut state = self.shared.state.lock();
            state.waiting.push(Asked { key, answer });
            let begins =
                state.reading == 0 || state.reading < READS && state.began.elapsed() >= SLOW;
            if begins {
                state.reading += 1;
                state.began = Instant::now();
            }
            begins
        };
        if begins {
            // A task of its own: a caller that gives up does not end the read of the others.
            tokio::spawn(Shared::keep_reading(self.shared.clone()));
        }
        answered
            .await
            .unwrap_or_else(|_| Err(Error::internal("a shared read broke off")))
    }
}

impl<K, V> Shared<K, V> {
    async fn keep_reading(shared: Arc<Self>) {
        let mut reading = Reading {
            shared,
            ended: false,
        };
        while let Some(batch) = reading.next() {
            let (keys, answers): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|asked| (asked.key, asked.answer))
                .unzip();
            let read = tokio::time::timeout(WITHIN, (reading.shared.read)(keys));
            let result = match read.await {
                Ok(result) => result,
                Err(elapsed) => Err(Error::unavailable("store", elapsed)),
            };
            match result {
                Ok(values) => {
                    for (answer, value) in answers.into_iter().zip(values) {
                        // The caller may have given up.
                        let _ = answer.send(Ok(value));
                    }
                }
                Err(error) => {
                    for answer in answers {
                        let _ = answer.send(Err(error.shared()));
                    }
                }
            }
        }
    }
}

/// The reads that every new socket needs.
pub struct BatchedReads {
    pub accounts: BatchedRead<UserId, Option<Account>>,
    /// Whether the login was revoked.
    pub revoked: BatchedRead<LoginId, bool>,
    pub entries: BatchedRead<(RoomId, UserId), Option<RoomEntry>>,
    /// The emojis, as keys, that a user gave to a message.
    pub reacted: BatchedRead<(MessageId, UserId), Vec<String>>,
    /// Announces on the bus that a user is connected.
    pub here: BatchedRead<(UserId, Timestamp), ()>,
}

impl BatchedReads {
    /// Users count as connected for `ttl`.
    pub fn new(reads: &Arc<dyn Reads>, presence: &Arc<dyn Presence>, ttl: Duration) -> Self {
        let (accounts, logins, entries) = (reads.clone(), reads.clone(), reads.clone());
        let reactions = reads.clone();
        let presence = presence.clone();
        BatchedReads {
            accounts: BatchedRead::new(move |users| {
                let reads = accounts.clone();
                async move { reads.accounts(&users).await }
            }),
            revoked: BatchedRead::new(move |logins_asked: Vec<LoginId>| {
                let reads = logins.clone();
                async move {
                    let revoked = reads.revoked(&logins_asked).await?;
                    let is_revoked = |login| revoked.contains(login);
                    Ok(logins_asked.iter().map(is_revoked).collect())
                }
            }),
            entries: BatchedRead::new(move |who| {
                let reads = entries.clone();
                async move { reads.entries(&who).await }
            }),
            reacted: BatchedRead::new(move |who: Vec<(MessageId, UserId)>| {
                let reads = reactions.clone();
                async move {
                    let mut given: HashMap<_, Vec<String>> = HashMap::new();
                    for (message, user, emoji) in reads.reacted(&who).await? {
                        given.entry((message, user)).or_default().push(emoji);
                    }
                    let of = |key| given.get(key).cloned().unwrap_or_default();
                    Ok(who.iter().map(of).collect())
                }
            }),
            here: BatchedRead::new(move |users| {
                let presence = presence.clone();
                async move {
                    presence.mark_connected(&users, ttl).await?;
                    Ok(vec![(); users.len()])
                }
            }),
        }
    }
}

/// One of the reads under way. Counted until it is dropped, also by a panic.
struct Reading<K, V> {
    shared: Arc<Shared<K, V>>,
    ended: bool,
}

impl<K, V> Reading<K, V> {
    /// The keys of the next read; `None` ends the task.
    fn next(&mut self) -> Option<Vec<Asked<K, V>>> {
        let mut state = self.shared.state.lock();
        state.waiting.retain(|asked| !asked.answer.is_closed());
        if state.waiting.is_empty() {
            // Under the same lock as the check, so that the next caller starts a read.
            state.reading -= 1;
            state.waiting = Vec::new();
            self.ended = true;
            return None;
        }
        state.began = Instant::now();
        let many = state.waiting.len().min(KEYS);
        Some(state.waiting.drain(..many).collect())
    }
}

impl<K, V> Drop for Reading<K, V> {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.state.lock().reading -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    /// Returns double the key, and the number of keys that were read together.
    type Doubled = BatchedRead<u32, (u32, usize)>;

    /// Reads that each wait for a permit. The key `u32::MAX` makes the read fail, 0 makes it panic.
    fn reads() -> (Arc<Doubled>, Arc<Semaphore>, Arc<AtomicU32>) {
        let (permits, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
        let (gate, count) = (permits.clone(), begun.clone());
        let reads = BatchedRead::new(move |keys: Vec<u32>| {
            let gate = gate.clone();
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                gate.acquire().await.unwrap().forget();
                assert!(!keys.contains(&0), "a read that panics");
                if keys.contains(&u32::MAX) {
                    return Err(Error::not_found("key"));
                }
                Ok(keys.iter().map(|key| (key * 2, keys.len())).collect())
            }
        });
        (Arc::new(reads), permits, begun)
    }

    async fn until(begun: &AtomicU32, count: u32) {
        let reached = async {
            while begun.load(Ordering::SeqCst) < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached)
            .await
            .unwrap();
    }

    /// Starts as many reads as are allowed, so that the next keys wait.
    async fn busy(reads: &Arc<Doubled>, begun: &AtomicU32, key: u32) {
        for read in 1..=READS as u32 {
            let reads = reads.clone();
            tokio::spawn(async move { reads.get(key).await });
            until(begun, read).await;
            tokio::time::sleep(SLOW).await;
        }
    }

    #[tokio::test]
    async fn requests_during_a_read_share_the_next_one() {
        let (reads, permits, begun) = reads();
        busy(&reads, &begun, 7).await;
        let keys = 1..=KEYS as u32 + 1;
        let all = join_all(keys.clone().map(|key| reads.get(key)));
        let release = async { permits.add_permits(10) };
        let (answers, ()) = tokio::join!(all, release);
        for (key, answer) in keys.zip(answers) {
            let together = if key <= KEYS as u32 { KEYS } else { 1 };
            assert_eq!(answer.unwrap(), (key * 2, together));
        }
        assert_eq!(begun.load(Ordering::SeqCst), READS as u32 + 2);
        assert_eq!(reads.get(3).await.unwrap(), (6, 1), "idle again");
    }

    #[tokio::test]
    async fn a_failure_is_returned_to_all_requests_of_its_batch_only() {
        let (reads, permits, begun) = reads();
        busy(&reads, &begun, 7).await;
        let all = join_all([1, u32::MAX, 2].map(|key| reads.get(key)));
        let (answers, ()) = tokio::join!(all, async { permits.add_permits(10) });
        for answer in answers {
            assert_eq!(answer.unwrap_err().code, crate::error::Code::NotFound);
        }
        assert_eq!(reads.get(3).await.unwrap(), (6, 1));
    }

    #[tokio::test]
    async fn cancelled_requests_are_not_read() {
        let (reads, permits, begun) = reads();
        busy(&reads, &begun, 7).await;
        let gone = tokio::spawn({
            let reads = reads.clone();
            async move { reads.get(u32::MAX).await }
        });
        tokio::task::yield_now().await;
        gone.abort();
        let _ = gone.await;
        let (answer, ()) = tokio::join!(reads.get(1), async { permits.add_permits(10) });
        assert_eq!(answer.unwrap(), (2, 1));
    }

    #[tokio::test]
    async fn a_read_that_panics_releases_its_slot() {
        let (reads, permits, begun) = reads();
        busy(&reads, &begun, 0).await;
        permits.add_permits(READS);
        let reached = async {
            while reads.shared.state.lock().reading > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached)
            .await
            .unwrap();
        permits.add_permits(1);
        assert_eq!(reads.get(2).await.unwrap(), (4, 1));
    }
}
