//! Runs as many workers as the queue needs: measures it, decides ([`decide()`](decide::decide), a pure function), and
//! starts or stops `chat worker` processes on this machine ([`pool`]). It consumes nothing from the queue and stores
//! nothing. A deployment without it works as well, with as many workers as are started by other means.

pub mod decide;
mod lease;
mod lines;
mod parts;
pub mod pool;
pub mod report;
mod run;
mod scaler;
mod signal;
pub mod simulate;
#[cfg(test)]
mod tests;
mod worker_metrics;
mod worker_pipe;

pub use parts::Parts;
pub use pool::WorkerCommand;
pub use run::{run, watch};
pub use scaler::rules;
pub use worker_pipe::{END, METRICS};
