//! Publishing.

use std::sync::Arc;

use async_trait::async_trait;
use deadpool_redis::redis::{cmd, pipe};
use tokio::sync::mpsc;

use super::{channels::ChannelNames, connection::RedisBus, listener};
use crate::{
    bus::{Channel, Incoming, PubSub, Publications, Subscriptions, encode_events},
    error::Result,
};

#[async_trait]
impl PubSub for RedisBus {
    /// One pipeline: cache entries are deleted, then each room is cached and published, then the notices follow.
    async fn publish(&self, publications: &Publications) -> Result<()> {
        let Publications {
            epoch,
            rooms,
            stale,
            notices,
        } = publications;
        let names = self.channel_names();
        let mut pipeline = pipe();
        self.delete_recent(*epoch, stale, &mut pipeline);
        for room in rooms.iter().filter(|room| !room.events.is_empty()) {
            let payload = encode_events(&room.events);
            let count = room.events.len();
            self.append_recent(*epoch, room.room, count, &payload, &mut pipeline);
            let channel = names.name(Channel::Room(room.room));
            pipeline.cmd("PUBLISH").arg(channel).arg(payload).ignore();
        }
        for (channel, payload) in notices {
            pipeline
                .cmd("PUBLISH")
                .arg(names.name(*channel))
                .arg(&payload[..])
                .ignore();
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        self.run(pipeline).await
    }

    async fn listen(&self) -> Result<(Arc<dyn Subscriptions>, mpsc::Receiver<Incoming>)> {
        let (listener, incoming) =
            listener::start(self.servers.clone(), self.channel_names()).await;
        Ok((Arc::new(listener), incoming))
    }

    async fn ping(&self) -> Result<()> {
        let mut ping = pipe();
        ping.add_command(cmd("PING")).ignore();
        self.run(ping).await
    }
}

impl RedisBus {
    fn channel_names(&self) -> ChannelNames {
        ChannelNames {
            prefix: self.settings.prefix.clone(),
        }
    }
}
