//! The transport-specific part of a connection: the wire format, heartbeats and endings.

use std::{collections::VecDeque, time::Duration};

use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::{
    edge::{
        outbound::{Ending, Item, Outbox, RequestId},
        session::Greeting,
    },
    error::{Error, Result},
    protocol::{Close, Request},
};

/// Encodes and decodes one transport's messages. Keeps per-socket state; does no I/O.
pub(in crate::edge) trait Codec: Send {
    /// The value of the metrics' label `transport`.
    const TRANSPORT: &'static str;

    /// Decodes a text message.
    fn read(&mut self, text: &str) -> Input;
    /// Decodes a binary message.
    fn read_binary(&mut self) -> Input;
    fn render(item: &Item) -> Utf8Bytes;

    /// The greeting of a session that was opened by the request `id`.
    fn greeting(&mut self, id: RequestId) -> Greeting;
    /// Answers rejected credentials.
    ///
    /// # Errors
    /// How the socket ends, if the transport closes it.
    fn refuse(&mut self, outbox: &Outbox, id: RequestId, error: Error) -> Result<(), Over>;
    /// How a socket without credentials ends after `edge.auth_timeout`.
    fn too_late(&mut self, outbox: &Outbox) -> Over;
    /// Appends the items that the peer should get before the close.
    fn last_items(&self, ending: &Ending, into: &mut VecDeque<Item>);

    /// Delay of the first heartbeat after the connection starts.
    fn first_heartbeat(&self) -> Duration;
    /// The heartbeat of a peer that was silent for `quiet`, and the delay of the next one.
    fn heartbeat(&mut self, quiet: Duration) -> (Heartbeat, Duration);
    /// Timeout of the pending ping, if only a pong can answer it.
    fn pong_due(&self) -> Option<Duration>;
}

/// A decoded message.
pub(in crate::edge) enum Input {
    Request(RequestId, Request),
    /// A request that does not parse.
    Bad(RequestId, Error),
    /// Credentials that open the session.
    Open(RequestId, Result<String>),
    /// A request before the credentials.
    Early(RequestId, Error),
    /// A message that the codec answers itself.
    Reply(Item),
    /// The session ends, but not the socket.
    Leave,
    /// A pong; the next ping is due after this time.
    Alive(Duration),
    Nothing,
    End(Over),
}

pub(in crate::edge) enum Heartbeat {
    Nothing,
    /// An RFC 6455 ping.
    Ping,
    Send(Item),
    /// The peer has timed out.
    Dead,
}

/// How a connection ends.
pub(in crate::edge) enum Over {
    /// With a close frame.
    End(Ending),
    /// The peer is gone: nothing is sent.
    Gone,
}

impl Over {
    pub fn with(close: Close) -> Over {
        Over::because(close, close.reason())
    }

    pub fn because(close: Close, reason: impl Into<String>) -> Over {
        Over::End(Ending {
            close,
            reason: reason.into(),
        })
    }
}
