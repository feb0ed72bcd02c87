//! A worker process is killed at each step of a batch, which proxies detect in its traffic to the servers. Its
//! successor finishes: every message once, every number once, in order.

mod wire;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{task::JoinHandle, time::interval};
use wire::{MOMENTS, Protocol, Snare, Wire};

use super::PACE;
use crate::harness::{Chat, Kind, deployment::authority, load::Load};

/// Sends edits continuously, so that batches contain more than new messages.
async fn edit(chat: &Chat) -> JoinHandle<()> {
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "private", &[]).await;
    let socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("joined");
    let id = socket.say(room, "edited", "for the first time").await;
    tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(10));
        for i in 0.. {
            ticks.tick().await;
            let data = json!({"room": room, "id": id, "body": i.to_string()});
            drop(socket.send("editMessage", data).await);
        }
    })
}

async fn kill_a_worker_at_each_step(among_edits: bool) {
    let mut chat = Load::plan(Kind::Cluster).workers(1).start().await;
    let load = Load::start(&chat, 3, 4, PACE).await;
    let editing = if among_edits {
        Some(edit(&chat).await)
    } else {
        None
    };
    let snare = Arc::<Snare>::default();
    let (mut program, mut wires) = (chat.program("victim", &["worker"]), Vec::new());
    for (variable, url) in &mut program.env {
        let protocol = match variable.as_str() {
            "DATABASE_URL" => Protocol::Postgres,
            "REDIS_URL" => Protocol::Redis,
            "AMQP_URL" => Protocol::Amqp,
            _ => continue,
        };
        let target = authority(url);
        let wire = Wire::to(target.clone(), protocol, snare.clone()).await;
        *url = url.replacen(&target, &wire.address.to_string(), 1);
        wires.push(wire);
    }
    // From here on it is the only worker.
    let mut victim = program.start().await;
    chat.worker_mut(0).sigterm();
    assert_eq!(chat.worker_mut(0).ended().await, Some(0));
    for moment in MOMENTS {
        load.accepted(60).await;
        snare.kill_at(moment, victim.pid()).await;
        assert_eq!(victim.ended().await, None, "a signal ends it");
        load.accepted(60).await;
        victim.restart().await;
        load.settled().await;
        load.resume_sending();
    }
    if let Some(editing) = editing {
        editing.abort();
    }
    load.end(&chat).await;
}

#[tokio::test]
async fn a_worker_killed_at_any_step_of_plain_batches_loses_nothing() {
    kill_a_worker_at_each_step(false).await;
}

#[tokio::test]
async fn a_worker_killed_at_any_step_of_mixed_batches_loses_nothing() {
    kill_a_worker_at_each_step(true).await;
}
