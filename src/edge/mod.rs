//! An edge: the node that clients talk to, over REST and sockets. It reads the store, publishes to the queue and
//! listens to the bus. It has no handle that writes the database: its [`run::Parts`] hold none.
//!
//! From the outside in: [`server`] (TCP, HTTP), [`transport`] (sockets) and [`api`] (REST) on top of it; [`session`],
//! which handles each request; [`hub`], which gives sockets the events of their rooms in order; [`outbound`], the
//! queues that sockets are written from; [`submit`], the way to the queue.

pub mod api;
pub mod auth;
mod batch_reads;
pub mod client_address;
mod credentials;
mod epoch;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod hub;
mod identity;
mod log_sample;
mod origin;
pub mod outbound;
mod presence;
pub mod rate_limit;
mod reactions;
mod recent_sends;
mod recovery;
pub mod registry;
mod renames;
pub mod revocation;
pub mod run;
pub mod server;
pub mod session;
pub mod state;
pub mod submit;
pub mod subscriber;
mod transport;
mod unauthenticated;

pub use run::{Parts, operations, run};
pub use state::Edge;
