//! The benchmarks of `chat bench`: load on a running chat server, its cost, and a judge of the deliveries.
//!
//! - [`load`] sends at a fixed rate and checks every delivery; [`scaling`] adds the metrics of an autoscaler.
//! - [`fanout`], [`connect`], [`idle`] and [`history`] measure one operation each.
//! - [`baseline`] does only the unavoidable part of the work, for comparison with the server.
//! - [`judge`] is pure bookkeeping, which the server's fault tests use as well.
//!
//! This crate knows the server's protocol (`wire.rs`) and none of its types. Addresses and credentials are arguments.

mod arguments;
pub mod baseline;
mod client;
pub mod connect;
mod connections;
mod error;
pub mod fanout;
pub mod history;
pub mod idle;
pub mod judge;
pub mod load;
mod measure;
mod page;
mod process;
pub mod scaling;
mod websocket;
mod wire;

pub use self::{
    connections::Connections,
    error::{Error, Result},
    measure::Latency,
    wire::Transport,
};
