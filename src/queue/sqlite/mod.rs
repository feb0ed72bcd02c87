//! The queue as tables of the standalone node's SQLite file. Concurrent publishes are committed together (one fsync);
//! acknowledged payloads are deleted with the next commit, or shortly after. One process at a time consumes; another one may
//! publish (`chat queue dead replay`) and is noticed within a second.

mod consume;
mod dead;
mod queue;
mod settings;
mod state;
mod task_table;
mod tasks;
mod write;

pub use queue::SqliteQueue;
pub use settings::SqliteQueueSettings;
