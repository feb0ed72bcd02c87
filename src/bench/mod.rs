//! Load, what it costs, and the judgement of it. The judge is pure and serves the fault tests as well: it knows no
//! socket.

pub mod bare;
mod client;
pub mod fanout;
pub mod history;
pub mod judge;
pub mod load;
mod measure;
mod report;
pub mod scaling;
pub mod storm;
mod wire;
