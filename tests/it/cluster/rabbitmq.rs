//! A RabbitMQ cluster of three nodes: edges and workers move to another node when theirs fails, while the others lead
//! the partitions.

use super::{Watched, alone};
use crate::harness::{
    Chat, Kind,
    engines::{PartitionHandling, RabbitMq},
    load::Load,
};

const NODES: u16 = 3;

/// Two edges and three workers that know all nodes.
async fn deployment(rabbit: &RabbitMq) -> Chat {
    let chat = Load::plan(Kind::Cluster)
        .workers(3)
        .address("AMQP_URL", rabbit.urls())
        .start()
        .await;
    rabbit.until_replicated().await;
    chat
}

/// The node comes back, and the load goes on.
async fn recovered(rabbit: &RabbitMq, watched: &Watched) {
    rabbit.until_joined().await;
    rabbit.until_replicated().await;
    watched.load.accepted(200).await;
}

/// Also covers the connections: some of the edges' and workers' are to the killed node.
#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn the_leader_of_a_partition_is_killed() {
    let _alone = alone().await;
    let mut rabbit = RabbitMq::start(NODES).await;
    let chat = deployment(&rabbit).await;
    let queue = format!("{}.p.0", chat.prefix());
    let mut watched = Watched::begin("RabbitMQ, leader of a partition killed", chat).await;
    let leader = rabbit.leader(&queue).await;
    rabbit.kill9(leader);
    watched.measure().await;
    assert_ne!(rabbit.leader(&queue).await, leader);
    rabbit.restart(leader);
    rabbit.until_serving(leader).await;
    recovered(&rabbit, &watched).await;
    watched.end().await;
}

#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn the_node_with_the_most_connections_is_killed_and_later_frozen() {
    let _alone = alone().await;
    let mut rabbit = RabbitMq::start(NODES).await;
    let chat = deployment(&rabbit).await;
    let mut watched = Watched::begin("RabbitMQ, addressed node killed", chat).await;
    let addressed = rabbit.busiest();
    rabbit.kill9(addressed);
    watched.measure().await;
    rabbit.restart(addressed);
    rabbit.until_serving(addressed).await;
    recovered(&rabbit, &watched).await;
    watched.account().await;

    watched.next("RabbitMQ, addressed node frozen").await;
    let addressed = rabbit.busiest();
    rabbit.freeze(addressed);
    watched.measure().await;
    rabbit.thaw(addressed);
    recovered(&rabbit, &watched).await;
    watched.end().await;
}

#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn the_node_with_the_most_connections_is_in_a_minority_and_pauses() {
    minority(
        "RabbitMQ, addressed node in the minority, pause_minority",
        PartitionHandling::PauseMinority,
    )
    .await;
}

#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn the_node_with_the_most_connections_is_in_a_minority_and_keeps_its_clients() {
    minority(
        "RabbitMQ, addressed node in the minority, ignore",
        PartitionHandling::Ignore,
    )
    .await;
}

async fn minority(name: &'static str, handling: PartitionHandling) {
    let _alone = alone().await;
    let mut rabbit = RabbitMq::start_with(NODES, handling).await;
    let chat = deployment(&rabbit).await;
    let mut watched = Watched::begin(name, chat).await;
    let addressed = rabbit.busiest();
    rabbit.cut_off(addressed).await;
    watched.measure().await;
    match handling {
        PartitionHandling::PauseMinority => {
            rabbit.until_paused(addressed).await;
            rabbit.reconnect(addressed).await;
        }
        PartitionHandling::Ignore => {
            rabbit.reconnect(addressed).await;
            // RabbitMQ requires the restart of one side.
            rabbit.stop(addressed).await;
            rabbit.restart(addressed);
        }
    }
    rabbit.until_serving(addressed).await;
    recovered(&rabbit, &watched).await;
    watched.end().await;
}

#[tokio::test]
#[ignore = "run by scripts/test --cluster"]
async fn all_nodes_are_restarted_one_after_the_other() {
    let _alone = alone().await;
    let mut rabbit = RabbitMq::start(NODES).await;
    let chat = deployment(&rabbit).await;
    let mut watched = Watched::begin("RabbitMQ, rolling restart of three nodes", chat).await;
    for node in 0..rabbit.len() {
        rabbit.stop(node).await;
        watched.load.accepted(100).await;
        rabbit.restart(node);
        rabbit.until_serving(node).await;
        recovered(&rabbit, &watched).await;
    }
    watched.measure().await;
    watched.end().await;
}
