//! Leases, semaphores, counters, values, reports and heartbeats.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::bus::MemoryBus;
use crate::{
    bus::{Coordination, WorkerId},
    error::Result,
};

#[async_trait]
impl Coordination for MemoryBus {
    async fn put(&self, key: &str, value: &str, ttl: Duration) -> Result<()> {
        let mut state = self.coordination.lock();
        state.values.put(key.to_owned(), value.to_owned(), ttl);
        Ok(())
    }

    async fn take(&self, key: &str) -> Result<Option<String>> {
        Ok(self.coordination.lock().values.take(&key.to_owned()))
    }

    async fn increment(&self, key: &str, window: Duration) -> Result<u64> {
        let key = key.to_owned();
        let mut state = self.coordination.lock();
        if let Some(count) = state.windows.get(&key) {
            *count += 1;
            return Ok(*count);
        }
        state.windows.put(key, 1, window);
        Ok(1)
    }

    async fn add(&self, additions: &[(&str, u64)], ttl: Duration) -> Result<Vec<u64>> {
        let mut state = self.coordination.lock();
        let totals = additions.iter().map(|(key, addition)| {
            let key = (*key).to_owned();
            let total = state.counters.get(&key).map_or(0, |total| *total) + addition;
            if *addition > 0 {
                state.counters.put(key, total, ttl);
            }
            total
        });
        Ok(totals.collect())
    }

    async fn acquire_lease(&self, key: &str, holder: Uuid, ttl: Duration) -> Result<bool> {
        let key = key.to_owned();
        let mut state = self.coordination.lock();
        if state.leases.get(&key).is_some_and(|other| *other != holder) {
            return Ok(false);
        }
        state.leases.put(key, holder, ttl);
        Ok(true)
    }

    async fn release_lease(&self, key: &str, holder: Uuid) -> Result<()> {
        let key = key.to_owned();
        let mut state = self.coordination.lock();
        if state.leases.get(&key).is_some_and(|other| *other == holder) {
            state.leases.take(&key);
        }
        Ok(())
    }

    async fn acquire_permit(
        &self,
        key: &str,
        holder: Uuid,
        permits: u32,
        ttl: Duration,
    ) -> Result<bool> {
        let mut state = self.coordination.lock();
        let holders = state.semaphores.entry(key.to_owned()).or_default();
        let free = holders.live().len() < permits as usize;
        if free || holders.get(&holder).is_some() {
            holders.put(holder, (), ttl);
            return Ok(true);
        }
        Ok(false)
    }

    async fn release_permit(&self, key: &str, holder: Uuid) -> Result<()> {
        let mut state = self.coordination.lock();
        if let Some(holders) = state.semaphores.get_mut(key) {
            holders.take(&holder);
            if holders.len() == 0 {
                state.semaphores.remove(key);
            }
        }
        Ok(())
    }

    async fn report(&self, key: &str, reporter: Uuid, value: &str, ttl: Duration) -> Result<()> {
        let mut state = self.coordination.lock();
        let reports = state.reports.entry(key.to_owned()).or_default();
        reports.put(reporter, value.to_owned(), ttl);
        Ok(())
    }

    async fn reports(&self, key: &str) -> Result<Vec<String>> {
        let mut state = self.coordination.lock();
        let Some(reports) = state.reports.get_mut(key) else {
            return Ok(Vec::new());
        };
        let reporters: Vec<Uuid> = reports.live().copied().collect();
        let values = reporters
            .iter()
            .filter_map(|id| reports.get(id).map(|value| value.clone()));
        Ok(values.collect())
    }

    async fn heartbeat(&self, worker: WorkerId, ttl: Duration) -> Result<Vec<WorkerId>> {
        let mut state = self.coordination.lock();
        state.workers.put(worker, (), ttl);
        Ok(state.workers.live().copied().collect())
    }

    async fn deregister(&self, worker: WorkerId) -> Result<()> {
        self.coordination.lock().workers.take(&worker);
        Ok(())
    }
}
