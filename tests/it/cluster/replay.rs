//! A real conversation (see `e2e/replay.rs`) while each engine fails over once: every member receives every line once
//! and in the file's order, and the history is the same on each edge.

use std::time::Instant;

use tokio::sync::watch;

use super::alone;
use crate::{
    e2e::replay::{Sending, days, replay},
    harness::{
        Kind,
        engines::{Postgres, RabbitMq, Redis},
        load::Load,
    },
};

#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn a_replayed_channel_survives_the_failover_of_each_engine() {
    let _alone = alone().await;
    let (mut rabbit, mut postgres, mut redis) =
        tokio::join!(RabbitMq::start(3), Postgres::start(), Redis::start());
    for (day, lines) in days() {
        let started = Instant::now();
        let plan = Load::plan(Kind::Cluster)
            .workers(3)
            .address("AMQP_URL", rabbit.urls())
            .address("DATABASE_URL", postgres.urls());
        let chat = redis.serve(plan).start().await;
        rabbit.until_replicated().await;
        let (progress, mut accepted) = watch::channel(0);
        let sending = Sending::OneByOne(progress);
        let faults = async {
            let mut after = async |fifths: usize| {
                let goal = lines.len() * fifths / 5;
                accepted
                    .wait_for(|n| *n >= goal)
                    .await
                    .expect("the replay goes on");
            };
            after(1).await;
            let leader = rabbit.leader(&format!("{}.p.0", chat.prefix())).await;
            rabbit.kill9(leader);
            after(2).await;
            postgres.kill9(postgres.primary());
            postgres.promote().await;
            after(3).await;
            let master = redis.master().await;
            redis.kill9(master);
            redis.failed_over(master).await;
            after(4).await;
            rabbit.restart(leader);
            redis.restart(master);
            rabbit.until_serving(leader).await;
        };
        let (replayed, ()) = tokio::join!(replay(&chat, &day, &lines, &sending), faults);
        eprintln!(
            "failover: replay of {day} with one failover of each engine: {:.1} s without an acknowledged send; \
             sent {}, accepted {}, busy {}, lost 0, repeated 0, out of order 0; {} nicknames, {:.0?}",
            replayed.slowest.as_secs_f64(),
            lines.len(),
            lines.len(),
            replayed.busy,
            replayed.nicks,
            started.elapsed()
        );
        // The next day begins with complete clusters.
        postgres.rejoin_as_standby().await;
        redis.until_complete().await;
        rabbit.until_joined().await;
    }
}
