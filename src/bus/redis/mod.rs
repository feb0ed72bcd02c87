//! The bus over Redis. Commands share a pool (`connection`); each listener has a connection of its own (`listener`).
//! Every command has a deadline, so that a Redis that hangs delays its callers by one second at most. Every key and
//! channel begins with the deployment's prefix. `servers` chooses the server, with the help of Sentinels (`sentinel`).

mod channels;
mod connection;
mod coordination;
mod listener;
mod presence;
mod pubsub;
mod recent;
mod sentinel;
mod servers;

pub use connection::{RedisBus, RedisSettings};
pub use servers::{SentinelSettings, ask_sentinels};
