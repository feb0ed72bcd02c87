//! The engines of a run: one node each, or clusters that fail over.

mod clusters;
mod single;

use clusters::Clusters;
use single::Single;

use super::plan::{Engine, Fault};

/// Why a fault was not carried out.
pub enum Failed {
    Skipped(String),
    /// A process did not do what it was told.
    Process(String),
}

pub enum Engines {
    Single(Single),
    Clustered(Box<Clusters>),
}

impl Engines {
    /// Takes about fifteen seconds, or a minute for clusters.
    pub async fn start(clustered: bool) -> Engines {
        if clustered {
            Engines::Clustered(Box::new(Clusters::start().await))
        } else {
            Engines::Single(Single::start().await)
        }
    }

    /// `host:port` of each server that a process connects to.
    pub async fn addresses(&self, engine: Engine) -> Vec<String> {
        match self {
            Engines::Single(single) => vec![single.address(engine)],
            Engines::Clustered(clusters) => clusters.addresses(engine).await,
        }
    }

    /// The settings with which a process reaches an engine at these addresses, which lead to those of
    /// [`Engines::addresses`].
    pub async fn settings(&self, engine: Engine, addresses: &[String]) -> Vec<(String, String)> {
        let all = |url: &dyn Fn(&str) -> String| {
            let urls: Vec<String> = addresses.iter().map(|address| url(address)).collect();
            urls.join(",")
        };
        match (engine, self) {
            (Engine::RabbitMq, _) => {
                let urls = all(&|address| format!("amqp://guest:guest@{address}/%2f"));
                vec![("AMQP_URL".to_owned(), urls)]
            }
            (Engine::Postgres, _) => {
                let urls = all(&|address| format!("postgres://chat@{address}/chat"));
                vec![("DATABASE_URL".to_owned(), urls)]
            }
            (Engine::Redis, Engines::Single(_)) => {
                let urls = all(&|address| format!("redis://{address}/0"));
                vec![("REDIS_URL".to_owned(), urls)]
            }
            (Engine::Redis, Engines::Clustered(clusters)) => clusters.sentinels().await,
        }
    }

    pub async fn inject(&self, fault: &Fault, engine: Engine) -> Result<(), Failed> {
        match self {
            Engines::Single(single) => single.inject(fault, engine).await,
            Engines::Clustered(clusters) => clusters.inject(fault, engine).await,
        }
    }
}
