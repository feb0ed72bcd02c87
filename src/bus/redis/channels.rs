//! The names of channels in Redis.

use uuid::Uuid;

use crate::bus::Channel;

/// Maps channels to their names in Redis and back.
pub(super) struct ChannelNames {
    pub prefix: String,
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
