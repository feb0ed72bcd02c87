//! The scaling benchmark: a quiet load, a burst, and quiet again, against a deployment whose workers `chat autoscale` runs.
//! The load is that of [`crate::load`]; the autoscaler's metrics are read beside it. It starts and stops nothing.

mod args;
mod curve;
mod html;
mod metrics;
mod run;

pub use self::{args::Scaling, curve::Curve, html::write, metrics::Sample, run::run};
