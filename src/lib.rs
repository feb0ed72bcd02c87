//! A chat backend: clients talk to edges, edges publish commands to a queue, workers store them and tell the edges.
//!
//! - [`app`] connects the parts of each role; [`admin`] is what operators ask of a deployment.
//! - [`edge`] is what clients talk to: REST, sockets, the rooms that have sockets here.
//! - [`worker`] takes commands from the queue, stores a batch in one transaction, tells the edges, acknowledges.
//! - [`autoscale`] runs as many workers as the queue needs.
//! - [`job`] holds the commands, and the pure function that decides what they do to a room.
//! - [`queue`], [`store`] and [`bus`] are the ports: RabbitMQ, PostgreSQL and Redis, or their embedded twins;
//!   [`notify`] holds the ways out, by e-mail and text message.
//! - [`protocol`], [`model`], [`error`] and [`config`] are used by all of them.
//!
//! Imports go down that list only. ARCHITECTURE.md tells a message's way and what keeps each promise.

#[macro_use]
mod redact;

pub mod admin;
pub mod app;
pub mod autoscale;
pub mod bus;
pub mod config;
pub mod data_dir;
pub mod edge;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod job;
pub mod model;
pub mod notify;
pub mod protocol;
pub mod queue;
pub mod retry;
pub mod sqlite;
pub mod store;
pub mod telemetry;
pub mod worker;
