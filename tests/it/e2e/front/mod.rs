//! What stands in front of an edge, and what the edge offers it: readiness, draining, TLS.

mod haproxy;
mod readiness;
mod tls;
