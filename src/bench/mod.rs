//! Load, what it costs, and the judgement of it. The judge is pure and serves the fault tests as well: it knows no
//! socket.

mod client;
pub mod fanout;
pub mod judge;
pub mod load;
pub mod plot;
