//! Proxies in front of an edge, and the edge's support for them: readiness, draining, TLS.

mod haproxy;
mod readiness;
mod tls;
