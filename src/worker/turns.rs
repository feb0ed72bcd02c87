//! The consumers of a lane, who are served in turn: where more waits than fits in a batch, the next batch goes on with
//! those whose turn did not come, so that a partition that is far behind never holds up the others.

use std::collections::VecDeque;

use futures_util::future::select_all;

use crate::{
    error::Result,
    queue::{Consumer, Delivery, Partition},
};

#[derive(Default)]
pub(super) struct Turns {
    /// Whoever was served goes to the back.
    consumers: VecDeque<(Partition, Box<dyn Consumer>)>,
}

impl Turns {
    pub fn is_empty(&self) -> bool {
        self.consumers.is_empty()
    }

    pub fn contains(&self, partition: Partition) -> bool {
        self.position(partition).is_some()
    }

    pub fn partitions(&self) -> impl Iterator<Item = Partition> {
        self.consumers.iter().map(|(partition, _)| *partition)
    }

    /// The first to be served. There is none of this partition yet.
    pub fn insert(&mut self, partition: Partition, consumer: Box<dyn Consumer>) {
        self.consumers.push_front((partition, consumer));
    }

    pub fn remove(&mut self, partition: Partition) -> Option<Box<dyn Consumer>> {
        let removed = self.consumers.remove(self.position(partition)?);
        removed.map(|(_, consumer)| consumer)
    }

    /// The next delivery of any partition; without one, its consumer is lost. Never resolves while empty. Cancel-safe,
    /// as each `next` is.
    pub async fn next(&mut self) -> (Partition, Option<Delivery>) {
        if self.consumers.is_empty() {
            return std::future::pending().await;
        }
        let nexts = self
            .consumers
            .iter_mut()
            .map(|(_, consumer)| consumer.next());
        let (delivery, served, _) = select_all(nexts).await;
        // Those before it had nothing: they stay the first to be asked.
        let (partition, consumer) = self.consumers.remove(served).expect("it has just answered");
        self.consumers.push_back((partition, consumer));
        (partition, delivery)
    }

    /// A delivery that is there without waiting.
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

    /// Nothing where the consumer is gone: what it brought comes again.
    ///
    /// # Errors
    /// Those of [`Consumer::ack_through`].
    pub async fn ack_through(&mut self, partition: Partition, tag: u64) -> Result<()> {
        match self.position(partition) {
            Some(at) => self.consumers[at].1.ack_through(tag).await,
            None => Ok(()),
        }
    }

    /// Puts what was not acknowledged back.
    pub async fn close(self) {
        for (_, consumer) in self.consumers {
            consumer.close().await;
        }
    }

    fn position(&self, partition: Partition) -> Option<usize> {
        self.partitions().position(|here| here == partition)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;

    /// So many deliveries wait.
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

    fn turns(waiting: &[u64]) -> Turns {
        let mut turns = Turns::default();
        for (partition, waiting) in waiting.iter().enumerate() {
            turns.insert(partition as Partition, Box::new(Waiting(*waiting)));
        }
        turns
    }

    /// Whom a batch of so many deliveries serves.
    async fn batch(turns: &mut Turns, deliveries: usize) -> Vec<Partition> {
        let mut served = vec![turns.next().await.0];
        while served.len() < deliveries
            && let Some((partition, _)) = turns.try_next()
        {
            served.push(partition);
        }
        served
    }

    #[tokio::test]
    async fn whoever_is_far_behind_holds_up_nobody() {
        for first in 0..8 {
            let mut waiting = [1000; 8];
            waiting[first] = 1;
            let mut turns = turns(&waiting);
            let mut served = Vec::new();
            for _ in 0..4 {
                served.extend(batch(&mut turns, 2).await);
            }
            served.sort_unstable();
            assert_eq!(served, [0, 1, 2, 3, 4, 5, 6, 7], "each once");
        }
    }

    #[tokio::test]
    async fn whoever_has_nothing_takes_no_turn() {
        let mut turns = turns(&[0, 3, 0, 2]);
        let served = batch(&mut turns, 9).await;
        assert_eq!(served, [3, 1, 3, 1, 1]);
        let brought = tokio::time::timeout(std::time::Duration::from_millis(1), turns.next());
        assert!(brought.await.is_err());
        let mut all: Vec<Partition> = turns.partitions().collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3], "giving up a wait loses nobody");
    }
}
