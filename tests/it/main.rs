//! All tests from outside the crate, in one binary: the contract of each port, and end-to-end tests with real
//! processes, servers and sockets. `scripts/test` starts the servers and runs it; `cargo test` works too if their
//! addresses are in the environment.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "all of it is test code"
)]

mod chaos;
mod cluster;
mod contract;
mod e2e;
mod guide;
mod harness;
mod pool;
mod support;
mod tidy;
mod vendors;
