//! Open-loop load over real sockets: every accepted message must be delivered to every member once and in order. Latency
//! counts from the *intended* time of a send, so that a server that slows the generator down does not look fast.

mod args;
mod frames;
mod html;
mod observations;
mod plan;
mod report;
mod run;
mod setup;
mod sockets;
mod tally;

pub(crate) use self::html::{latencies, rates, verdict};
pub use self::{
    args::{Load, Partitions, Step},
    html::write,
    report::{Report, Second},
    run::run,
    setup::PartitionOf,
};
