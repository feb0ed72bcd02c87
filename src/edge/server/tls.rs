//! TLS of the edge's port: the handshake, and the certificate in use. A reload replaces the certificate for new
//! connections and leaves open ones alone.

use std::{io, sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{log_throttle::LogThrottle, stream::HttpStream};
use crate::{
    config,
    error::{Code, Error, Result},
    tls::{Files, Pair, Versions, shown},
};

/// The first byte of a TLS connection: the type of a handshake record (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// Bytes that a TLS connection may hold before the socket takes them: one record. rustls's own limit is 64 KiB.
const BUFFERED: usize = 16 * 1024;
/// How long a client that speaks plain HTTP may take to read the answer.
const PLAIN_WITHIN: Duration = Duration::from_secs(1);
/// A certificate with less time left is logged at each load and once a day.
const EXPIRES_SOON: TimeDelta = TimeDelta::days(14);
const DAY: Duration = Duration::from_secs(86_400);

/// The response to plain HTTP.
const PLAIN_RESPONSE: &str = concat!(
    "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 52\r\n",
    "connection: close\r\n\r\nthis port speaks TLS: connect by https:// or wss://\n"
);

/// The certificate in use.
pub struct Tls {
    files: Files,
    /// Of the files, from before they were loaded at the start: a change since is found.
    first_versions: Versions,
    /// How often the files are checked for changes.
    interval: Duration,
    current: RwLock<Pair>,
    failures: LogThrottle,
}

impl Tls {
    /// Loads the files of `edge.tls`; `None` if there are none.
    ///
    /// # Errors
    /// `invalid`, with the setting and the reason, if the pair cannot be used.
    pub fn load(edge: &config::Edge) -> Result<Option<Arc<Tls>>> {
        let Some(files) = Files::of(&edge.tls.cert, &edge.tls.key) else {
            return Ok(None);
        };
        let first_versions = files.versions();
        let loaded = files.load();
        let pair = loaded.map_err(|wrong| Error::new(Code::Invalid, wrong.to_string()))?;
        announce(&pair);
        Ok(Some(Arc::new(Tls {
            files,
            first_versions,
            interval: edge.tls.reload_interval,
            current: RwLock::new(pair),
            failures: LogThrottle::default(),
        })))
    }

    /// The signal that reloads the certificate. Without this call it would end the process.
    ///
    /// # Errors
    /// If the system refuses the signal handler.
    pub fn hangup() -> Result<Signal> {
        signal(SignalKind::hangup()).map_err(Error::internal)
    }

    /// Reloads the files at each signal, and when they have changed, until `stop`.
    pub async fn reload(self: Arc<Self>, mut hangup: Signal, stop: CancellationToken) {
        let mut known = self.first_versions;
        let mut warned = Instant::now();
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => {}
                () = tokio::time::sleep(self.interval) => {
                    if warned.elapsed() >= DAY {
                        warned = Instant::now();
                        warn_of_expiry(&self.current.read());
                    }
                    if self.files.versions() == known {
                        continue;
                    }
                }
                () = stop.cancelled() => return,
            }
            known = self.files.versions();
            let files = self.files.clone();
            match tokio::task::spawn_blocking(move || files.load()).await {
                Ok(Ok(pair)) => {
                    announce(&pair);
                    *self.current.write() = pair;
                }
                Ok(Err(wrong)) => {
                    let expires = shown(self.current.read().expires);
                    tracing::error!(reason = %wrong, kept_expires = expires, "TLS certificate not reloaded; the previous one stays in use");
                }
                Err(error) => tracing::error!(%error, "TLS certificate not reloaded"),
            }
        }
    }

    /// The TLS connection on `stream`, whose deadline for the first request includes the handshake. `None` if the
    /// handshake fails.
    pub async fn accept(&self, stream: HttpStream) -> Option<TlsStream<HttpStream>> {
        let config: Arc<ServerConfig> = self.current.read().config.clone();
        let accepting = TlsAcceptor::from(config)
            .accept_with(stream, |tls| tls.set_buffer_limit(Some(BUFFERED)));
        match accepting.await {
            Ok(stream) => Some(stream),
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    fn failed(&self, error: &io::Error) {
        // A client that closes first, such as a TCP health check, is no fault.
        if error.kind() == io::ErrorKind::InvalidData
            && let Some(connections) = self.failures.count()
        {
            tracing::info!(connections, last = %error, "TLS handshakes failed");
        }
    }
}

fn announce(pair: &Pair) {
    tracing::info!(expires = shown(pair.expires), "TLS certificate loaded");
    warn_of_expiry(pair);
}

fn warn_of_expiry(pair: &Pair) {
    let left = pair.expires - Utc::now();
    if left < EXPIRES_SOON {
        tracing::warn!(
            expires = shown(pair.expires),
            days_left = left.num_days(),
            "TLS certificate expires soon; replace edge.tls.cert and edge.tls.key"
        );
    }
}

/// Whether the connection begins as TLS does, by its first byte, which stays unread. A client that speaks plain HTTP is
/// told; everything else is closed.
pub async fn begins(tcp: &mut TcpStream, until: Instant) -> bool {
    let mut first = [0];
    match tokio::time::timeout_at(until, tcp.peek(&mut first)).await {
        Ok(Ok(1)) if first == [HANDSHAKE] => true,
        Ok(Ok(1)) if first[0].is_ascii_alphabetic() => {
            let _ = tokio::time::timeout(PLAIN_WITHIN, explain(tcp)).await;
            false
        }
        _ => false,
    }
}

/// Answers plain HTTP. Unread bytes would reset the connection, and the client might not see the answer.
async fn explain(tcp: &mut TcpStream) -> io::Result<()> {
    tcp.write_all(PLAIN_RESPONSE.as_bytes()).await?;
    tcp.shutdown().await?;
    let mut rest = [0; 4096];
    while tcp.read(&mut rest).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_is_complete() {
        let (head, body) = PLAIN_RESPONSE.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
    }
}
