//! Connections beyond the limits: one request is answered immediately, and the connection is closed. Health checks are
//! answered normally, so that a full node does not look dead; all other requests get 503 with `Retry-After`.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Method, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use poem::{Endpoint, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    MAX_HEAD, Server,
    admission::{Full, ReserveSlot},
    log_throttle::LogThrottle,
    stream::{Deadlines, HttpStream, Progress},
    tls,
};
use crate::{edge::api, error::Error, telemetry::metrics};

/// Time limit for sending the request.
const REQUEST_WITHIN: Duration = Duration::from_secs(2);
/// Maximum lifetime of such a connection. `/readyz` takes 1 s if a dependency does not answer.
const OVER_AFTER: Duration = Duration::from_secs(5);
/// `Retry-After` of the refusal.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The response to a connection that is evicted before its request has arrived.
const EVICTION_RESPONSE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// The requests that are answered normally. The endpoint itself refuses `/metrics` where it is not public.
fn is_health(method: &Method, path: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
        && matches!(path, "/healthz" | "/readyz" | "/metrics")
}

/// Counts refused connections and logs them from time to time.
#[derive(Default)]
pub struct Refusals(LogThrottle);

impl Refusals {
    fn count(&self, full: Full, peer: SocketAddr) {
        let limit = match full {
            Full::Server => "server",
            Full::Address => "address",
        };
        metrics()
            .connections_refused
            .with_label_values(&[limit])
            .inc();
        if let Some(refused) = self.0.count() {
            tracing::warn!(refused, last_from = %peer.ip(), reason = full.message(), "connections refused");
        }
    }
}

impl<E: Endpoint<Output = Response> + 'static> Server<E> {
    /// Answers one request of a connection beyond the limits.
    pub(super) async fn refuse(
        self: Arc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
        full: Full,
        slot: ReserveSlot,
    ) {
        let since = tokio::time::Instant::now();
        self.refusals.count(full, peer);
        let evicted = slot.evicted.clone();
        tokio::select! {
            ready = stream.readable() => if ready.is_err() { return },
            () = evicted.cancelled() => {
                if self.tls.is_none() {
                    answer_evicted(&stream);
                }
                return;
            }
            () = tokio::time::sleep(REQUEST_WITHIN) => return,
        }
        let local = stream.local_addr().unwrap_or(peer);
        let deadlines = Deadlines {
            request: REQUEST_WITHIN,
            idle: REQUEST_WITHIN,
            write: REQUEST_WITHIN,
        };
        let over = async {
            if let Some(tls) = self.tls.clone() {
                if !tls::begins(&mut stream, since + REQUEST_WITHIN).await {
                    return;
                }
                let stream = HttpStream::new(stream, deadlines, since);
                let progress = stream.progress();
                if let Some(stream) = tls.accept(stream).await {
                    let conn = (stream, progress);
                    self.answer_once(conn, (local, peer), full, slot).await;
                }
            } else {
                let stream = HttpStream::new(stream, deadlines, since);
                let progress = stream.progress();
                let conn = (stream, progress);
                self.answer_once(conn, (local, peer), full, slot).await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(OVER_AFTER, over) => {}
            () = evicted.cancelled() => {}
        }
    }

    /// Answers the first request, and closes.
    async fn answer_once<S>(
        self: &Arc<Self>,
        (stream, progress): (S, Progress),
        (local, peer): (SocketAddr, SocketAddr),
        full: Full,
        slot: ReserveSlot,
    ) where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let slot = Mutex::new(Some(slot));
        let server = self.clone();
        let service = service_fn(|request: hyper::Request<Incoming>| {
            progress.request_begins();
            // A complete request can no longer be evicted.
            slot.lock().take();
            let answer = if is_health(request.method(), request.uri().path()) {
                server.admission.reserve.answer()
            } else {
                None
            }
            .map(|permit| (permit, server.answer(request, local, peer)));
            let progress = progress.clone();
            async move {
                let response = match answer {
                    Some((_permit, answer)) => answer.await,
                    None => refusal(full),
                };
                progress.answer_begins(false);
                Ok::<_, Infallible>(hyper::Response::from(response))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .header_read_timeout(None)
            .keep_alive(false)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let _ = connection.await;
    }
}

fn refusal(full: Full) -> Response {
    let mut response = api::refusal(&Error::busy(full.message(), RETRY_AFTER));
    api::protect(&mut response);
    response
}

/// Best effort without waiting. Closing a connection with unread bytes sends a TCP reset, which can destroy the
/// response.
fn answer_evicted(stream: &TcpStream) {
    let _ = stream.try_read(&mut [0; 4096]);
    let _ = stream.try_write(EVICTION_RESPONSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_is_answered_beyond_the_limits() {
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert!(is_health(&Method::GET, path));
            assert!(is_health(&Method::HEAD, path));
            assert!(!is_health(&Method::POST, path));
        }
        for path in ["/", "/healthz/", "/api", "/v1/me", "/ws"] {
            assert!(!is_health(&Method::GET, path), "{path}");
        }
    }

    #[test]
    fn the_eviction_response_has_retry_after() {
        let text = std::str::from_utf8(EVICTION_RESPONSE).unwrap();
        let line = format!("retry-after: {}\r\n", RETRY_AFTER.as_secs());
        assert!(text.contains(&line) && text.ends_with("\r\n\r\n"));
    }
}
