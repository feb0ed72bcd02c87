//! The consumers of a lane, served round-robin: if more waits than fits in a batch, the next batch continues with the
//! next consumers, so that a partition with a backlog never delays the others.

use std::collections::VecDeque;

use futures_util::future::select_all;

use crate::{
    error::Result,
    queue::{Consumer, Delivery, Partition},
};

#[derive(Default)]
pub(super) struct RoundRobinConsumers {
    /// The next one is in front; a consumer that was served moves to the back.
    consumers: VecDeque<(Partition, BufferedConsumer)>,
}

/// A consumer, and the deliveries that [`RoundRobinConsumers::fill`] has taken from it.
struct BufferedConsumer {
    consumer: Box<dyn Consumer>,
    arrived: VecDeque<Delivery>,
}

impl BufferedConsumer {
    fn try_next(&mut self) -> Option<Delivery> {
        self.arrived
            .pop_front()
            .or_else(|| self.consumer.try_next())
    }
}

impl RoundRobinConsumers {
    pub fn is_empty(&self) -> bool {
        self.consumers.is_empty()
    }

    pub fn contains(&self, partition: Partition) -> bool {
        self.position(partition).is_some()
    }

    pub fn partitions(&self) -> impl Iterator<Item = Partition> {
        self.consumers.iter().map(|(partition, _)| *partition)
    }

    /// Adds a consumer in front. There must be none of this partition yet.
    pub fn insert(&mut self, partition: Partition, consumer: Box<dyn Consumer>) {
        let consumer = BufferedConsumer {
            consumer,
            arrived: VecDeque::new(),
        };
        self.consumers.push_front((partition, consumer));
    }

    pub fn remove(&mut self, partition: Partition) -> Option<Box<dyn Consumer>> {
        let removed = self.consumers.remove(self.position(partition)?);
        removed.map(|(_, buffered)| buffered.consumer)
    }

    /// Takes over every delivery that has arrived, at most `queue.prefetch` per consumer, and returns how many wait
    /// here.
    pub fn fill(&mut self) -> u64 {
        let mut waiting = 0;
        for (_, buffered) in &mut self.consumers {
            while let Some(delivery) = buffered.consumer.try_next() {
                buffered.arrived.push_back(delivery);
            }
            waiting += buffered.arrived.len() as u64;
        }
        waiting
    }

    /// The next delivery of any partition; `None` if its consumer is lost. Never resolves while empty. Cancel-safe, as
    /// [`Consumer::next`] is.
    pub async fn next(&mut self) -> (Partition, Option<Delivery>) {
        if self.consumers.is_empty() {
            return std::future::pending().await;
        }
        let arrived = |(_, buffered): &(_, BufferedConsumer)| !buffered.arrived.is_empty();
        if self.consumers.iter().any(arrived)
            && let Some((partition, delivery)) = self.try_next()
        {
            return (partition, Some(delivery));
        }
        let nexts = self
            .consumers
            .iter_mut()
            .map(|(_, buffered)| buffered.consumer.next());
        let (delivery, served, _) = select_all(nexts).await;
        // The consumers before it had nothing: they stay in front.
        let (partition, consumer) = self.consumers.remove(served).expect("it has just answered");
        self.consumers.push_back((partition, consumer));
        (partition, delivery)
    }

    /// The next delivery that has arrived already.
    pub fn try_next(&mut self) -> Option<(Partition, Delivery)> {
        for _ in 0..self.consumers.len() {
            let (partition, consumer) = self.consumers.front_mut()?;
            let (partition, delivery) = (*partition, consumer.try_next());
            self.consumers.rotate_left(1);
            if let Some(delivery) = delivery {
                return Some((partition, delivery));
            }
        }
        None
    }

    /// Does nothing if the consumer is gone: its deliveries are redelivered.
    ///
    /// # Errors
    /// Those of [`Consumer::ack_through`].
    pub async fn ack_through(&mut self, partition: Partition, tag: u64) -> Result<()> {
        match self.position(partition) {
            Some(at) => self.consumers[at].1.consumer.ack_through(tag).await,
            None => Ok(()),
        }
    }

    /// Closes all consumers; unacknowledged payloads are requeued.
    pub async fn close(self) {
        for (_, buffered) in self.consumers {
            buffered.consumer.close().await;
        }
    }

    fn position(&self, partition: Partition) -> Option<usize> {
        self.partitions().position(|known| known == partition)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;

    /// A consumer with this many waiting deliveries.
    struct Waiting(u64);

    #[async_trait]
    impl Consumer for Waiting {
        async fn next(&mut self) -> Option<Delivery> {
            match self.try_next() {
                Some(delivery) => Some(delivery),
                None => std::future::pending().await,
            }
        }

        fn try_next(&mut self) -> Option<Delivery> {
            self.0 = self.0.checked_sub(1)?;
            Some(Delivery {
                payload: Bytes::new(),
                tag: u64::MAX - self.0,
                redelivered: false,
            })
        }

        async fn ack_through(&mut self, _: u64) -> Result<()> {
            Ok(())
        }

        async fn close(self: Box<Self>) {}
    }

    fn consumers(waiting: &[u64]) -> RoundRobinConsumers {
        let mut consumers = RoundRobinConsumers::default();
        for (partition, waiting) in waiting.iter().enumerate() {
            consumers.insert(partition as Partition, Box::new(Waiting(*waiting)));
        }
        consumers
    }

    /// The partitions that a batch of this many deliveries serves.
    async fn batch(consumers: &mut RoundRobinConsumers, deliveries: usize) -> Vec<Partition> {
        let mut served = vec![consumers.next().await.0];
        while served.len() < deliveries
            && let Some((partition, _)) = consumers.try_next()
        {
            served.push(partition);
        }
        served
    }

    #[tokio::test]
    async fn a_backlog_delays_no_other_partition() {
        for first in 0..8 {
            let mut waiting = [1000; 8];
            waiting[first] = 1;
            let mut consumers = consumers(&waiting);
            let mut served = Vec::new();
            for _ in 0..4 {
                served.extend(batch(&mut consumers, 2).await);
            }
            served.sort_unstable();
            assert_eq!(served, [0, 1, 2, 3, 4, 5, 6, 7], "each once");
        }
    }

    #[tokio::test]
    async fn buffered_deliveries_are_returned_in_order() {
        let mut consumers = consumers(&[3, 0, 2]);
        assert_eq!(consumers.fill(), 5);
        assert_eq!(consumers.fill(), 5, "nothing more has arrived");
        let mut tags = std::collections::HashMap::<_, Vec<u64>>::new();
        for _ in 0..2 {
            let (partition, delivery) = consumers.next().await;
            tags.entry(partition)
                .or_default()
                .push(delivery.unwrap().tag);
        }
        while let Some((partition, delivery)) = consumers.try_next() {
            tags.entry(partition).or_default().push(delivery.tag);
        }
        let ascending = |tags: &Vec<u64>| tags.is_sorted_by(|a, b| a < b);
        assert_eq!((tags[&0].len(), tags[&2].len(), tags.len()), (3, 2, 2));
        assert!(tags.values().all(ascending), "{tags:?}");
        assert_eq!(consumers.fill(), 0);
    }

    #[tokio::test]
    async fn an_empty_partition_is_skipped() {
        let mut consumers = consumers(&[0, 3, 0, 2]);
        let served = batch(&mut consumers, 9).await;
        assert_eq!(served, [3, 1, 3, 1, 1]);
        let brought = tokio::time::timeout(std::time::Duration::from_millis(1), consumers.next());
        assert!(brought.await.is_err());
        let mut all: Vec<Partition> = consumers.partitions().collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3], "a cancelled wait loses no consumer");
    }
}
