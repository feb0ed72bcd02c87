//! What breaks, and what holds nevertheless: real processes, real servers and real sockets, judged message by message.

mod crashes;
mod dead;
mod moments;
mod readers;
mod servers;
mod twice;

use std::time::Duration;

/// Each client of a load sends one message in this time.
const PACE: Duration = Duration::from_millis(20);
