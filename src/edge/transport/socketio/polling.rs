//! HTTP long-polling: a `GET` waits for items of the outbox, a `POST` brings packets. At most one of each may be open;
//! a second one ends the session, as does a poll that the client aborts.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use poem::{
    Body, Response,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::oneshot,
};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::{
    engine::{Engine, Handle},
    packet::Packet,
    refused::{Refused, payload},
};
use crate::edge::transport::polling::{CLOSE, Incoming, NOOP, SEPARATOR};

/// Time limit of a post's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a post may wait while the session handles others, before the session ends.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How many bytes of an oversized body are read before it is rejected, and for how long.
const DISCARD: u64 = 4 << 20;
const DISCARD_WITHIN: Duration = Duration::from_secs(5);
/// How long a poll may wait during an upgrade.
const UPGRADING_POLL: Duration = Duration::from_millis(100);

impl Engine {
    /// Waits until the outbox has items, at the latest a ping.
    pub(super) async fn poll(self: &Arc<Self>, session: Arc<Handle>) -> Result<Response, Refused> {
        let (sender, mut answer) = oneshot::channel();
        {
            let mut waiting = session.poll.0.lock();
            if let Some(first) = waiting.take() {
                drop(waiting);
                self.remove(session.sid);
                let _ = first.send(CLOSE.as_str().to_owned());
                return Err(Refused::BadRequest);
            }
            *waiting = Some(sender);
        }
        session.outbox.notify_writable();
        let abandoned = Abandoned(self, session.sid);
        let upgrading = session.upgrading.load(Ordering::Acquire);
        let poll = session.poll.clone();
        // The request must not keep a removed session alive.
        drop(session);
        let answer = if upgrading {
            match tokio::time::timeout(UPGRADING_POLL, &mut answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    poll.answer(NOOP);
                    answer.await
                }
            }
        } else {
            answer.await
        };
        std::mem::forget(abandoned);
        answer.map(payload).map_err(|_| Refused::UnknownSession)
    }

    /// Reads the packets of a post and passes them to the session.
    pub(super) async fn post(
        self: &Arc<Self>,
        session: Arc<Handle>,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Refused> {
        let Some(_posting) = Posting::begin(&session.posting) else {
            self.remove(session.sid);
            return Err(Refused::BadRequest);
        };
        let max = self.edge.config.socketio.max_payload;
        let read = read_body(headers, body, max);
        let body = match tokio::time::timeout(BODY_TIMEOUT, read).await {
            Ok(Ok(body)) => body,
            Ok(Err(BadBody::TooLarge)) => return Ok(too_large()),
            Ok(Err(BadBody::Broken)) | Err(_) => {
                self.remove(session.sid);
                return Err(Refused::BadRequest);
            }
        };
        let packets = std::str::from_utf8(&body).ok().and_then(packets);
        let Some(packets) = packets else {
            self.remove(session.sid);
            return Err(Refused::BadRequest);
        };
        // Waits for capacity: the channel is bounded.
        let sending = session.incoming.send(Incoming::Packets(packets));
        match tokio::time::timeout(BUSY_TIMEOUT, sending).await {
            Ok(Ok(())) => Ok(payload("ok".to_owned())),
            Ok(Err(_)) => Err(Refused::UnknownSession),
            Err(_) => {
                self.remove(session.sid);
                Err(Refused::UnknownSession)
            }
        }
    }
}

enum BadBody {
    TooLarge,
    Broken,
}

/// The body of a post, at most `max` bytes. Part of a larger body is read and discarded: closing with unread bytes
/// resets the connection, and a client that is still sending would lose the answer.
async fn read_body(headers: &HeaderMap, body: Body, max: usize) -> Result<Vec<u8>, BadBody> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let over = announced.is_some_and(|length| length > max as u64);
    // A client that expects `100 Continue` has not sent the body yet (RFC 9110, section 10.1.1).
    if over && headers.contains_key(header::EXPECT) {
        return Err(BadBody::TooLarge);
    }
    let mut reader = body.into_async_read();
    let mut bytes = Vec::new();
    if !over {
        let mut within = (&mut reader).take(max as u64 + 1);
        let read = within.read_to_end(&mut bytes).await;
        read.map_err(|_| BadBody::Broken)?;
    }
    if over || bytes.len() > max {
        discard(reader).await;
        return Err(BadBody::TooLarge);
    }
    Ok(bytes)
}

async fn discard(body: impl AsyncRead + Unpin) {
    let mut body = body.take(DISCARD);
    let reading = async {
        let _ = tokio::io::copy(&mut body, &mut tokio::io::sink()).await;
    };
    let _ = tokio::time::timeout(DISCARD_WITHIN, reading).await;
}

fn too_large() -> Response {
    let mut response = Response::from(StatusCode::PAYLOAD_TOO_LARGE);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The packets of a payload; `None` if any is malformed.
fn packets(body: &str) -> Option<VecDeque<Utf8Bytes>> {
    body.split(SEPARATOR)
        .map(|packet| match Packet::parse(packet) {
            Ok(_) => Some(packet.into()),
            Err(_) => None,
        })
        .collect()
}

/// Removes a session whose client aborted its poll: items in transit may be lost.
struct Abandoned<'a>(&'a Engine, Uuid);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        self.0.remove(self.1);
    }
}

struct Posting<'a>(&'a AtomicBool);

impl<'a> Posting<'a> {
    fn begin(posting: &'a AtomicBool) -> Option<Self> {
        (!posting.swap(true, Ordering::AcqRel)).then_some(Posting(posting))
    }
}

impl Drop for Posting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_packets_with_separators() {
        let found = packets("42[\"a\"]\u{1e}3\u{1e}bAQID").unwrap();
        assert_eq!(found, ["42[\"a\"]", "3", "bAQID"].map(Utf8Bytes::from));
        assert!(packets("").is_none());
        assert!(packets("42[]\u{1e}").is_none());
        assert!(packets("abc").is_none());
    }
}
