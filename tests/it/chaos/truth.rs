//! Users and rooms at the beginning of a run, and what the server has at its end, over REST.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    client::{
        membership,
        shared::{Room, Shared, User},
    },
    record::{Action, Change, Copy, EMOJIS, Event, Outcome, Seq, Stored, Truth, subject},
};

/// How long a healthy cluster may take to answer, with repetitions.
const HEALTHY: Duration = Duration::from_secs(120);
/// How long it may take until everything is delivered, after the last fault.
const SETTLE: Duration = Duration::from_secs(240);

pub struct Api {
    http: reqwest::Client,
    edges: Vec<String>,
}

impl Api {
    pub fn new(edges: Vec<String>) -> Api {
        Api {
            http: membership::http(),
            edges,
        }
    }

    /// Repeats the request until it is answered with success.
    async fn call(&self, method: Method, path: &str, token: &str, body: Option<&Value>) -> Value {
        let end = Instant::now() + HEALTHY;
        for attempt in 0.. {
            let url = format!("http://{}{path}", self.edges[attempt % self.edges.len()]);
            let mut request = self.http.request(method.clone(), url);
            if !token.is_empty() {
                request = request.bearer_auth(token);
            }
            if let Some(body) = body {
                let json = reqwest::header::CONTENT_TYPE;
                request = request
                    .header(json, "application/json")
                    .body(body.to_string());
            }
            let answer = async {
                let answer = request.send().await?;
                let status = answer.status();
                Ok::<_, reqwest::Error>((status, answer.text().await?))
            };
            match answer.await {
                Ok((status, text)) if status.is_success() && status.as_u16() != 202 => {
                    return serde_json::from_str(&text).unwrap_or_default();
                }
                other => assert!(Instant::now() < end, "{method} {path}: {other:?}"),
            }
            sleep(Duration::from_millis(200)).await;
        }
        unreachable!("it repeats until the deadline")
    }

    async fn get(&self, path: &str, token: &str) -> Value {
        self.call(Method::GET, path, token, None).await
    }

    pub async fn register(&self, name: &str) -> User {
        let body = json!({"username": name, "password": format!("the password of {name}")});
        let path = "/v1/auth/register";
        let user = self.call(Method::POST, path, "", Some(&body)).await;
        User {
            id: uuid(&user["user"]["id"]),
            token: user["accessToken"].as_str().expect("a token").to_owned(),
        }
    }

    /// A room with all users as members, owned by the first.
    pub async fn room(&self, name: &str, public: bool, users: &[User]) -> Room {
        let members: Vec<Uuid> = users[1..].iter().map(|user| user.id).collect();
        let kind = if public { "public" } else { "private" };
        let body = json!({"name": name, "kind": kind, "members": members});
        let token = &users[0].token;
        let room = self
            .call(Method::POST, "/v1/rooms", token, Some(&body))
            .await;
        Room {
            id: uuid(&room["id"]),
            public,
        }
    }

    /// Sends the last message of each room, and waits until every client has received everything. A room's commands
    /// keep their order, so whatever was accepted before is stored then. Returns whether that happened in time.
    pub async fn settle(&self, shared: &Arc<Shared>) -> bool {
        let end = Instant::now() + SETTLE;
        while shared.pending() > 0 && Instant::now() < end {
            sleep(Duration::from_millis(100)).await;
        }
        let token = &shared.users[0].token;
        for room in 0..shared.rooms.len() {
            let (name, body) = (format!("last-{room}"), "the last message".to_owned());
            let message = json!({"body": body, "clientMsgId": name});
            let op = shared.begin(0, room, Action::Send { name, body }, usize::MAX, 0);
            let path = format!("/v1/rooms/{}/messages?wait=stored", shared.rooms[room].id);
            let stored = self.call(Method::POST, &path, token, Some(&message)).await;
            let id = Some(uuid(&stored["id"]));
            shared.answer(op, Outcome::Done { id, change: None });
        }
        let (mut heads, mut same) = (Vec::new(), 0);
        while same < 10 && Instant::now() < end {
            sleep(Duration::from_millis(250)).await;
            let before = std::mem::take(&mut heads);
            let mut arrived = true;
            for room in 0..shared.rooms.len() {
                let path = format!("/v1/rooms/{}", shared.rooms[room].id);
                let head = number(&self.get(&path, token).await["seq"]);
                let clients = 0..shared.users.len();
                let mut positions = clients.map(|client| shared.position(client, room));
                arrived &= positions.all(|position| position == Some(head));
                heads.push(head);
            }
            same = if arrived && heads == before {
                same + 1
            } else {
                0
            };
            if !arrived {
                self.add_missing(shared).await;
            }
        }
        same >= 10
    }

    /// Adds users to private rooms again whose removal was carried out after the next addition, which an unanswered
    /// request may be. Members of public rooms join by themselves.
    async fn add_missing(&self, shared: &Arc<Shared>) {
        let token = &shared.users[0].token;
        for (room, about) in shared
            .rooms
            .iter()
            .enumerate()
            .filter(|(_, room)| !room.public)
        {
            let path = format!("/v1/rooms/{}/members", about.id);
            let members = self.get(&format!("{path}?limit=200"), token).await;
            let members = members["items"].as_array().expect("a list").iter();
            let members: Vec<Uuid> = members.map(|item| uuid(&item["user"]["id"])).collect();
            for (client, user) in shared.users.iter().enumerate() {
                if !members.contains(&user.id) {
                    let op = shared.begin(0, room, Action::Add { client }, usize::MAX, 0);
                    let body = json!({"role": "member"});
                    let path = format!("{path}/{}", user.id);
                    self.call(Method::PUT, &path, token, Some(&body)).await;
                    shared.answer(
                        op,
                        Outcome::Done {
                            id: None,
                            change: None,
                        },
                    );
                }
            }
        }
    }

    pub async fn truth(&self, room: Uuid, token: &str) -> Truth {
        let mut truth = Truth::default();
        let path = format!("/v1/rooms/{room}/changes?limit=200");
        let pages = self.pages(&path, token, |item| {
            let event = item["event"]
                .as_str()
                .and_then(Event::named)
                .expect("an event");
            let data = &item["data"];
            truth.feed.push(Change {
                seq: number(&data["changeSeq"]),
                event,
                subject: subject(event, data),
            });
        });
        pages.await;
        let path = format!("/v1/rooms/{room}/messages?after=0&limit=200");
        let pages = self.pages(&path, token, |item| truth.history.push(stored(item)));
        pages.await;
        let path = format!("/v1/rooms/{room}/members?limit=200");
        let pages = self.pages(&path, token, |item| {
            let read = item["readSeq"].as_i64().unwrap_or_default();
            truth.members.insert(uuid(&item["user"]["id"]), read);
        });
        pages.await;
        truth
    }

    async fn pages(&self, path: &str, token: &str, mut each: impl FnMut(&Value)) {
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}{cursor}"), token).await;
            page["items"]
                .as_array()
                .expect("a list")
                .iter()
                .for_each(&mut each);
            if page["hasMore"] != true {
                return;
            }
            let next = &page["nextCursor"];
            let next = next.as_str().map_or(next.to_string(), str::to_owned);
            cursor = format!("&cursor={next}");
        }
    }
}

fn stored(item: &Value) -> Stored {
    let of_emoji = |emoji: &&str| {
        let mut reactions = item["reactions"].as_array().into_iter().flatten();
        let found = reactions.find(|reaction| reaction["emoji"] == **emoji);
        let users = found.and_then(|reaction| reaction["users"].as_array());
        users.into_iter().flatten().map(uuid).collect()
    };
    Stored {
        id: uuid(&item["id"]),
        seq: number(&item["seq"]),
        sender: uuid(&item["sender"]["id"]),
        name: item["clientMsgId"].as_str().unwrap_or_default().to_owned(),
        copy: Copy::read(item),
        reactions: EMOJIS.iter().map(of_emoji).collect(),
    }
}

fn uuid(value: &Value) -> Uuid {
    let id = value.as_str().and_then(|text| text.parse().ok());
    id.unwrap_or_else(|| panic!("not a UUID: {value}"))
}

fn number(value: &Value) -> Seq {
    value
        .as_i64()
        .unwrap_or_else(|| panic!("not a number: {value}"))
}
