//! Carries out the plan of faults.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::{sleep, sleep_until};

use super::{
    cluster::Cluster,
    engines::Failed,
    plan::{EDGES, Fault, Kind, Target},
    proxy::Mode,
    record::Millis,
};

/// A fault that was injected.
#[derive(Debug, Clone)]
pub struct Incident {
    pub kind: Kind,
    pub what: String,
    pub from: Millis,
    /// When it was undone; `None` while it lasts.
    pub to: Option<Millis>,
}

/// The faults that were injected, for the report.
#[derive(Default)]
pub struct Diary {
    pub incidents: Vec<Incident>,
    /// Why faults of a kind were not injected.
    pub skipped: BTreeMap<Kind, String>,
    /// Processes that failed at a start or a stop.
    pub failures: Vec<(Millis, String)>,
}

pub struct Nemesis {
    cluster: Arc<Cluster>,
    started: Instant,
    diary: Mutex<Diary>,
}

impl Nemesis {
    pub fn new(cluster: Arc<Cluster>, started: Instant) -> Nemesis {
        Nemesis {
            cluster,
            started,
            diary: Mutex::default(),
        }
    }

    pub fn diary(&self) -> std::sync::MutexGuard<'_, Diary> {
        self.diary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).expect("a short time")
    }

    /// Returns when the last fault has been undone.
    pub async fn run(&self, plan: Vec<Fault>) {
        let faults = plan.into_iter().map(|fault| async {
            sleep_until((self.started + fault.at).into()).await;
            self.inject(fault).await;
        });
        join_all(faults).await;
    }

    async fn inject(&self, fault: Fault) {
        let number = {
            let mut diary = self.diary();
            diary.incidents.push(Incident {
                kind: fault.kind,
                what: fault.describe(),
                from: self.now(),
                to: None,
            });
            diary.incidents.len() - 1
        };
        let done = self.perform(&fault).await;
        let now = self.now();
        let mut diary = self.diary();
        diary.incidents[number].to = Some(now);
        match done {
            Ok(()) => {}
            Err(Failed::Skipped(why)) => {
                diary.incidents[number].what.push_str(" (skipped)");
                diary.skipped.insert(fault.kind, why);
            }
            Err(Failed::Process(why)) => {
                let what = format!("{}: {why}", fault.describe());
                diary.failures.push((now, what));
            }
        }
    }

    async fn perform(&self, fault: &Fault) -> Result<(), Failed> {
        match fault.target {
            Target::Edge(edge) => self.process(fault, edge).await,
            Target::Worker(worker) => self.process(fault, EDGES + worker).await,
            Target::Engine(engine) => self.cluster.engines.inject(fault, engine).await,
            Target::Clients(edge) => {
                let proxy = &self.cluster.clients[edge];
                proxy.set(mode(fault));
                sleep(fault.lasting).await;
                proxy.set(Mode::Pass);
                Ok(())
            }
            Target::Link(process, engine) => {
                if !self.cluster.set_link(process, engine, mode(fault)) {
                    let why = "Sentinels name the servers, which leads past a proxy";
                    return Err(Failed::Skipped(why.to_owned()));
                }
                sleep(fault.lasting).await;
                self.cluster.set_link(process, engine, Mode::Pass);
                Ok(())
            }
            Target::Everything => self.upgrade(fault).await,
        }
    }

    async fn process(&self, fault: &Fault, process: usize) -> Result<(), Failed> {
        let cluster = &self.cluster;
        if fault.kind == Kind::JumpClock {
            // Minutes into the future or the past.
            let seconds = i64::try_from(fault.amount).expect("a small number") * 10;
            let seconds = if fault.amount.is_multiple_of(2) {
                seconds
            } else {
                -seconds
            };
            if !cluster.set_clock(process, seconds) {
                return Err(Failed::Skipped("libfaketime is not installed".to_owned()));
            }
            sleep(fault.lasting).await;
            cluster.set_clock(process, 0);
            return Ok(());
        }
        let mut node = cluster.nodes[process].lock().await;
        let ended = match fault.kind {
            Kind::FreezeEdge | Kind::FreezeWorker => {
                node.freeze();
                sleep(fault.lasting).await;
                node.thaw();
                return Ok(());
            }
            Kind::KillEdge | Kind::KillWorker => {
                node.kill().await;
                Ok(())
            }
            _ => node.terminate().await,
        };
        sleep(fault.lasting).await;
        let started = cluster.bring_up(process, &mut node).await;
        ended.and(started).map_err(Failed::Process)
    }

    /// Workers before edges, as docs/operations.md says.
    async fn upgrade(&self, fault: &Fault) -> Result<(), Failed> {
        let count = self.cluster.nodes.len();
        for process in (EDGES..count).chain(0..EDGES) {
            let mut node = self.cluster.nodes[process].lock().await;
            let ended = node.terminate().await;
            node.program = self.cluster.program.clone();
            sleep(fault.lasting).await;
            let started = self.cluster.bring_up(process, &mut node).await;
            ended.and(started).map_err(Failed::Process)?;
        }
        Ok(())
    }
}

fn mode(fault: &Fault) -> Mode {
    match fault.kind {
        Kind::DelayClients | Kind::DelayLink => Mode::Delay(Duration::from_millis(fault.amount)),
        Kind::HalfOpenClients | Kind::HalfOpenLink => Mode::Swallow,
        _ => Mode::Cut,
    }
}
