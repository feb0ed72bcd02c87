//! The senders, and the killing of processes.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use uuid::Uuid;

use super::SENDERS;
use crate::harness::{Chat, DEADLINE, User};

/// Clients that send to any running edge, and repeat each send until it is accepted.
pub struct Sending {
    shared: Arc<Shared>,
    senders: Vec<tokio::task::JoinHandle<()>>,
}

struct Shared {
    http: reqwest::Client,
    token: String,
    rooms: Vec<Uuid>,
    urls: Mutex<Vec<String>>,
    next: AtomicUsize,
    accepted: AtomicUsize,
    ids: Mutex<Vec<String>>,
}

impl Sending {
    pub fn start(chat: &Chat, user: &User, rooms: Vec<Uuid>, count: usize) -> Sending {
        let shared = Arc::new(Shared {
            http: chat.http.clone(),
            token: user.access.clone(),
            rooms,
            urls: Mutex::default(),
            next: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            ids: Mutex::new(vec![String::new(); count]),
        });
        let sending = Sending {
            senders: (0..SENDERS)
                .map(|_| tokio::spawn(send(shared.clone(), count)))
                .collect(),
            shared,
        };
        sending.update_edges(chat);
        sending
    }

    /// Updates the addresses of the edges.
    fn update_edges(&self, chat: &Chat) {
        let urls = chat.edges.iter().map(|edge| edge.url().to_owned());
        *self.shared.urls.lock().expect("no panic") = urls.collect();
    }

    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Kills and restarts a process: workers and edges in turn, or the only process.
    pub async fn kill(&self, chat: &mut Chat, turn: usize) {
        let victim = match turn % 2 {
            0 => chat.worker_mut(turn / 2),
            _ => chat.edge_mut(turn / 2),
        };
        victim.kill9().await;
        victim.restart().await;
        self.update_edges(chat);
    }

    /// The ids of all messages, once all are accepted.
    pub async fn finished(&self) -> Vec<String> {
        let all = self.shared.ids.lock().expect("no panic").len();
        until_or_stuck(|| self.accepted() == all, || self.accepted()).await;
        self.shared.ids.lock().expect("no panic").clone()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.senders.iter().for_each(|sender| sender.abort());
    }
}

async fn send(shared: Arc<Shared>, count: usize) {
    loop {
        let i = shared.next.fetch_add(1, Ordering::Relaxed);
        if i >= count {
            return;
        }
        let room = shared.rooms[i % shared.rooms.len()];
        let body = json!({"body": format!("message-{i}-"), "clientMsgId": i.to_string()});
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        for turn in i.. {
            let url = {
                let urls = shared.urls.lock().expect("no panic");
                urls.get(turn % urls.len().max(1))
                    .cloned()
                    .unwrap_or_default()
            };
            let request = shared
                .http
                .post(format!("{url}/v1/rooms/{room}/messages"))
                .bearer_auth(&shared.token)
                .header("content-type", "application/json")
                .body(body.to_string());
            if let Ok(answer) = request.send().await
                && answer.status() == 202
                && let Ok(bytes) = answer.bytes().await
                && let Ok(said) = serde_json::from_slice::<Value>(&bytes)
            {
                let id = said["id"].as_str().expect("an id").to_owned();
                shared.ids.lock().expect("no panic")[i] = id;
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                break;
            }
            pause.tick().await;
        }
    }
}

/// Waits until `done`; fails when `figure` has not changed for [`DEADLINE`].
pub async fn until_or_stuck(done: impl Fn() -> bool, figure: impl Fn() -> usize) {
    let mut poll = tokio::time::interval(Duration::from_millis(10));
    let (mut last, mut since) = (figure(), Instant::now());
    while !done() {
        poll.tick().await;
        let now = figure();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < DEADLINE, "no progress after {last}");
    }
}
