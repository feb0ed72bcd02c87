//! The state that all requests and sessions of one edge share.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    auth, batch_reads, hub,
    outbound::{FlushScheduler, Outbox},
    rate_limit, registry, revocation, submit, unauthenticated,
};
use crate::{
    bus::{self, EdgeId},
    config::Config,
    queue::Publisher,
    store::{Reads, notify::NotifyReads},
};

/// The state of one edge.
pub struct Edge {
    pub id: EdgeId,
    pub config: Arc<Config>,
    pub reads: Arc<dyn Reads>,
    /// The delivery log and the notification preferences.
    pub deliveries: Arc<dyn NotifyReads>,
    pub bus: bus::Handles,
    pub publisher: Arc<dyn Publisher>,
    pub submit: Arc<submit::Submitter>,
    pub auth: auth::Auth,
    pub hub: Arc<hub::Hub>,
    pub batched: batch_reads::BatchedReads,
    pub sessions: Arc<registry::Registry>,
    pub revocations: Arc<revocation::Revocations>,
    pub limits: rate_limit::Limits,
    /// Slots for connections that have not authenticated.
    pub(super) unauthenticated: Arc<unauthenticated::Unauthenticated>,
    /// Schedules the writes of sockets.
    pub flush_scheduler: Arc<FlushScheduler>,
    /// The sockets' tasks: they outlive the requests that made them.
    pub tasks: TaskTracker,
    /// Cancelled when the edge begins to shut down.
    pub stopping: CancellationToken,
}

impl Edge {
    /// The outbox of a new socket.
    pub fn outbox(&self) -> Arc<Outbox> {
        Outbox::new(
            self.config.edge.send_queue_bytes,
            self.flush_scheduler.clone(),
        )
    }
}
