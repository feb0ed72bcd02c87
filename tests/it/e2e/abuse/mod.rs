//! Attacks, run against real processes: each one is a peer that does not play by the rules, and an honest client beside
//! it whose latency is bounded while the attack runs.

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
