//! A chat backend: clients connect to edges, edges publish commands to a queue, workers store them and publish the
//! results to the edges.
//!
//! - [`app`] connects the parts of each role; [`admin`] holds the operator commands of a deployment, [`backup`] those
//!   that copy and restore the data of a standalone node, [`transfer`] the one that moves it into a cluster.
//! - [`edge`] serves clients: REST, sockets, and the hub of rooms with local subscribers.
//! - [`worker`] consumes commands from the queue, stores a batch in one transaction, publishes to the edges,
//!   acknowledges.
//! - [`autoscale`] runs as many workers as the queue needs.
//! - [`command`] holds the commands, and the pure function that computes their effects on a room.
//! - [`queue`], [`store`] and [`bus`] are the ports: RabbitMQ, PostgreSQL and Redis, or their embedded counterparts;
//!   [`notify`] holds the delivery channels for e-mail and text messages, [`templates`] their texts.
//! - [`protocol`], [`model`], [`error`] and [`config`] are shared by all of them.
//! - [`sqlite`] opens the database file that a standalone node's queue and store share; [`data_dir`] holds it.
//! - [`telemetry`] declares the log and every metric, [`output`] prints what commands print, [`retry`] is the backoff
//!   between attempts, [`tls`] loads certificates. The private module `redact` keeps secrets out of `Debug` output; `fuzz` holds the properties of
//!   parsers, for tests only.
//!
//! Imports go down that list only. ARCHITECTURE.md describes the path of a message and how each guarantee is kept.

#[macro_use]
mod redact;

pub mod admin;
pub mod app;
pub mod autoscale;
pub mod backup;
pub mod bus;
pub mod command;
pub mod config;
pub mod data_dir;
pub mod edge;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod model;
pub mod notify;
pub mod output;
pub mod protocol;
pub mod queue;
pub mod retry;
pub mod sqlite;
pub mod store;
pub mod telemetry;
pub mod templates;
pub mod tls;
pub mod transfer;
pub mod worker;
