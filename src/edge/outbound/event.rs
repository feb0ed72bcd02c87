//! An event on its way to sockets. Many sockets share one, so each codec renders it at most once.

use std::sync::{Arc, OnceLock};

use serde::Serialize;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::{
    model::FeedEvent,
    protocol::{EventName, raw},
};

/// The codecs that render events. Each has its own slot in [`OutboundEvent`] for the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Plain,
    SocketIo,
}

/// An event, with its rendering by each codec.
pub struct OutboundEvent {
    name: EventName,
    /// JSON.
    data: String,
    rendered: [OnceLock<Utf8Bytes>; 2],
}

impl OutboundEvent {
    pub fn new(name: EventName, data: String) -> Arc<Self> {
        Arc::new(OutboundEvent {
            name,
            data,
            rendered: Default::default(),
        })
    }

    pub fn feed(event: FeedEvent) -> Arc<Self> {
        OutboundEvent::new(event.kind.into(), event.data)
    }

    /// The event as one codec writes it. The first call renders it from the event's name and JSON.
    pub fn rendered(&self, by: Encoding, render: fn(&str, &str) -> Utf8Bytes) -> Utf8Bytes {
        self.rendered[by as usize]
            .get_or_init(|| render(self.name.as_str(), &self.data))
            .clone()
    }

    /// The size of its data in bytes.
    pub fn size(&self) -> usize {
        self.data.len()
    }
}

/// An event for one socket.
pub fn event(name: EventName, data: &impl Serialize) -> Arc<OutboundEvent> {
    OutboundEvent::new(name, Box::<str>::from(raw(data)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_codec_renders_an_event_once() {
        let event = OutboundEvent::new(EventName::NewMessage, "{\"seq\":1}".into());
        let plain = |name: &str, data: &str| format!("{name} {data}").into();
        let socketio = |name: &str, data: &str| format!("{data} {name}").into();
        let first = event.rendered(Encoding::Plain, plain);
        assert_eq!(first.as_str(), "newMessage {\"seq\":1}");
        let again = event.rendered(Encoding::Plain, |_, _| unreachable!("it is rendered"));
        assert_eq!(first.as_str().as_ptr(), again.as_str().as_ptr());
        let other = event.rendered(Encoding::SocketIo, socketio);
        assert_eq!(other.as_str(), "{\"seq\":1} newMessage");
    }
}
