//! One suite for each port, run on every implementation.

mod bus;
mod queue;
mod rabbit;
mod store;
