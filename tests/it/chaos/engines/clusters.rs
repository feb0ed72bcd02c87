//! RabbitMQ with three nodes, PostgreSQL with a synchronous standby, and Redis with a replica and Sentinels.

use tokio::{sync::Mutex, time::sleep};

use super::Failed;
use crate::{
    chaos::plan::{Engine, Fault, Kind},
    harness::engines::{Postgres, RabbitMq, Redis, Stop},
};

const NODES: usize = 3;

pub struct Clusters {
    rabbit: Mutex<RabbitMq>,
    postgres: Mutex<Postgres>,
    redis: Mutex<Redis>,
}

impl Clusters {
    pub async fn start() -> Clusters {
        let (rabbit, postgres, redis) =
            tokio::join!(RabbitMq::start(3), Postgres::start(), Redis::start());
        Clusters {
            rabbit: Mutex::new(rabbit),
            postgres: Mutex::new(postgres),
            redis: Mutex::new(redis),
        }
    }

    /// `host:port` of each node. None of Redis: the Sentinels name its nodes, so that a proxy would not be used.
    pub async fn addresses(&self, engine: Engine) -> Vec<String> {
        let local = |port: u16| format!("127.0.0.1:{port}");
        match engine {
            Engine::RabbitMq => {
                let rabbit = self.rabbit.lock().await;
                (0..NODES).map(|i| local(rabbit.port(i))).collect()
            }
            Engine::Postgres => {
                let postgres = self.postgres.lock().await;
                (0..2).map(|i| local(postgres.port(i))).collect()
            }
            Engine::Redis => Vec::new(),
        }
    }

    pub async fn sentinels(&self) -> Vec<(String, String)> {
        let settings = self.redis.lock().await.settings();
        let owned = |(variable, value): (&str, String)| (variable.to_owned(), value);
        settings.into_iter().map(owned).collect()
    }

    /// Carries out a fault of an engine.
    pub async fn inject(&self, fault: &Fault, engine: Engine) -> Result<(), Failed> {
        match engine {
            Engine::RabbitMq => self.rabbit(fault).await,
            Engine::Postgres => self.postgres(fault).await,
            Engine::Redis => self.redis(fault).await,
        }
    }

    async fn rabbit(&self, fault: &Fault) -> Result<(), Failed> {
        let mut rabbit = self.rabbit.lock().await;
        let node = usize::try_from(fault.amount).expect("a small number") % NODES;
        match fault.kind {
            Kind::KillRabbit | Kind::RestartRabbit => {
                if fault.kind == Kind::KillRabbit {
                    rabbit.kill9(node);
                } else {
                    rabbit.stop(node).await;
                }
                sleep(fault.lasting).await;
                rabbit.restart(node);
                rabbit.until_serving(node).await;
                rabbit.until_joined().await;
            }
            Kind::PauseRabbit => {
                rabbit.freeze(node);
                sleep(fault.lasting).await;
                rabbit.thaw(node);
            }
            Kind::AlarmDisk => {
                set_limit(&rabbit, node, "900000000000000").await?;
                sleep(fault.lasting).await;
                set_limit(&rabbit, node, "50000000").await?;
            }
            // The node that most processes use is alone in its part of the network.
            _ => {
                let node = rabbit.busiest();
                rabbit.cut_off(node).await;
                rabbit.until_paused(node).await;
                sleep(fault.lasting).await;
                rabbit.reconnect(node).await;
                rabbit.until_serving(node).await;
                rabbit.until_joined().await;
            }
        }
        Ok(())
    }

    async fn postgres(&self, fault: &Fault) -> Result<(), Failed> {
        let mut postgres = self.postgres.lock().await;
        let primary = postgres.primary();
        match fault.kind {
            Kind::KillPostgres | Kind::RestartPostgres => {
                if fault.kind == Kind::KillPostgres {
                    postgres.kill9(primary);
                } else {
                    postgres.stop(primary, Stop::Fast).await;
                }
                sleep(fault.lasting).await;
                postgres.restart(primary).await;
            }
            Kind::PausePostgres => {
                postgres.freeze(primary);
                sleep(fault.lasting).await;
                postgres.thaw(primary);
            }
            Kind::FailOverPostgres => {
                postgres.kill9(primary);
                postgres.promote().await;
                sleep(fault.lasting).await;
                postgres.rejoin_as_standby().await;
            }
            _ => {
                let why = "the servers of the cluster have no disk of their own";
                return Err(Failed::Skipped(why.to_owned()));
            }
        }
        Ok(())
    }

    async fn redis(&self, fault: &Fault) -> Result<(), Failed> {
        let mut redis = self.redis.lock().await;
        let master = redis.master().await;
        match fault.kind {
            Kind::PauseRedis => {
                redis.freeze(master);
                sleep(fault.lasting).await;
                redis.thaw(master);
            }
            Kind::FailOverRedis => {
                redis.kill9(master);
                redis.failed_over(master).await;
                sleep(fault.lasting).await;
                redis.restart(master);
            }
            // Short, so that the Sentinels may or may not replace the master.
            _ => {
                redis.kill9(master);
                sleep(fault.lasting).await;
                redis.restart(master);
            }
        }
        redis.until_complete().await;
        Ok(())
    }
}

async fn set_limit(rabbit: &RabbitMq, node: usize, limit: &str) -> Result<(), Failed> {
    let code = format!("rabbit_disk_monitor:set_disk_free_limit({limit}).");
    let done = rabbit.eval(node, &code).await;
    done.map(drop).map_err(Failed::Process)
}
