//! An edge: the node that clients talk to, over REST and sockets. It reads the store, publishes to the queue and
//! listens to the bus. It has no handle that writes the database: what it is handed decides what it can do.

pub mod api;
pub mod auth;
pub mod client_address;
mod connection;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod gather;
mod handshake;
pub mod hub;
pub mod limits;
mod link;
pub mod origin;
pub mod outbox;
mod past;
pub mod revocation;
pub mod server;
pub mod session;
pub mod sessions;
mod socketio;
pub mod submit;
mod unauthenticated;
pub mod waves;
mod websocket;
pub mod ws;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use poem::{Endpoint, Request, Response, endpoint::make};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bus::{self, Channel, EdgeId, Presence},
    config::{self, Config},
    error::Result,
    job::Notice,
    queue::Publisher,
    store::{Reads, notify::NotifyReads},
};

/// What every request and every session of one edge shares.
pub struct Edge {
    pub id: EdgeId,
    pub config: Arc<Config>,
    pub reads: Arc<dyn Reads>,
    /// Who was told of what, and what they wish.
    pub ledger: Arc<dyn NotifyReads>,
    pub bus: bus::Handles,
    pub publisher: Arc<dyn Publisher>,
    pub submit: Arc<submit::Submitter>,
    pub auth: auth::Auth,
    pub hub: Arc<hub::Hub>,
    pub gathers: gather::Gathers,
    pub sessions: Arc<sessions::Sessions>,
    pub revocations: Arc<revocation::Revocations>,
    pub limits: limits::Limits,
    /// Places for connections that have not authenticated.
    unauthenticated: Arc<unauthenticated::Unauthenticated>,
    /// When sockets write.
    pub waves: Arc<waves::Waves>,
    /// The sockets' tasks: they outlive the requests that made them.
    pub tasks: TaskTracker,
}

/// Notices from workers that may wait to be handled.
const NOTICES: usize = 4096;
/// How long requests that are being answered may take once everything else has ended.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// What an edge is made of.
pub struct Parts {
    pub config: Arc<Config>,
    pub reads: Arc<dyn Reads>,
    pub ledger: Arc<dyn NotifyReads>,
    pub bus: bus::Handles,
    pub publisher: Arc<dyn Publisher>,
    /// Where `metrics.port` is listened on, if it is set.
    pub operations: Option<TcpListener>,
}

/// Serves clients until `shutdown`, then says goodbye: no new connections, every socket closed with 1012 spread over
/// `edge.drain`, every pending confirm awaited.
pub async fn run(
    parts: Parts,
    listener: TcpListener,
    shutdown: CancellationToken,
    ready: impl FnOnce(Option<SocketAddr>),
) -> Result<()> {
    let Parts {
        config,
        reads,
        ledger,
        bus,
        publisher,
        operations,
    } = parts;
    let id = EdgeId::new_v4();
    let inner = CancellationToken::new();
    let (internals, sockets, connections) =
        (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
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
    let hub = hub::Hub::start(
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
    let sessions = Arc::new(sessions::Sessions::new(config.edge.max_sockets_per_user));
    let revocations = Arc::new(revocation::Revocations::default());
    internals.spawn(tell(
        incoming,
        submit.clone(),
        sessions.clone(),
        revocations.clone(),
    ));
    internals.spawn(be_here(
        bus.presence.clone(),
        sessions.clone(),
        beat(&config),
        inner.clone(),
    ));
    internals.spawn(check_logins(
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
        gathers: gather::Gathers::new(&reads, &bus.presence, beat(&config) * BEATS),
        limits: limits::Limits::new(&config.limits),
        reads,
        ledger,
        bus,
        publisher,
        submit,
        hub,
        sessions: sessions.clone(),
        revocations,
        unauthenticated: unauthenticated::Unauthenticated::new(&config.edge),
        waves: waves::Waves::start(&internals, inner.clone()),
        tasks: sockets.clone(),
        config: config.clone(),
    });

    if let Some(listener) = operations {
        internals.spawn(server::serve(
            listener,
            Arc::new(api::operations(Some(edge.clone()))),
            server::Settings::operations(&config.edge),
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
        server::Settings::new(&config.edge),
        connections.clone(),
        shutdown,
    )
    .await;

    tracing::info!(sockets = sessions.len(), "closing");
    sessions.drain(config.edge.drain).await;
    sockets.close();
    connections.close();
    let _ = tokio::time::timeout(LAST_REQUESTS, async {
        sockets.wait().await;
        connections.wait().await;
    })
    .await;
    // Nothing is submitted any more: what is buffered is published and confirmed, then the tasks end.
    inner.cancel();
    internals.close();
    internals.wait().await;
    Ok(())
}

/// Everything an edge answers. `local` says that only this machine can reach it.
fn endpoint(edge: Arc<Edge>, local: bool) -> impl Endpoint<Output = Response> {
    let socketio = socketio::Engine::new(edge.clone());
    let api = Arc::new(api::routes(edge.clone(), local));
    make(move |request: Request| {
        let (edge, socketio, api) = (edge.clone(), socketio.clone(), api.clone());
        async move {
            match request.uri().path() {
                "/ws" => ws::upgrade(&edge, request).await,
                "/socket.io/" | "/socket.io" => socketio.answer(request).await,
                _ => api.get_response(request).await,
            }
        }
    })
}

/// Serves `/healthz` and `/metrics` alone, for a process without an edge.
pub async fn operations(listener: TcpListener, config: &config::Edge, shutdown: CancellationToken) {
    let endpoint = Arc::new(api::operations(None));
    let settings = server::Settings::operations(config);
    server::serve(listener, endpoint, settings, TaskTracker::new(), shutdown).await;
}

impl Edge {
    /// For a new socket.
    fn outbox(&self) -> Arc<outbox::Outbox> {
        outbox::Outbox::new(self.config.edge.send_queue_bytes, self.waves.clone())
    }

    /// A place for a connection that has not authenticated, and where it comes from.
    fn admit(&self, request: &Request) -> Result<connection::Admitted> {
        let address = client_address::of(request);
        Ok(connection::Admitted {
            address,
            slot: Some(self.unauthenticated.admit(address)?),
        })
    }

    /// The same for one that brought good credentials: it needs no such place.
    fn admit_known(&self, request: &Request) -> connection::Admitted {
        connection::Admitted {
            address: client_address::of(request),
            slot: None,
        }
    }

    /// Says at once that someone came; from then on [`be_here`] does.
    fn say_here(self: &Arc<Self>, who: &session::Seated) {
        let (edge, here) = (self.clone(), (who.user, who.active()));
        self.tasks.spawn(async move {
            if let Err(error) = edge.gathers.here.ask(here).await {
                tracing::debug!(error = %error.chain(), "nobody knows yet who came");
            }
        });
    }
}

/// How many times in a row nobody may say that a user is connected before they count as gone.
const BEATS: u32 = 3;

/// Between two times that an edge says who is connected to it.
fn beat(config: &Config) -> Duration {
    (config.notify.away_after / 4).clamp(Duration::from_millis(50), Duration::from_secs(10))
}

/// Says who is connected here, often enough that a crashed edge's users count as gone soon, and that a second missed
/// word does no harm.
async fn be_here(
    presence: Arc<dyn Presence>,
    sessions: Arc<sessions::Sessions>,
    every: Duration,
    shutdown: CancellationToken,
) {
    while shutdown
        .run_until_cancelled(tokio::time::sleep(every))
        .await
        .is_some()
    {
        let present = sessions.present();
        if present.is_empty() {
            continue;
        }
        if let Err(error) = presence.mark_connected(&present, every * BEATS).await {
            tracing::debug!(error = %error.chain(), "nobody knows who is connected here");
        }
    }
}

/// How often logins are compared with the store while nothing comes from the bus.
const WITHOUT_BUS: Duration = Duration::from_millis(500);

/// That a login was closed is only a hint on the bus: an edge that missed it finds out here, when the bus comes back,
/// every half second while it is away, and `every` so often.
async fn check_logins(
    reads: Arc<dyn Reads>,
    sessions: Arc<sessions::Sessions>,
    revocations: Arc<revocation::Revocations>,
    hub: Arc<hub::Hub>,
    every: Duration,
    shutdown: CancellationToken,
) {
    let mut last = tokio::time::Instant::now();
    loop {
        let back = tokio::select! {
            () = tokio::time::sleep(every.min(WITHOUT_BUS)) => false,
            () = hub.bus_back() => true,
            () = shutdown.cancelled() => return,
        };
        if !back && !hub.is_bus_lost() && last.elapsed() < every {
            continue;
        }
        last = tokio::time::Instant::now();
        let mut logins = sessions.logins();
        logins.extend(revocations.open());
        logins.sort_unstable();
        logins.dedup();
        for logins in logins.chunks(5000) {
            match reads.revoked(logins).await {
                Ok(ended) => {
                    revocations.ended(&ended);
                    sessions.close_logins(&ended);
                }
                Err(error) => {
                    tracing::debug!(error = %error.chain(), "logins could not be compared");
                    break;
                }
            }
        }
    }
}

/// Hands on what workers tell this edge.
async fn tell(
    mut notices: mpsc::Receiver<Notice>,
    submit: Arc<submit::Submitter>,
    sessions: Arc<sessions::Sessions>,
    revocations: Arc<revocation::Revocations>,
) {
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::Outcome { number, outcome } => submit.answered(number, outcome),
            Notice::LoginClosed { login } => {
                revocations.ended(&[login]);
                sessions.close_logins(&[login]);
            }
            other => sessions.notice(other),
        }
    }
}
