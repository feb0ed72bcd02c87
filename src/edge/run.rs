//! The life of an edge: its parts are started, clients are served until the shutdown, and everything that was accepted
//! is confirmed before it ends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use poem::{Endpoint, Request, Response, endpoint::make};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Edge, api, auth, batch_reads, epoch, hub, outbound, presence, rate_limit, registry, renames,
    revocation, server, submit, transport, unauthenticated,
};
use crate::{
    bus::{self, Channel, EdgeId},
    command::Notice,
    config::{self, Config},
    error::Result,
    queue::Publisher,
    store::{Reads, notify::NotifyReads},
};

/// Notices from workers that may wait to be handled.
const NOTICES: usize = 4096;
/// How long requests that are being answered may take once everything else has ended.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// The parts that an edge is built from.
pub struct Parts {
    pub config: Arc<Config>,
    pub reads: Arc<dyn Reads>,
    pub deliveries: Arc<dyn NotifyReads>,
    pub bus: bus::Handles,
    pub publisher: Arc<dyn Publisher>,
    /// The listener of `metrics.port`, if that is set.
    pub operations: Option<TcpListener>,
}

/// Serves clients until `shutdown`. Then `/readyz` answers 503; after `edge.drain_delay` it accepts no new connections,
/// closes every socket with 1012 spread over `edge.drain`, and awaits every pending confirm.
pub async fn run(
    parts: Parts,
    listener: TcpListener,
    shutdown: CancellationToken,
    ready: impl FnOnce(Option<SocketAddr>),
) -> Result<()> {
    let Parts {
        config,
        reads,
        deliveries,
        bus,
        publisher,
        operations,
    } = parts;
    let tls = server::Tls::load(&config.edge)?;
    let id = EdgeId::new_v4();
    let inner = CancellationToken::new();
    let (internals, sockets, connections) =
        (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
    if let Some(tls) = &tls {
        let hangup = server::Tls::hangup()?;
        internals.spawn(tls.clone().reload(hangup, inner.clone()));
    }
    let submit = submit::Submitter::start(
        id,
        submit::Limits {
            partitions: config.queue.partitions,
            max_backlog: config.queue.max_backlog,
            batch_messages: config.queue.batch_messages,
            batch_bytes: config.queue.batch_bytes,
            wait: config.edge.wait,
        },
        publisher.clone(),
        &internals,
        inner.clone(),
    );
    let (notices, incoming) = mpsc::channel(NOTICES);
    let (hub, reports) = hub::Hub::start(
        hub::Ports {
            reads: reads.clone(),
            pubsub: bus.pubsub.clone(),
            recent: bus.recent.clone(),
        },
        Channel::Edge(id),
        notices,
        hub::Intervals {
            reconcile: config.edge.reconcile_interval,
            rights: config.edge.rights_interval,
        },
        internals.clone(),
        inner.clone(),
    )
    .await?;
    let sessions = Arc::new(registry::Registry::new(config.edge.max_sockets_per_user));
    let revocations = Arc::new(revocation::Revocations::default());
    internals.spawn(dispatch_notices(
        incoming,
        submit.clone(),
        sessions.clone(),
        revocations.clone(),
        hub.clone(),
    ));
    internals.spawn(epoch::submit_reports(
        reports,
        submit.clone(),
        hub.clone(),
        inner.clone(),
    ));
    internals.spawn(presence::announce(
        bus.presence.clone(),
        sessions.clone(),
        presence::interval(&config),
        inner.clone(),
    ));
    internals.spawn(revocation::check(
        reads.clone(),
        sessions.clone(),
        revocations.clone(),
        hub.clone(),
        config.edge.rights_interval,
        inner.clone(),
    ));
    let edge = Arc::new(Edge {
        id,
        auth: auth::Auth::new(&config),
        batched: batch_reads::BatchedReads::new(&reads, &bus.presence, presence::ttl(&config)),
        limits: rate_limit::Limits::new(&config.limits),
        reads,
        deliveries,
        bus,
        publisher,
        submit,
        hub,
        sessions: sessions.clone(),
        revocations,
        unauthenticated: unauthenticated::Unauthenticated::new(&config.edge),
        flush_scheduler: outbound::FlushScheduler::start(&internals, inner.clone()),
        tasks: sockets.clone(),
        config: config.clone(),
        stopping: shutdown.clone(),
    });

    if let Some(listener) = operations {
        internals.spawn(server::serve(
            listener,
            Arc::new(api::operations(Some(edge.clone()))),
            server::ServerSettings::operations(&config.edge),
            internals.clone(),
            inner.clone(),
        ));
    }
    let address = listener.local_addr().ok();
    let local = address.is_some_and(|address| address.ip().to_canonical().is_loopback());
    ready(address);
    server::serve(
        listener,
        Arc::new(endpoint(edge, local)),
        server::ServerSettings::new(&config.edge, tls),
        connections.clone(),
        after(shutdown, config.edge.drain_delay, &internals),
    )
    .await;

    let within_s = (sessions.drain_takes(config.edge.drain) + LAST_REQUESTS).as_secs_f64();
    let sockets_open = sessions.len();
    if sockets_open > 0 {
        tracing::info!(
            sockets = sockets_open,
            within_s,
            "closing sockets, spread over edge.drain; requests in progress are finished"
        );
    }
    sessions.drain(config.edge.drain).await;
    sockets.close();
    connections.close();
    let _ = tokio::time::timeout(LAST_REQUESTS, async {
        sockets.wait().await;
        connections.wait().await;
    })
    .await;
    // Nothing is submitted any more: buffered commands are published and confirmed, then the tasks end.
    inner.cancel();
    internals.close();
    internals.wait().await;
    Ok(())
}

/// A token that is cancelled `delay` after `shutdown`.
fn after(
    shutdown: CancellationToken,
    delay: Duration,
    internals: &TaskTracker,
) -> CancellationToken {
    if delay.is_zero() {
        return shutdown;
    }
    let stop = CancellationToken::new();
    let stops = stop.clone();
    internals.spawn(async move {
        shutdown.cancelled().await;
        tracing::info!(
            ?delay,
            "accepting connections until proxies have noticed (edge.drain_delay)"
        );
        tokio::time::sleep(delay).await;
        stops.cancel();
    });
    stop
}

/// All endpoints of an edge. `local`: only this machine can reach it.
fn endpoint(edge: Arc<Edge>, local: bool) -> impl Endpoint<Output = Response> {
    let socketio = transport::socketio::Engine::new(edge.clone());
    let api = Arc::new(api::routes(edge.clone(), local));
    make(move |request: Request| {
        let (edge, socketio, api) = (edge.clone(), socketio.clone(), api.clone());
        async move {
            match request.uri().path() {
                "/ws" => transport::plain::upgrade(&edge, request).await,
                "/socket.io/" | "/socket.io" => socketio.answer(request).await,
                _ => api.get_response(request).await,
            }
        }
    })
}

/// Serves `/healthz` and `/metrics` alone, for a process without an edge.
pub async fn operations(listener: TcpListener, config: &config::Edge, shutdown: CancellationToken) {
    let endpoint = Arc::new(api::operations(None));
    let settings = server::ServerSettings::operations(config);
    server::serve(listener, endpoint, settings, TaskTracker::new(), shutdown).await;
}

/// Passes the notices of workers on to the requests and sessions that they are for.
async fn dispatch_notices(
    mut notices: mpsc::Receiver<Notice>,
    submit: Arc<submit::Submitter>,
    sessions: Arc<registry::Registry>,
    revocations: Arc<revocation::Revocations>,
    hub: Arc<hub::Hub>,
) {
    let mut renames = renames::Renames::default();
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::Outcome { number, outcome } => submit.answered(number, outcome),
            Notice::LoginClosed { login } => {
                revocations.ended(&[login]);
                sessions.close_logins(&[login]);
            }
            Notice::UserUpdated {
                change,
                user,
                rooms,
                more,
            } => {
                let rename = renames::Rename {
                    change,
                    user,
                    rooms,
                    more,
                };
                renames.deliver(&hub, &sessions, rename);
            }
            Notice::EpochChanged { .. } => hub.epoch_changed(),
            other => {
                if let Notice::SendFailed {
                    message: Some(message),
                    ..
                } = other
                {
                    submit.refused(message);
                }
                sessions.notice(other);
            }
        }
    }
}
