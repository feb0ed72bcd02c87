//! Baselines: programs that do only the unavoidable part of the work. The server's cost is compared with theirs.

pub mod pipeline;
pub mod serve;
