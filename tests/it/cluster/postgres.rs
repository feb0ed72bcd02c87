//! A PostgreSQL primary and its synchronous standby: the standby is promoted under load, and the former primary comes
//! back read-only.

use super::{Watched, alone};
use crate::harness::{
    Chat, Kind,
    engines::{Postgres, Stop},
    load::Load,
};

/// Two edges and three workers that know both servers.
async fn deployment(postgres: &Postgres) -> Chat {
    Load::plan(Kind::Cluster)
        .workers(3)
        .address("DATABASE_URL", postgres.urls())
        .start()
        .await
}

#[tokio::test]
async fn the_standby_is_promoted_and_the_former_primary_comes_back_read_only() {
    let _alone = alone().await;
    let mut postgres = Postgres::start().await;
    let chat = deployment(&postgres).await;
    let mut watched = Watched::begin("PostgreSQL, primary killed, standby promoted", chat).await;
    postgres.kill9(postgres.primary());
    postgres.promote().await;
    watched.measure().await;
    watched.account().await;

    // Both servers answer now, and one of them accepts writes.
    watched
        .next("PostgreSQL, former primary back, read-only")
        .await;
    postgres.restart_read_only().await;
    watched.measure().await;
    watched.end().await;
}

#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn a_switchover_there_and_back() {
    let _alone = alone().await;
    let mut postgres = Postgres::start().await;
    let chat = deployment(&postgres).await;
    let mut watched = Watched::begin("PostgreSQL, switchover", chat).await;
    switch_over(&mut postgres, &mut watched).await;
    watched.account().await;
    watched.next("PostgreSQL, switchover back").await;
    switch_over(&mut postgres, &mut watched).await;
    watched.end().await;
}

/// Stops the primary in order, promotes the standby, and lets the former primary follow it.
async fn switch_over(postgres: &mut Postgres, watched: &mut Watched) {
    postgres.stop(postgres.primary(), Stop::Fast).await;
    postgres.promote().await;
    watched.measure().await;
    postgres.rejoin_as_standby().await;
    watched.load.accepted(200).await;
}

#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn the_primary_is_restarted() {
    let _alone = alone().await;
    let mut postgres = Postgres::start().await;
    let chat = deployment(&postgres).await;
    let mut watched = Watched::begin("PostgreSQL, primary crashes and restarts", chat).await;
    postgres.stop(0, Stop::Immediate).await;
    postgres.restart(0).await;
    watched.measure().await;
    watched.account().await;

    watched.next("PostgreSQL, primary restarted").await;
    postgres.stop(0, Stop::Fast).await;
    postgres.restart(0).await;
    watched.measure().await;
    watched.end().await;
}
