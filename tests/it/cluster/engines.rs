//! The clusters themselves: they start, fail over and recover.

use super::alone;
use crate::harness::engines::{Postgres, RabbitMq, Redis};

/// A few seconds each; what the tests of `cluster/` rely on.
#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn a_postgres_standby_is_promoted_and_the_former_primary_follows_it() {
    let _alone = alone().await;
    let mut postgres = Postgres::start().await;
    postgres.execute(0, "CREATE TABLE kept (n int)").await;
    postgres.execute(0, "INSERT INTO kept VALUES (1)").await;
    postgres.kill9(0);
    postgres.promote().await;
    assert_eq!(postgres.primary(), 1);
    postgres.execute(1, "INSERT INTO kept VALUES (2)").await;
    postgres.rejoin_as_standby().await;
    postgres.execute(1, "DELETE FROM kept WHERE n = 1").await;
    postgres.kill9(1);
    postgres.promote().await;
    assert_eq!(postgres.primary(), 0);
    postgres.restart_read_only().await;
}

#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn a_redis_replica_takes_over() {
    let _alone = alone().await;
    let mut redis = Redis::start().await;
    assert_eq!(redis.master().await, 0);
    redis.kill9(0);
    assert_eq!(redis.failed_over(0).await, 1);
    redis.restart(0);
    redis.until_complete().await;
}

#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn a_rabbitmq_cluster_survives_the_loss_of_a_node() {
    let _alone = alone().await;
    let mut rabbit = RabbitMq::start(3).await;
    rabbit.until_replicated().await;
    rabbit.kill9(0);
    rabbit.restart(0);
    rabbit.until_serving(0).await;
    rabbit.until_joined().await;
    rabbit.cut_off(1).await;
    rabbit.until_paused(1).await;
    rabbit.reconnect(1).await;
    rabbit.until_serving(1).await;
    rabbit.until_joined().await;
}
