//! Members leave, are removed and are added again, over REST.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::json;
use tokio::time::sleep;

use super::shared::Shared;
use crate::chaos::{
    random::Random,
    record::{Action, Outcome},
};

const ANSWER: Duration = Duration::from_secs(15);

/// The first clients are always members of every room; the others come and go.
pub const STABLE: usize = 4;

pub fn http() -> reqwest::Client {
    // Fails if a provider is installed already, which is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(ANSWER).no_proxy();
    client.build().expect("a client can be made")
}

/// Ends memberships in one room, one after the other. Members of a public room join again by themselves; those of a
/// private room are added again by the owner.
pub async fn change(shared: Arc<Shared>, room: usize, seed: u64) {
    let mut random = Random::new(seed, 500 + room as u64);
    let changes = Changes {
        http: http(),
        shared,
        room,
    };
    while !changes.shared.is_quiet() {
        sleep(Duration::from_millis(random.millis(1_500, 5_000))).await;
        let client = STABLE + random.below(changes.shared.users.len() - STABLE);
        let edge = random.below(2);
        if changes.shared.is_quiet() {
            return;
        }
        if changes.shared.rooms[room].public {
            changes.perform(edge, client, Action::Leave).await;
            continue;
        }
        changes.perform(edge, 0, Action::Remove { client }).await;
        sleep(Duration::from_millis(random.millis(300, 3_000))).await;
        // Until it is done: the client has nothing else to do in this room.
        while !changes.perform(edge + 1, 0, Action::Add { client }).await {
            sleep(Duration::from_millis(random.millis(300, 900))).await;
        }
    }
}

struct Changes {
    http: reqwest::Client,
    shared: Arc<Shared>,
    room: usize,
}

impl Changes {
    /// Performs the operation as `client`. Returns whether it was done.
    async fn perform(&self, edge: usize, client: usize, action: Action) -> bool {
        let shared = &self.shared;
        let base = &shared.edges[edge % shared.edges.len()];
        let room = shared.rooms[self.room].id;
        let member = |client: usize| {
            let user = shared.users[client].id;
            format!("http://{base}/v1/rooms/{room}/members/{user}")
        };
        let (method, url, body) = match &action {
            Action::Leave => (
                Method::POST,
                format!("http://{base}/v1/rooms/{room}/leave"),
                None,
            ),
            Action::Remove { client } => (Method::DELETE, member(*client), None),
            Action::Add { client } => (
                Method::PUT,
                member(*client),
                Some(json!({"role": "member"})),
            ),
            other => unreachable!("not a change of a membership: {other:?}"),
        };
        let position = shared.position(client, self.room).unwrap_or_default();
        let what = format!("{action:?}");
        let op = shared.begin(client, self.room, action, usize::MAX, position);
        let mut request = self
            .http
            .request(method, url)
            .bearer_auth(&shared.users[client].token);
        if let Some(body) = body {
            let json = reqwest::header::CONTENT_TYPE;
            request = request
                .header(json, "application/json")
                .body(body.to_string());
        }
        let status = request.send().await.map(|answer| answer.status().as_u16());
        let outcome = match status {
            Ok(200 | 201 | 204) => Outcome::Done {
                id: None,
                change: None,
            },
            Ok(202) => Outcome::Accepted,
            Ok(status @ (403 | 404 | 409)) => Outcome::Refused(status.to_string()),
            Ok(503 | 429) | Err(_) => Outcome::Unknown,
            Ok(status) => {
                shared.surprise(format!("{what} was answered {status}"));
                Outcome::Unknown
            }
        };
        let done = matches!(outcome, Outcome::Done { .. } | Outcome::Accepted);
        shared.answer(op, outcome);
        done
    }
}
