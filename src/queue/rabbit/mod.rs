//! The queue over RabbitMQ: one quorum queue per partition, publisher confirms, single active consumers.
//!
//! Publishing and consuming have a connection each: a broker under an alarm stops reading from a connection that
//! publishes, and acknowledgements must not wait for that. Both are maintained by `connection`, which connects, declares
//! the topology, watches and reconnects. lapin's own recovery is never used: it does not restore `basic_qos`.

mod backlog;
mod connection;
mod consume;
mod dead;
mod delay;
mod failure;
mod load;
mod publish;
mod settings;
mod tasks;
mod topology;

pub use consume::RabbitQueue;
pub use dead::RabbitDeadLetters;
pub use publish::RabbitPublisher;
pub use settings::RabbitSettings;
pub use tasks::RabbitTasks;
