//! A chat backend. See ARCHITECTURE.md for the map.

pub mod app;
pub mod bus;
pub mod config;
pub mod edge;
pub mod error;
pub mod job;
pub mod model;
pub mod protocol;
pub mod queue;
pub mod retry;
pub mod sqlite;
pub mod store;
pub mod telemetry;
pub mod worker;
