//! Everything that is tested from outside the crate, in one binary: each port's contract, and real processes with real
//! servers and real sockets. `scripts/test` starts the servers and runs it; `cargo test` works too where their addresses
//! are in the environment.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod contract;
mod e2e;
mod harness;
mod pool;
mod support;
mod tidy;
mod vendors;
