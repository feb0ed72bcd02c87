//! Baselines: programs that do only what cannot be avoided. What the server costs beyond them is the difference.

pub mod pipeline;
pub mod serve;
