//! Channels and listeners.

use std::{
    collections::HashSet,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    bus::MemoryBus,
    state::{Listener, Listeners},
};
use crate::{
    bus::{Channel, Incoming, PubSub, Publications, Subscriptions, encode_events},
    error::Result,
};

/// Messages that may wait for a listener.
const QUEUE: usize = 16 * 1024;

impl Listeners {
    /// Returns the listeners that fell behind with this message.
    fn send(&mut self, channel: Channel, payload: &Bytes) -> Vec<u64> {
        let mut behind = Vec::new();
        let Some(subscribed) = self.channels.get(&channel) else {
            return behind;
        };
        let mut closed = Vec::new();
        for id in subscribed {
            let Some(listener) = self.listeners.get_mut(id) else {
                continue;
            };
            if listener.behind {
                continue;
            }
            let payload = payload.clone();
            match listener
                .sender
                .try_send(Incoming::Message { channel, payload })
            {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    listener.behind = true;
                    behind.push(*id);
                }
                Err(TrySendError::Closed(_)) => closed.push(*id),
            }
        }
        for id in closed {
            self.remove(id);
        }
        behind
    }

    fn add(&mut self, sender: mpsc::Sender<Incoming>) -> u64 {
        let closed = self
            .listeners
            .iter()
            .filter(|(_, listener)| listener.sender.is_closed());
        for id in closed.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove(id);
        }
        let id = self.next;
        self.next += 1;
        self.listeners.insert(
            id,
            Listener {
                sender,
                channels: HashSet::new(),
                behind: false,
            },
        );
        id
    }

    fn remove(&mut self, id: u64) {
        let Some(listener) = self.listeners.remove(&id) else {
            return;
        };
        for channel in listener.channels {
            self.unsubscribe(id, channel);
        }
    }

    fn unsubscribe(&mut self, id: u64, channel: Channel) {
        if let Some(subscribed) = self.channels.get_mut(&channel) {
            subscribed.remove(&id);
            if subscribed.is_empty() {
                self.channels.remove(&channel);
            }
        }
    }
}

/// Waits until the listener has taken something from its full queue, then sends `Lost` and `Restored` and resumes
/// delivery.
async fn restore(listeners: Weak<Mutex<Listeners>>, id: u64) {
    let Some(sender) = listeners.upgrade().and_then(|listeners| {
        let listeners = listeners.lock();
        let listener = listeners.listeners.get(&id);
        listener.map(|listener| listener.sender.clone())
    }) else {
        return;
    };
    // An error means that the receiver was dropped.
    let Ok(permits) = sender.reserve_many(2).await else {
        return;
    };
    if let Some(listeners) = listeners.upgrade() {
        // Under the lock: nothing is sent between the two, and nothing is missed after them.
        let mut listeners = listeners.lock();
        for (permit, incoming) in permits.zip([Incoming::Lost, Incoming::Restored]) {
            permit.send(incoming);
        }
        if let Some(listener) = listeners.listeners.get_mut(&id) {
            listener.behind = false;
        }
    }
}

struct MemorySubscriptions {
    listeners: Arc<Mutex<Listeners>>,
    id: u64,
}

#[async_trait]
impl Subscriptions for MemorySubscriptions {
    async fn subscribe(&self, channels: &[Channel]) -> Result<bool> {
        let mut listeners = self.listeners.lock();
        let Some(listener) = listeners.listeners.get_mut(&self.id) else {
            return Ok(false);
        };
        listener.channels.extend(channels);
        for channel in channels {
            let subscribed = listeners.channels.entry(*channel).or_default();
            subscribed.insert(self.id);
        }
        Ok(true)
    }

    async fn unsubscribe(&self, channels: &[Channel]) -> Result<()> {
        let mut listeners = self.listeners.lock();
        for channel in channels {
            if let Some(listener) = listeners.listeners.get_mut(&self.id) {
                listener.channels.remove(channel);
            }
            listeners.unsubscribe(self.id, *channel);
        }
        Ok(())
    }
}

#[async_trait]
impl PubSub for MemoryBus {
    async fn publish(&self, publications: &Publications) -> Result<()> {
        let mut behind = Vec::new();
        {
            // Both locks for the whole batch: concurrent batches of one room reach cache and channel in the same order.
            let mut listeners = self.listeners.lock();
            let mut recent = self.recent.lock();
            for room in &publications.stale {
                recent.delete(*room);
            }
            for room in publications
                .rooms
                .iter()
                .filter(|room| !room.events.is_empty())
            {
                recent.append(publications.epoch, room);
                let channel = Channel::Room(room.room);
                // Encodes only for rooms with subscribers.
                if listeners.channels.contains_key(&channel) {
                    let payload = Bytes::from(encode_events(&room.events));
                    behind.extend(listeners.send(channel, &payload));
                }
            }
            for (channel, payload) in &publications.notices {
                behind.extend(listeners.send(*channel, payload));
            }
        }
        for id in behind {
            tokio::spawn(restore(Arc::downgrade(&self.listeners), id));
        }
        Ok(())
    }

    async fn listen(&self) -> Result<(Arc<dyn Subscriptions>, mpsc::Receiver<Incoming>)> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let id = self.listeners.lock().add(sender);
        let subscriptions = MemorySubscriptions {
            listeners: self.listeners.clone(),
            id,
        };
        Ok((Arc::new(subscriptions), receiver))
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
