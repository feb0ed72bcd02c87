//! The bus of a single process. It gives the same guarantees as Redis and loses as much: everything is bounded, and a
//! listener that falls behind receives `Lost` and `Restored`.

mod bus;
mod coordination;
mod expiring;
mod presence;
mod pubsub;
mod recent;
mod state;

pub use bus::MemoryBus;
pub use state::MemoryBusSettings;
