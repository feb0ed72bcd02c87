//! Skeletons: bare code that does only what cannot be avoided. What the server does beside it is the difference.

pub mod pipeline;
pub mod serve;
