//! Publishing, and the names of channels.

use std::sync::Arc;

use async_trait::async_trait;
use deadpool_redis::redis::{cmd, pipe};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{connection::RedisBus, listener};
use crate::{
    bus::{Channel, Incoming, PubSub, Publications, Subscriptions, encode_events},
    error::Result,
};

#[async_trait]
impl PubSub for RedisBus {
    /// One pipeline: cache entries are deleted, then each room is cached and published, then the notices follow.
    async fn publish(&self, publications: &Publications) -> Result<()> {
        let Publications {
            rooms,
            stale,
            notices,
        } = publications;
        let names = self.channel_names();
        let mut pipeline = pipe();
        self.delete_recent(stale, &mut pipeline);
        for room in rooms.iter().filter(|room| !room.events.is_empty()) {
            let payload = encode_events(&room.events);
            self.append_recent(room.room, room.events.len(), &payload, &mut pipeline);
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
        let (listener, incoming) = listener::start(self.client.clone(), self.channel_names()).await;
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

/// Maps channels to their names in Redis and back.
pub(super) struct ChannelNames {
    prefix: String,
}

impl ChannelNames {
    pub fn name(&self, channel: Channel) -> String {
        let prefix = &self.prefix;
        match channel {
            Channel::Room(id) => format!("{prefix}:room:{}", id.simple()),
            Channel::Edge(id) => format!("{prefix}:edge:{}", id.simple()),
            Channel::Everyone => format!("{prefix}:everyone"),
        }
    }

    pub fn parse(&self, name: &str) -> Option<Channel> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_parsed_from_its_name() {
        let names = ChannelNames {
            prefix: "a:b".to_owned(),
        };
        let id = Uuid::now_v7();
        for channel in [Channel::Room(id), Channel::Edge(id), Channel::Everyone] {
            assert_eq!(names.parse(&names.name(channel)), Some(channel));
        }
        assert_eq!(names.parse("a:everyone"), None);
        assert_eq!(names.parse("a:b:room:1"), None);
    }
}
