//! The end of a connection: write the remaining items, send the close reason, wait for the peer's answer. The session
//! has ended before and no shared resource is held; everything here has a deadline.

use std::{future::poll_fn, time::Duration};

use super::{Codec, Connection};
use crate::{
    edge::{outbound::Ending, transport::websocket::Broken},
    protocol::Close,
};

/// Time limit of the whole end: remaining items, close frame, the peer's answer.
const GOODBYE: Duration = Duration::from_secs(5);

impl<C: Codec> Connection<C> {
    /// Ends the connection within [`GOODBYE`]. A stalled peer gets the close frame only if the socket buffer takes it
    /// at once.
    pub(super) async fn end(&mut self, ending: Ending) {
        let within = if self.stalled {
            Duration::ZERO
        } else {
            GOODBYE
        };
        let _ = tokio::time::timeout(within, self.goodbye(ending)).await;
    }

    /// Writes the remaining items and the codec's closing items, then closes the link.
    async fn goodbye(&mut self, ending: Ending) {
        let outbox = self.outbox.clone();
        // An outbox that knows of the end wakes this writer for the last pending answer and takes no more events.
        outbox.close_with(ending.close, ending.reason.clone());
        outbox.block();
        if ending.close != Close::Slow {
            loop {
                if self.link.is_writable(&outbox) {
                    outbox.take(&mut self.writing);
                    if !self.writing.is_empty() && self.write_taken().await.is_err() {
                        return;
                    }
                }
                // Sends that the queue has not confirmed yet are still answered.
                if !outbox.has_pending_acks() {
                    break;
                }
                outbox.wait().await;
            }
        }
        outbox.take(&mut self.writing);
        self.codec.last_items(&ending, &mut self.writing);
        if self.writing.is_empty() {
            self.writing.extend(self.link.last_item());
        }
        while !self.writing.is_empty() {
            if self.link.hold() {
                if self.write_taken().await.is_err() {
                    return;
                }
            } else if ending.close == Close::Idle {
                return;
            } else {
                outbox.wait().await;
            }
        }
        self.link.close(ending).await;
    }

    async fn write_taken(&mut self) -> Result<(), Broken> {
        let (link, writing) = (&mut self.link, &mut self.writing);
        poll_fn(|cx| link.poll_write(cx, writing, C::render)).await
    }
}
