//! From polling to WebSocket: the client probes the new way while the old one still works, and then moves over. What
//! was written before has been read by then, since the client ends its last poll first.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use poem::{Request, Response};

use super::{
    Engine, Refused,
    engine::{Handle, NOOP},
    polling::Incoming,
};
use crate::edge::transport::link::{self, Received, Upgrading};

/// How long a client may take from its handshake to its last word.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

impl Engine {
    /// `GET ?transport=websocket&sid=`.
    pub(super) fn upgrade(
        &self,
        session: &Arc<Handle>,
        request: &Request,
    ) -> Result<Response, Refused> {
        let (response, upgrading) = link::accept(request).map_err(Refused::Handshake)?;
        if session.upgrading.swap(true, Ordering::AcqRel) {
            return Err(Refused::BadRequest);
        }
        let max = self.edge.config.socketio.max_payload;
        // A session that was let go is not kept by its upgrade.
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

/// `2probe`, `3probe`, the end of the waiting poll, `5`. Anything else ends the WebSocket, and polling goes on.
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

async fn expect(socket: &mut link::WebSocket, packet: &str) -> Option<()> {
    loop {
        match socket.receive().await.ok()? {
            Received::Text(text) => return (text.as_str() == packet).then_some(()),
            Received::Nothing => {}
            Received::Binary => return None,
        }
    }
}
