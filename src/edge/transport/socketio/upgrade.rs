//! The upgrade from polling to WebSocket: the client probes the WebSocket while polling still works, then switches.
//! Everything written before has been read by then, since the client ends its last poll first.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use poem::{Request, Response};

use super::{
    engine::{Engine, Handle},
    refused::Refused,
};
use crate::edge::transport::{
    polling::{Incoming, NOOP},
    socket::{self, Upgrading},
    websocket::Received,
};

/// Time limit from the WebSocket handshake to the upgrade packet.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

impl Engine {
    /// `GET ?transport=websocket&sid=`.
    pub(super) fn upgrade(
        &self,
        session: &Arc<Handle>,
        request: &Request,
    ) -> Result<Response, Refused> {
        let (response, upgrading) = socket::accept(request).map_err(Refused::Handshake)?;
        if session.upgrading.swap(true, Ordering::AcqRel) {
            return Err(Refused::BadRequest);
        }
        let max = self.edge.config.socketio.max_payload;
        // Weak, so that the upgrade does not keep a removed session alive.
        let session = Arc::downgrade(session);
        self.edge.tasks.spawn(async move {
            let probed = probe(&session, upgrading, max);
            let _ = tokio::time::timeout(UPGRADE_TIMEOUT, probed).await;
            if let Some(session) = session.upgrade() {
                session.upgrading.store(false, Ordering::Release);
            }
        });
        Ok(response)
    }
}

/// Expects `2probe`, answers `3probe`, ends the waiting poll and expects `5`. Anything else closes the WebSocket, and
/// polling continues.
async fn probe(session: &Weak<Handle>, upgrading: Upgrading, max: usize) -> Option<()> {
    let mut socket = upgrading.finish(max).await?;
    expect(&mut socket, "2probe").await?;
    socket.send("3probe").await.ok()?;
    session.upgrade()?.poll.answer(NOOP);
    expect(&mut socket, "5").await?;
    let takes_over = Incoming::WebSocket(Box::new(socket));
    let session = session.upgrade()?;
    session.incoming.send(takes_over).await.ok()
}

async fn expect(socket: &mut socket::WebSocket, packet: &str) -> Option<()> {
    loop {
        match socket.receive().await.ok()? {
            Received::Text(text) => return (text.as_str() == packet).then_some(()),
            Received::Nothing => {}
            Received::Binary => return None,
        }
    }
}
