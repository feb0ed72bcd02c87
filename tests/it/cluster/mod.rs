//! Failovers of real clusters under load: a RabbitMQ cluster, a PostgreSQL primary with its standby, Redis with
//! Sentinels, all private to the test. Nothing that was accepted is lost, repeated or out of order, and each test prints
//! the seconds without service.
//!
//! `scripts/test --cluster` runs them; the plain suite runs only those that are not ignored.

mod engines;
mod postgres;
mod rabbitmq;
mod redis;
mod replay;

use std::time::{Duration, Instant};

use bench::judge::Verdict;
use tokio::sync::{Mutex, MutexGuard};

use crate::harness::{
    Chat,
    load::{Figures, Load},
    outage::Outage,
};

/// Interval of each load client's messages.
const PACE: Duration = Duration::from_millis(20);
const ROOMS: usize = 6;
const CLIENTS: usize = 4;
/// How long a fault is watched at least.
const WATCHED: Duration = Duration::from_secs(5);

/// These tests run one after the other: each has a dozen processes, and measures times.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// A deployment under load whose outages are measured.
struct Watched {
    chat: Chat,
    load: Load,
    fault: Fault,
}

/// One fault, and the state before it.
struct Fault {
    name: &'static str,
    begun: Instant,
    figures: Figures,
    verdict: Verdict,
    outage: Outage,
}

impl Watched {
    /// Waits until the load flows, then begins to measure the first fault.
    async fn begin(name: &'static str, chat: Chat) -> Watched {
        let load = Load::start(&chat, ROOMS, CLIENTS, PACE).await;
        load.accepted(200).await;
        Watched {
            fault: Fault::begin(name, &load),
            chat,
            load,
        }
    }

    /// Begins to measure the next fault.
    async fn next(&mut self, name: &'static str) {
        self.load.accepted(200).await;
        self.fault = Fault::begin(name, &self.load);
    }

    /// Measures until the load has flowed for a while after the fault.
    async fn measure(&mut self) {
        let Fault { name, begun, .. } = self.fault;
        self.load.accepted(300).await;
        self.load.until(name, || begun.elapsed() >= WATCHED).await;
        self.load.delivered(1000).await;
        self.fault.outage = self.load.outage();
    }

    /// Waits until everything is delivered, checks every message, and prints the outage and the account of messages
    /// since the fault began. The load goes on.
    async fn account(&self) {
        self.load.settled().await;
        let (now, before) = (self.load.verdict(), &self.fault.verdict);
        let busy = self.load.figures().busy - self.fault.figures.busy;
        eprintln!(
            "failover: {}: {}, slowest answer {:.1} s; sent {}, accepted {}, busy {busy}, lost {}, repeated {}, \
             out of order {}",
            self.fault.name,
            self.fault.outage,
            self.load.figures().slowest.as_secs_f64(),
            now.sent - before.accepted,
            now.accepted - before.accepted,
            now.lost,
            now.duplicated,
            now.reordered
        );
        assert!(now.is_clean(), "{}", now.explain());
        self.load.resume_sending();
    }

    /// The last account; then the history is compared as well.
    async fn end(self) {
        self.account().await;
        self.load.end(&self.chat).await;
    }
}

impl Fault {
    fn begin(name: &'static str, load: &Load) -> Fault {
        load.watch();
        Fault {
            name,
            begun: Instant::now(),
            figures: load.figures(),
            verdict: load.verdict(),
            outage: Outage::default(),
        }
    }
}
