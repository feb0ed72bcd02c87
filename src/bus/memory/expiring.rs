//! A map whose entries have a time to live.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

/// Interval at which a write also removes all expired entries.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Expiring<K, V> {
    entries: HashMap<K, (Instant, V)>,
    swept: Instant,
}

impl<K, V> Default for Expiring<K, V> {
    fn default() -> Self {
        Expiring {
            entries: HashMap::new(),
            swept: Instant::now(),
        }
    }
}

impl<K: Hash + Eq + Clone, V> Expiring<K, V> {
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        let now = Instant::now();
        self.entries
            .get_mut(key)
            .filter(|(end, _)| *end > now)
            .map(|(_, value)| value)
    }

    pub fn put(&mut self, key: K, value: V, ttl: Duration) {
        self.sweep();
        self.entries.insert(key, (Instant::now() + ttl, value));
    }

    /// Like `put`, but an entry never ends earlier than before.
    pub fn extend(&mut self, key: K, value: V, ttl: Duration) {
        let known = self.entries.get(&key).map(|(end, _)| *end);
        let end = Instant::now() + ttl;
        self.sweep();
        self.entries
            .insert(key, (known.map_or(end, |known| known.max(end)), value));
    }

    pub fn take(&mut self, key: &K) -> Option<V> {
        self.sweep();
        let (end, value) = self.entries.remove(key)?;
        (end > Instant::now()).then_some(value)
    }

    /// Removes any one entry.
    pub fn evict(&mut self) {
        if let Some(any) = self.entries.keys().next().cloned() {
            self.entries.remove(&any);
        }
    }

    /// Entries, including expired ones that no sweep has removed yet.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The keys of all entries that have not expired; removes the others.
    pub fn live(&mut self) -> impl ExactSizeIterator<Item = &K> {
        let now = Instant::now();
        self.entries.retain(|_, (end, _)| *end > now);
        self.entries.keys()
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.swept) >= SWEEP_EVERY {
            self.entries.retain(|_, (end, _)| *end > now);
            self.swept = now;
        }
    }
}
