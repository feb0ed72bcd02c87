//! What a transport has to know for its connections: how things look on the wire, and what ends them.

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

/// How one transport writes things down. Holds what it must know of its socket; does no I/O.
pub(in crate::edge) trait Codec: Send {
    /// The metrics' name of the transport.
    const TRANSPORT: &'static str;

    /// What a text from the peer asks for.
    fn read(&mut self, text: &str) -> Input;
    /// What a binary message asks for.
    fn read_binary(&mut self) -> Input;
    fn render(item: &Item) -> Utf8Bytes;

    /// How a session is greeted that answers the request `id`.
    fn greeting(&mut self, id: RequestId) -> Greeting;
    /// Says that credentials do not hold.
    ///
    /// # Errors
    /// Where that ends the socket.
    fn refuse(&mut self, outbox: &Outbox, id: RequestId, error: Error) -> Result<(), Over>;
    /// The end of a socket that brought no credentials in time.
    fn too_late(&mut self, outbox: &Outbox) -> Over;
    /// What the peer should read before the end.
    fn farewell(&self, ending: &Ending, into: &mut VecDeque<Item>);

    /// How long after its start a socket is first looked after.
    fn first_beat(&self) -> Duration;
    /// Looks after a peer that sent nothing for `quiet`, and says when to look again.
    fn beat(&mut self, quiet: Duration) -> (Beat, Duration);
    /// How long the answer to the last ping may take, where there is none yet and nothing else counts as one.
    fn pong_due(&self) -> Option<Duration>;
}

/// What a peer asks for.
pub(in crate::edge) enum Input {
    Request(RequestId, Request),
    /// A request that cannot be read.
    Bad(RequestId, Error),
    /// Credentials, to open the session with.
    Open(RequestId, Result<String>),
    /// A request before the credentials.
    Early(RequestId, Error),
    /// Something that has its answer already.
    Reply(Item),
    /// The session ends, the socket does not.
    Leave,
    /// The peer answered a ping; the next is due after this time.
    Alive(Duration),
    Nothing,
    End(Over),
}

pub(in crate::edge) enum Beat {
    Nothing,
    /// An RFC 6455 ping.
    Ping,
    Send(Item),
    /// The peer is not there any more.
    Dead,
}

/// Why a connection is over.
pub(in crate::edge) enum Over {
    /// Tell the peer.
    End(Ending),
    /// There is nobody to tell any more.
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
