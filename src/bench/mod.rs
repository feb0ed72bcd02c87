//! Load, and the measurement of what it costs.

pub mod fanout;
