//! The durable queue between edges and workers. It carries batches of bytes and knows nothing of chat. RabbitMQ quorum
//! queues in a cluster, tables of the SQLite file in one process; one contract suite for both.
//!
//! Guarantees: a payload whose `publish` returned `Ok` is on disk and reaches a consumer at least once; one partition's
//! payloads arrive in the order in which they were published; a partition has one active consumer at a time. Delivery
//! is not exactly once: the ids inside remove repeats.

mod dead_letters;
pub mod framing;
mod load;
mod partitions;
pub mod rabbit;
pub mod sqlite;
mod tasks;

pub use dead_letters::{DeadLetter, DeadLetters, Selection};
pub use framing::{BatchBuilder, EncodedBatch};
pub use load::{Delayed, Depth, Held, Load, PartitionLoad, TaskLoad};
pub use partitions::{Consumer, Delivery, Partition, Publisher, Queue, QueueState};
pub use tasks::{Ack, NewTask, TakenTask, TaskConsumer, TaskQueue, Tasks};
