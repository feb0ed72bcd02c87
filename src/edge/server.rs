//! Accepts connections and serves HTTP/1.1 on them, until told to stop. Everything above HTTP is poem's.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use poem::{
    Endpoint, Request, Response,
    http::uri::Scheme,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A connection's share of `edge.max_connections`. A socket keeps it for as long as it lives.
#[derive(Clone)]
pub struct Permit(#[allow(dead_code, reason = "held, never read")] Arc<OwnedSemaphorePermit>);

/// How long a client may take to send a request's head. It counts from the end of the request before, so it is also how
/// long an idle connection is kept: longer than the 60 s after which load balancers let go of theirs (AWS ALB and nginx),
/// since whoever closes first breaks the request that the other one is just sending.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// Connections that wait to be accepted, if the system's own limit (`net.core.somaxconn`) allows as many. Who comes when the
/// list is full, as after an edge's restart, tries again a second later; the standard library's list has 128 places.
const BACKLOG: i32 = 4096;

/// Lengthens the list of connections that wait to be accepted.
fn lengthen_backlog(listener: &TcpListener) {
    if let Err(error) = socket2::SockRef::from(listener).listen(BACKLOG) {
        tracing::warn!(%error, "a storm of connections may be slow: the backlog stays short");
    }
}

/// Serves `endpoint` until `stop`: then accepts nothing more, lets requests finish, and returns at once. The
/// connections' tasks are in `tasks`.
pub async fn serve<E>(
    listener: TcpListener,
    endpoint: Arc<E>,
    max_connections: usize,
    tasks: TaskTracker,
    stop: CancellationToken,
) where
    E: Endpoint<Output = Response> + 'static,
{
    lengthen_backlog(&listener);
    let permits = Arc::new(Semaphore::new(max_connections));
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit,
            () = stop.cancelled() => return,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                let permit = Permit(Arc::new(permit));
                let connection = connection(stream, remote, endpoint.clone(), permit, stop.clone());
                tasks.spawn(connection);
            }
            Err(error) => {
                // Out of file descriptors, most likely: the others go on, and some will end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Bytes that the system takes for a peer before they are sent; beyond it a socket counts as full. By itself Linux takes
/// up to 4 MiB (`net.ipv4.tcp_wmem`), so that a reader who stopped would cost as much before anyone noticed.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 128 * 1024;

fn limit_unsent(stream: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = stream;
}

async fn connection<E>(
    stream: TcpStream,
    remote: SocketAddr,
    endpoint: Arc<E>,
    permit: Permit,
    stop: CancellationToken,
) where
    E: Endpoint<Output = Response> + 'static,
{
    let _ = stream.set_nodelay(true);
    limit_unsent(&stream);
    let local = stream.local_addr().unwrap_or(remote);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(permit.clone());
        let request = Request::from((
            request,
            LocalAddr(poem::Addr::SocketAddr(local)),
            RemoteAddr(poem::Addr::SocketAddr(remote)),
            Scheme::HTTP,
        ));
        let endpoint = endpoint.clone();
        async move {
            let response = endpoint.get_response(request).await;
            Ok::<_, std::convert::Infallible>(hyper::Response::from(response))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        // A buffer of 8 KiB serves any head we accept and keeps idle connections small.
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn those_who_come_at_once_wait_instead_of_trying_again() {
        let places = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let many = 500.min(places.trim().parse::<usize>().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        lengthen_backlog(&listener);
        let all = (0..many).map(|_| TcpStream::connect(address));
        let connected = futures_util::future::try_join_all(all);
        // Nobody accepts; one who finds no place hears nothing until it tries again, after a second, in vain.
        let connected = tokio::time::timeout(Duration::from_secs(30), connected).await;
        assert_eq!(connected.unwrap().unwrap().len(), many);
    }
}
