//! Accepts connections and serves HTTP/1.1 on them until shutdown, over TLS (`tls.rs`) if `edge.tls` is set. poem handles everything above HTTP.
//!
//! Every wait for a peer has a deadline (`stream.rs`). Connections beyond the limits (`admission.rs`) are accepted as
//! well: one request of each is answered, with 503 unless it is a health check.

mod admission;
pub(super) mod host;
mod log_throttle;
mod overflow;
mod stream;
mod tls;

use std::{
    convert::Infallible,
    future::Future,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::{
    Method,
    body::Incoming,
    header::{CONNECTION, HeaderValue, STRICT_TRANSPORT_SECURITY},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use poem::{
    Endpoint, Request, Response,
    http::{StatusCode, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{admission::Permit, tls::Tls};
use self::{
    admission::{Admission, Full, PendingPermit},
    log_throttle::LogThrottle,
    stream::{Deadlines, HttpStream, Progress},
};
use super::{
    api,
    client_address::{ClientAddress, Proxies, proxy_protocol},
};
use crate::{config, error::Error};

/// Length of the accept queue, capped by the system (`net.core.somaxconn`). When it is full, for example after an
/// edge's restart, Linux drops the SYN and the client retries after 1 s. The standard library uses 128.
const BACKLOG: i32 = 4096;

/// Limit in bytes of a request's head and of each header line; hyper answers longer ones with 431. Response bodies are
/// queued without copying.
const MAX_HEAD: usize = 16 * 1024;

/// How a server treats its peers.
pub struct ServerSettings {
    max_connections: usize,
    max_connections_per_address: usize,
    deadlines: Deadlines,
    proxies: Proxies,
    tls: Option<Arc<Tls>>,
    /// The value of `Strict-Transport-Security`.
    hsts: Option<HeaderValue>,
}

impl ServerSettings {
    /// Settings of an edge's main port.
    pub fn new(edge: &config::Edge, tls: Option<Arc<Tls>>) -> Self {
        let hsts = edge.tls.hsts.as_secs();
        let hsts = (tls.is_some() && hsts > 0).then(|| format!("max-age={hsts}"));
        ServerSettings {
            tls,
            hsts: hsts.and_then(|value| HeaderValue::try_from(value).ok()),
            max_connections: edge.max_connections,
            max_connections_per_address: edge.max_connections_per_address,
            deadlines: Deadlines {
                request: edge.request_timeout,
                idle: edge.idle_timeout,
                write: edge.write_timeout,
            },
            proxies: Proxies::new(edge),
        }
    }

    /// Settings of `metrics.port`: a few connections, from operators only.
    pub fn operations(edge: &config::Edge) -> Self {
        ServerSettings {
            max_connections: 64,
            max_connections_per_address: 64,
            proxies: Proxies::none(),
            ..ServerSettings::new(edge, None)
        }
    }
}

/// The state that all connections of one listener share.
struct Server<E> {
    endpoint: Arc<E>,
    admission: Admission,
    deadlines: Deadlines,
    proxies: Proxies,
    tls: Option<Arc<Tls>>,
    hsts: Option<HeaderValue>,
    refusals: overflow::Refusals,
    /// Connections of trusted proxies without a valid PROXY protocol header.
    without_header: LogThrottle,
    stop: CancellationToken,
}

/// Extends the accept queue.
fn lengthen_backlog(listener: &TcpListener) {
    if let Err(error) = socket2::SockRef::from(listener).listen(BACKLOG) {
        tracing::warn!(%error, "cannot extend the accept queue; many simultaneous connects may be slow");
    }
}

/// Serves `endpoint` until `stop`, then stops accepting, lets requests in progress finish and returns immediately. The
/// connections' tasks run in `tasks`.
pub async fn serve<E>(
    listener: TcpListener,
    endpoint: Arc<E>,
    settings: ServerSettings,
    tasks: TaskTracker,
    stop: CancellationToken,
) where
    E: Endpoint<Output = Response> + 'static,
{
    lengthen_backlog(&listener);
    let server = Arc::new(Server {
        endpoint,
        admission: Admission::new(
            settings.max_connections,
            settings.max_connections_per_address,
        ),
        deadlines: settings.deadlines,
        proxies: settings.proxies,
        tls: settings.tls,
        hsts: settings.hsts,
        refusals: overflow::Refusals::default(),
        without_header: LogThrottle::default(),
        stop: stop.clone(),
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Enter before spawning the task, so that the number of tasks is bounded as well.
                let pending = server.admission.enter();
                let slot = pending.is_err().then(|| server.admission.reserve.slot());
                tasks.spawn(server.clone().connection(stream, peer, pending, slot));
            }
            Err(error) => {
                // Most likely out of file descriptors. Open connections continue, and some will close.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Limit of unsent bytes in a socket's send buffer; above it the socket is not writable. By default Linux buffers up to
/// 4 MiB (`net.ipv4.tcp_wmem`), which a stalled reader would occupy before the stall is detected.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 128 * 1024;

fn limit_unsent(stream: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = stream;
}

impl<E: Endpoint<Output = Response> + 'static> Server<E> {
    async fn connection(
        self: Arc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
        pending: Result<PendingPermit, Full>,
        slot: Option<admission::ReserveSlot>,
    ) {
        let since = Instant::now();
        let _ = stream.set_nodelay(true);
        limit_unsent(&stream);
        let client = match self.announced(&mut stream, peer.ip()).await {
            Ok(client) => client,
            Err(error) => {
                // Proxies check that a server is up by connections that they close at once.
                let is_fault = matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::TimedOut);
                if is_fault && let Some(connections) = self.without_header.count() {
                    tracing::warn!(
                        connections,
                        last_from = %peer.ip(),
                        %error,
                        "connections of trusted proxies closed: no PROXY protocol header, version 2 (edge.proxy_protocol)"
                    );
                }
                return;
            }
        };
        // A trusted proxy forwards many clients and is not limited; a client whose address is known is.
        let limited = (!self.proxies.trust(client)).then_some(client);
        let permit = pending.and_then(|pending| self.admission.admit(pending, limited));
        let peer = SocketAddr::new(client, peer.port());
        match permit {
            Ok(permit) => self.serve(stream, peer, permit, since).await,
            Err(full) => {
                let slot = slot.unwrap_or_else(|| self.admission.reserve.slot());
                self.refuse(stream, peer, full, slot).await;
            }
        }
    }

    /// The address that the connection comes from: the peer, or the address in a trusted proxy's PROXY protocol header.
    async fn announced(&self, stream: &mut TcpStream, peer: IpAddr) -> std::io::Result<IpAddr> {
        if !self.proxies.proxy_protocol || !self.proxies.trust(peer) {
            return Ok(peer);
        }
        let header = proxy_protocol::read(stream);
        let within = tokio::time::timeout(self.deadlines.request, header);
        match self.stop.run_until_cancelled(within).await {
            Some(said) => Ok(said??.unwrap_or(peer)),
            None => Err(std::io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Serves a connection within the limits. The deadline of the first request, and of a TLS handshake before it, counts
    /// from `since`.
    async fn serve(
        self: Arc<Self>,
        mut tcp: TcpStream,
        peer: SocketAddr,
        permit: Permit,
        since: Instant,
    ) {
        let local = tcp.local_addr().unwrap_or(peer);
        let Some(tls) = self.tls.clone() else {
            let stream = HttpStream::new(tcp, self.deadlines, since);
            let progress = stream.progress();
            return self.http(stream, progress, local, peer, permit).await;
        };
        let stop = self.stop.clone();
        let accepting = async {
            if !tls::begins(&mut tcp, since + self.deadlines.request).await {
                return None;
            }
            let stream = HttpStream::new(tcp, self.deadlines, since);
            let progress = stream.progress();
            Some((tls.accept(stream).await?, progress))
        };
        if let Some(Some((stream, progress))) = stop.run_until_cancelled(accepting).await {
            self.http(stream, progress, local, peer, permit).await;
        }
    }

    async fn http<S>(
        self: Arc<Self>,
        stream: S,
        progress: Progress,
        local: SocketAddr,
        peer: SocketAddr,
        permit: Permit,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let server = self.clone();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            progress.request_begins();
            request.extensions_mut().insert(permit.clone());
            let (answer, progress) = (server.answer(request, local, peer), progress.clone());
            async move {
                let response = answer.await;
                progress.answer_begins(response.status() == StatusCode::SWITCHING_PROTOCOLS);
                Ok::<_, Infallible>(hyper::Response::from(response))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            // `HttpStream` enforces the deadline instead.
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(error = %Error::internal(error).chain(), client = %peer.ip(), "connection failed");
        }
    }

    /// Handles one request.
    fn answer(
        &self,
        request: hyper::Request<Incoming>,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> impl Future<Output = Response> + use<E> {
        let (mut head, body) = request.into_parts();
        let checked = host::check(&mut head);
        let client = self.proxies.client(peer.ip(), &head.headers);
        head.extensions.insert(ClientAddress(client));
        let everything = head.method == Method::OPTIONS && head.uri.path() == "*";
        let request = Request::from((
            hyper::Request::from_parts(head, body),
            LocalAddr(poem::Addr::SocketAddr(local)),
            RemoteAddr(poem::Addr::SocketAddr(peer)),
            match self.tls {
                Some(_) => Scheme::HTTPS,
                None => Scheme::HTTP,
            },
        ));
        let endpoint = self.endpoint.clone();
        let hsts = self.hsts.clone();
        async move {
            let mut response = match checked {
                Err(wrong) => api::problem_response(&Error::malformed(wrong)),
                // RFC 9110, section 9.3.7: `OPTIONS *` checks whether the server is there.
                Ok(()) if everything => StatusCode::NO_CONTENT.into(),
                Ok(()) => endpoint.get_response(request).await,
            };
            if checked.is_err() {
                // The following bytes may belong to the request of another client.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            api::protect(&mut response);
            if let Some(hsts) = hsts {
                let headers = response.headers_mut();
                headers.insert(STRICT_TRANSPORT_SECURITY, hsts);
            }
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn simultaneous_connections_wait_in_the_accept_queue() {
        let backlog = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let many = 500.min(backlog.trim().parse::<usize>().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        lengthen_backlog(&listener);
        let all = (0..many).map(|_| TcpStream::connect(address));
        let connected = futures_util::future::try_join_all(all);
        // The listener does not accept. If the queue were full, the SYN would be dropped and each retry, after 1 s,
        // would fail.
        let connected = tokio::time::timeout(Duration::from_secs(30), connected).await;
        assert_eq!(connected.unwrap().unwrap().len(), many);
    }
}
