//! An edge: the node that clients talk to, over REST and sockets. It reads the store, publishes to the queue and
//! listens to the bus. It has no handle that writes the database: what it is handed decides what it can do.

pub mod api;
pub mod auth;
pub mod submit;

use std::sync::Arc;

use crate::{
    bus::{Bus, EdgeId},
    config::Config,
    queue::Publisher,
    store::Reads,
};

/// What every request and every session of one edge shares.
pub struct Edge {
    pub id: EdgeId,
    pub config: Arc<Config>,
    pub reads: Arc<dyn Reads>,
    pub bus: Arc<dyn Bus>,
    pub publisher: Arc<dyn Publisher>,
    pub submit: Arc<submit::Submitter>,
    pub auth: auth::Auth,
}
