//! The plan of a run: which fault begins when, on what, and for how long. The seed determines it.

use std::time::Duration;

use super::{options::Options, random::Random};

pub const EDGES: usize = 2;
pub const WORKERS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    RabbitMq,
    Postgres,
    Redis,
}

pub const ENGINES: [Engine; 3] = [Engine::RabbitMq, Engine::Postgres, Engine::Redis];

/// The target of a fault. Two faults never have the same target at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Edge(usize),
    Worker(usize),
    Engine(Engine),
    /// The connections between clients and this edge.
    Clients(usize),
    /// The connections between a process (edges first, then workers) and an engine.
    Link(usize, Engine),
    /// Every process, one after the other.
    Everything,
}

macro_rules! kinds {
    ($($kind:ident $name:literal $weight:literal $least:literal..$most:literal $recovery:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($kind,)* }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            /// `verb-target`.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// How often it is chosen, how long it lasts in milliseconds, and the seconds that the recovery is
            /// expected to take.
            fn parameters(self) -> (usize, (u64, u64), u64) {
                match self { $(Kind::$kind => ($weight, ($least, $most), $recovery),)* }
            }
        }
    };
}

// A process that is killed is started again after the time.
kinds! {
    KillEdge "kill-edge" 10 0..3_000 4;
    KillWorker "kill-worker" 10 0..3_000 4;
    FreezeEdge "freeze-edge" 6 1_000..12_000 2;
    FreezeWorker "freeze-worker" 8 1_000..20_000 2;
    RestartEdge "restart-edge" 6 0..500 5;
    RestartWorker "restart-worker" 6 0..500 5;
    KillRabbit "kill-rabbitmq" 3 0..2_000 25;
    PauseRabbit "pause-rabbitmq" 4 1_000..10_000 5;
    RestartRabbit "restart-rabbitmq" 2 0..1_000 30;
    FailOverRabbit "failover-rabbitmq" 4 2_000..5_000 30;
    KillPostgres "kill-postgres" 5 0..3_000 6;
    PausePostgres "pause-postgres" 5 1_000..10_000 3;
    RestartPostgres "restart-postgres" 3 0..1_000 6;
    FailOverPostgres "failover-postgres" 3 1_000..3_000 30;
    KillRedis "kill-redis" 6 0..3_000 3;
    PauseRedis "pause-redis" 5 1_000..10_000 3;
    RestartRedis "restart-redis" 3 0..1_000 3;
    FailOverRedis "failover-redis" 4 2_000..5_000 15;
    CutClients "cut-clients" 8 0..3_000 1;
    DelayClients "delay-clients" 5 2_000..8_000 1;
    HalfOpenClients "half-open-clients" 5 3_000..10_000 1;
    CutLink "cut-engine" 12 0..4_000 1;
    DelayLink "delay-engine" 8 2_000..8_000 1;
    HalfOpenLink "half-open-engine" 8 2_000..15_000 1;
    FillDisk "fill-disk" 3 2_000..6_000 8;
    AlarmDisk "alarm-disk" 3 2_000..8_000 4;
    JumpClock "jump-clock" 5 2_000..15_000 1;
    Upgrade "upgrade-all" 2 0..500 15;
}

impl Kind {
    /// Whether it needs engines with several nodes.
    fn needs_cluster(self) -> bool {
        matches!(
            self,
            Kind::FailOverRabbit | Kind::FailOverPostgres | Kind::FailOverRedis
        )
    }

    fn target(self, random: &mut Random) -> Target {
        match self {
            Kind::KillEdge | Kind::FreezeEdge | Kind::RestartEdge => {
                Target::Edge(random.below(EDGES))
            }
            Kind::KillWorker | Kind::FreezeWorker | Kind::RestartWorker => {
                Target::Worker(random.below(WORKERS))
            }
            Kind::KillRabbit
            | Kind::PauseRabbit
            | Kind::RestartRabbit
            | Kind::FailOverRabbit
            | Kind::AlarmDisk => Target::Engine(Engine::RabbitMq),
            Kind::KillPostgres
            | Kind::PausePostgres
            | Kind::RestartPostgres
            | Kind::FailOverPostgres
            | Kind::FillDisk => Target::Engine(Engine::Postgres),
            Kind::KillRedis | Kind::PauseRedis | Kind::RestartRedis | Kind::FailOverRedis => {
                Target::Engine(Engine::Redis)
            }
            Kind::CutClients | Kind::DelayClients | Kind::HalfOpenClients => {
                Target::Clients(random.below(EDGES))
            }
            Kind::CutLink | Kind::DelayLink | Kind::HalfOpenLink => {
                Target::Link(random.below(EDGES + WORKERS), ENGINES[random.below(3)])
            }
            // The processes whose clocks can be changed: one edge and one worker.
            Kind::JumpClock => [Target::Edge(1), Target::Worker(2)][random.below(2)],
            Kind::Upgrade => Target::Everything,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Since the beginning of the run.
    pub at: Duration,
    pub kind: Kind,
    pub target: Target,
    pub lasting: Duration,
    /// A number that the kind needs: a delay in milliseconds, or the seconds by which a clock jumps.
    pub amount: u64,
}

impl Fault {
    /// `kill-edge 1, 420 ms`.
    pub fn describe(&self) -> String {
        let target = match self.target {
            Target::Edge(i) | Target::Worker(i) => format!(" {i}"),
            Target::Clients(i) => format!(" of edge {i}"),
            Target::Link(process, engine) if process < EDGES => {
                format!(", edge {process} to {engine:?}")
            }
            Target::Link(process, engine) => {
                format!(", worker {} to {engine:?}", process - EDGES)
            }
            Target::Engine(_) | Target::Everything => String::new(),
        };
        format!(
            "{}{target}, {} ms",
            self.kind.name(),
            self.lasting.as_millis()
        )
    }

    fn ends(&self) -> Duration {
        self.at + self.lasting + Duration::from_secs(self.kind.parameters().2)
    }
}

/// Whether two faults must not overlap: they have the same target, or both stop an engine.
fn exclude(a: Target, b: Target) -> bool {
    let process = |target| match target {
        Target::Edge(_) | Target::Worker(_) => true,
        Target::Engine(_) | Target::Clients(_) | Target::Link(..) | Target::Everything => false,
    };
    match (a, b) {
        (Target::Engine(_), Target::Engine(_)) => true,
        (Target::Everything, other) | (other, Target::Everything) => {
            process(other) || other == Target::Everything
        }
        _ => a == b,
    }
}

pub fn plan(options: &Options) -> Vec<Fault> {
    let mut random = Random::new(options.seed, 1);
    let possible = options.kinds.iter().copied();
    let choices: Vec<(Kind, usize)> = possible
        .filter(|kind| options.clustered || !kind.needs_cluster())
        .map(|kind| (kind, kind.parameters().0))
        .collect();
    let pause = 60_000 / u64::from(options.faults);
    let (mut at, mut faults) = (Duration::from_secs(2), Vec::<Fault>::new());
    while !choices.is_empty() && at < options.duration {
        // If everything that is drawn is affected already, this slot has no fault.
        for _ in 0..8 {
            let kind = random.weighted(&choices);
            let (_, (least, most), _) = kind.parameters();
            let fault = Fault {
                at,
                kind,
                target: kind.target(&mut random),
                lasting: Duration::from_millis(random.millis(least, most)),
                amount: random.millis(20, 300),
            };
            let active = faults
                .iter()
                .rev()
                .take(64)
                .filter(|other| other.ends() > at);
            if active
                .clone()
                .all(|other| !exclude(fault.target, other.target))
            {
                faults.push(fault);
                break;
            }
        }
        at += Duration::from_millis(random.millis(pause / 2, pause + pause / 2));
    }
    faults
}

#[test]
fn a_seed_determines_the_plan() {
    let options = Options {
        duration: Duration::from_secs(3600),
        ..Options::short(7)
    };
    let faults = plan(&options);
    assert_eq!(faults, plan(&options));
    assert_ne!(
        faults,
        plan(&Options {
            seed: 8,
            ..options.clone()
        })
    );
    assert!((900..=1100).contains(&faults.len()), "{}", faults.len());
    for kind in Kind::ALL {
        let is_there = faults.iter().any(|fault| fault.kind == *kind);
        assert_eq!(is_there, !kind.needs_cluster(), "{kind:?}");
    }
    for (i, fault) in faults.iter().enumerate() {
        for other in &faults[..i] {
            assert!(
                other.ends() <= fault.at || !exclude(fault.target, other.target),
                "{other:?} and {fault:?}"
            );
        }
    }
}
