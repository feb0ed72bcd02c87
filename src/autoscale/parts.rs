//! The parts that an autoscaler is built from.

use std::sync::Arc;

use super::pool::WorkerCommand;
use crate::{
    bus::Coordination,
    config::{Autoscale, WorkerRole},
    queue::{Partition, Queue},
};

pub struct Parts {
    pub settings: Autoscale,
    /// The roles of its workers. Only what they consume is measured.
    pub roles: Vec<WorkerRole>,
    /// Whether notifications are enabled; without them no worker consumes tasks.
    pub notify: bool,
    /// At most this many workers can share the messages.
    pub partitions: Partition,
    pub queue: Arc<dyn Queue>,
    pub coordination: Arc<dyn Coordination>,
    pub worker: WorkerCommand,
}
