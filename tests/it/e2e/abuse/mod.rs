//! Attacks on real processes: each is a peer that violates the rules, beside an honest client whose latency is bounded
//! while the attack runs.

mod accounts;
mod addresses;
mod connections;
mod costs;
mod framing;
mod handshakes;
mod operator;
mod rights;
mod stalled;
mod texts;
