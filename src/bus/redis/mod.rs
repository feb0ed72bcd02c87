//! The bus over Redis. Commands share a pool (`connection`); each listener has a connection of its own (`listener`).
//! Every command has a deadline, so that a Redis that hangs delays its callers by one second at most. Every key and
//! channel begins with the deployment's prefix.

mod channels;
mod connection;
mod coordination;
mod listener;
mod presence;
mod pubsub;
mod recent;

pub use connection::{RedisBus, RedisSettings};
