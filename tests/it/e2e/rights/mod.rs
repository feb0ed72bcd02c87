//! Every operation and every socket event, by every kind of caller: the server's answer must be what [`table`] says,
//! and `docs/rights.md` is generated from the same table. An operation that the table does not list fails the test.

mod page;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::{StreamExt, future::join_all, stream};
use reqwest::Method;
use serde_json::{Value, json};
use table::{ACCOUNT_ROWS, AccountRow, CALLERS, EVENTS, Event, ROOM_ROWS, RoomRow, Want};
use uuid::Uuid;

use crate::harness::{
    Chat, Kind, Rest, Socket, User, both_ways,
    deployment::{SECRET, uuid},
    eventually,
    jwt::{self, Algorithm},
};

both_ways!(
    operations_answer_every_caller_as_in_the_table,
    events_answer_every_caller_as_in_the_table
);

/// Rows that are tested concurrently.
const AT_ONCE: usize = 12;

/// The users of the test.
struct Cast {
    owner: User,
    admin: User,
    member: User,
    muted: User,
    removed: User,
    banned: User,
    stranger: User,
    /// A plain member that operations act on.
    target: User,
    /// A user who is in no room.
    newcomer: User,
}

async fn start(kind: Kind) -> (Chat, Cast) {
    let plan = Chat::plan(kind)
        .set("limits.messages_per_second", 100_000)
        .set("limits.burst", 100_000)
        .set("limits.reads_per_second", 100_000)
        .set("limits.read_burst", 100_000)
        .set("limits.address_requests_per_second", 100_000)
        .set("limits.address_burst", 100_000);
    let chat = plan.start().await;
    // `admin` alone is reserved.
    let names = [
        "owner", "admin1", "member", "muted", "removed", "banned", "stranger", "target", "newcomer",
    ];
    let users = join_all(names.map(|name| chat.register(name))).await;
    let mut users = users.into_iter();
    let mut next = || users.next().expect("as many as names");
    let cast = Cast {
        owner: next(),
        admin: next(),
        member: next(),
        muted: next(),
        removed: next(),
        banned: next(),
        stranger: next(),
        target: next(),
        newcomer: next(),
    };
    (chat, cast)
}

impl Cast {
    /// In the order of the table's columns, which is the order of the calls: operations that end a room run last.
    fn callers(&self) -> [&User; CALLERS.len()] {
        [
            &self.stranger,
            &self.banned,
            &self.removed,
            &self.member,
            &self.muted,
            &self.admin,
            &self.owner,
        ]
    }
}

/// The room of one row, with every user in their role and the messages that the row needs.
struct RoomFixture {
    room: Uuid,
    /// Written by the target.
    message: Option<Uuid>,
    /// Each caller's own message.
    own: HashMap<Uuid, Uuid>,
}

impl RoomFixture {
    async fn new(chat: &Chat, cast: &Cast, kind: &str, messages: bool) -> RoomFixture {
        let Cast {
            owner,
            admin,
            member,
            muted,
            removed,
            banned,
            target,
            ..
        } = cast;
        let first = [admin, member, muted, removed, banned, target];
        let room = chat.room(owner, kind, &first).await;
        let (mut message, mut own) = (None, HashMap::new());
        if messages {
            let say = |user: &User| {
                let rest = chat.rest_as(1 % chat.edges.len(), user);
                let path = format!("/v1/rooms/{room}/messages?wait=stored");
                async move { uuid(&rest.post(&path, json!({"body": "x"})).await.ok(201)["id"]) }
            };
            message = Some(say(target).await);
            for user in [owner, admin, member, muted] {
                own.insert(user.id, say(user).await);
            }
        }
        let rest = chat.rest_as(0, owner);
        let path = |what: &str, user: &User| format!("/v1/rooms/{room}/{what}/{}", user.id);
        let role = json!({"role": "admin"});
        rest.put(&path("members", admin), role).await.ok(200);
        rest.put(&path("mutes", muted), json!({})).await.ok(200);
        rest.put(&path("bans", banned), json!({})).await.ok(204);
        rest.delete(&path("members", removed)).await.ok(204);
        RoomFixture { room, message, own }
    }

    /// Replaces the placeholders that [`RoomRow`] describes.
    fn fill(&self, text: &str, cast: &Cast, caller: &User) -> String {
        let message = self.message.unwrap_or_default();
        let own = self.own.get(&caller.id).copied().unwrap_or(message);
        [
            ("{room}", self.room),
            ("{message}", message),
            ("{own}", own),
            ("{target}", cast.target.id),
            ("{newcomer}", cast.newcomer.id),
            ("{self}", caller.id),
        ]
        .iter()
        .fold(text.to_owned(), |text, (name, id)| {
            text.replace(name, &id.to_string())
        })
    }
}

async fn call(rest: &Rest, method: &str, path: &str, body: &str) -> (u16, String) {
    let method: Method = method.parse().expect("a method");
    let body = (!body.is_empty()).then(|| ("application/json", body.as_bytes().to_vec()));
    let answer = rest.send(method, path, body).await;
    let code = match answer.status {
        400.. => {
            let problem: Value = serde_json::from_str(&answer.text).unwrap_or_default();
            problem["code"].as_str().unwrap_or_default().to_owned()
        }
        _ => String::new(),
    };
    (answer.status, code)
}

/// Invalid tokens: a forged one, an expired one, one of an ended login and one of a deleted account.
fn bad_tokens(user: &User, ended: &Ended) -> [(&'static str, String, &'static str); 4] {
    let now = jwt::now();
    let token = |secret: &str, exp: u64| {
        let claims = json!({"sub": user.id, "sid": Uuid::new_v4(), "iat": now - 600, "exp": exp});
        jwt::sign(&claims, secret, Algorithm::HS256)
    };
    let forged = token("some secret that is not the server's own", now + 600);
    [
        ("forged", forged, "unauthorized"),
        ("expired", token(SECRET, now - 1), "token_expired"),
        ("ended login", ended.login.clone(), "unauthorized"),
        ("deleted account", ended.account.clone(), "unauthorized"),
    ]
}

/// Unexpired access tokens of an ended login and a deleted account.
struct Ended {
    login: String,
    account: String,
}

impl Ended {
    async fn new(chat: &Chat) -> Ended {
        let (login, account) = tokio::join!(chat.register("ended"), chat.register("deleted"));
        // Every edge caches both logins as open.
        for edge in 0..chat.edges.len() {
            for user in [&login, &account] {
                chat.rest_as(edge, user).get("/v1/me").await.ok(200);
            }
        }
        let logout = json!({"refreshToken": login.refresh});
        chat.rest(0).post("/v1/auth/logout", logout).await.ok(204);
        let password = json!({"password": account.password});
        let rest = chat.rest_as(0, &account);
        let body = ("application/json", password.to_string().into_bytes());
        rest.send(Method::DELETE, "/v1/me", Some(body))
            .await
            .ok(204);
        let (login, account) = (login.access, account.access);
        for edge in 0..chat.edges.len() {
            for token in [&login, &account] {
                let rest = chat.rest(edge).with_token(token);
                eventually("the token to be refused", || async {
                    (rest.get("/v1/rooms?public=true").await.status == 401).then_some(())
                })
                .await;
            }
        }
        Ended { login, account }
    }
}

/// Without valid credentials, every operation answers 401 with the code of the token's defect.
async fn without_credentials(
    chat: &Chat,
    owner: &User,
    ended: &Ended,
    row: (&str, &str, &str),
    faults: &mut Vec<String>,
) {
    let (method, path, body) = row;
    let none = ("no token", String::new(), "unauthorized");
    for (who, token, code) in [none].into_iter().chain(bad_tokens(owner, ended)) {
        let rest = match token.as_str() {
            "" => chat.rest(0),
            token => chat.rest(0).with_token(token),
        };
        let got = call(&rest, method, path, body).await;
        if got != (401, code.to_owned()) {
            faults.push(format!("{method} {path} by {who}: {got:?}, not 401 {code}"));
        }
    }
}

async fn room_row(
    chat: &Chat,
    cast: &Cast,
    ended: &Ended,
    row: &RoomRow,
    kind: &'static str,
) -> Vec<String> {
    let mut faults = Vec::new();
    let about = |text: &str| text.contains("{message}") || text.contains("{own}");
    let fixture = RoomFixture::new(chat, cast, kind, about(row.path)).await;
    if kind == "private" {
        let path = fixture.fill(row.path, cast, &cast.owner);
        let asked = (row.method, path.as_str(), row.body);
        without_credentials(chat, &cast.owner, ended, asked, &mut faults).await;
    }
    let wanted = match kind {
        "private" => row.private,
        _ => row.public,
    };
    for (i, (caller, want)) in cast.callers().into_iter().zip(wanted).enumerate() {
        let path = fixture.fill(row.path, cast, caller);
        let body = fixture.fill(row.body, cast, caller);
        let rest = chat.rest_as(i % chat.edges.len(), caller);
        let got = call(&rest, row.method, &path, &body).await;
        if got.0 != want || table::code(want) != got.1 {
            let (who, what) = (CALLERS[i], row.name());
            faults.push(format!(
                "{what} in a {kind} room by {who}: {got:?}, not {want}"
            ));
        }
    }
    faults
}

async fn account_row(chat: &Chat, cast: &Cast, ended: &Ended, row: &AccountRow) -> Vec<String> {
    let mut faults = Vec::new();
    let login = chat.register(&format!("by-{}", row.operation)).await;
    let fill = |text: &str| {
        text.replace("{refresh}", &login.refresh)
            .replace("{password}", &login.password)
            .replace("{username}", &login.username)
            .replace("{newcomer}", &cast.newcomer.id.to_string())
            .replace("{short}", &Uuid::new_v4().simple().to_string()[..12])
            .replace("{random}", &Uuid::new_v4().to_string())
    };
    let (path, body) = (fill(row.path), fill(row.body));
    if row.anonymous == 401 {
        let asked = (row.method, path.as_str(), body.as_str());
        without_credentials(chat, &login, ended, asked, &mut faults).await;
    } else {
        let got = call(&chat.rest(0), row.method, &path, &body).await;
        if got.0 != row.anonymous {
            let (want, what) = (row.anonymous, row.operation);
            faults.push(format!("{what} without a token: {got:?}, not {want}"));
        }
    }
    if let Some(want) = row.account {
        let got = call(&chat.rest_as(0, &login), row.method, &path, &body).await;
        if got.0 != want {
            let what = row.operation;
            faults.push(format!("{what} with an account: {got:?}, not {want}"));
        }
    }
    faults
}

async fn operations_answer_every_caller_as_in_the_table(kind: Kind) {
    let (chat, cast) = start(kind).await;
    let served = chat.rest(0).get("/api/openapi.json").await.ok(200);
    let paths = served["paths"].as_object().expect("paths").values();
    let served: BTreeSet<&str> = paths
        .flat_map(|item| item.as_object().expect("methods").values())
        .filter_map(|operation| operation["operationId"].as_str())
        .collect();
    let known = ROOM_ROWS.iter().map(|row| row.operation);
    let known: BTreeSet<&str> = known
        .chain(ACCOUNT_ROWS.iter().map(|r| r.operation))
        .collect();
    let missing: Vec<_> = served.difference(&known).collect();
    assert!(
        missing.is_empty(),
        "tests/it/e2e/rights/table.rs does not list {missing:?}"
    );
    let gone: Vec<_> = known.difference(&served).collect();
    assert!(
        gone.is_empty(),
        "the table lists unknown operations: {gone:?}"
    );

    let ended = &Ended::new(&chat).await;
    let (chat, cast) = (&chat, &cast);
    let rooms = ROOM_ROWS
        .iter()
        .flat_map(|row| ["private", "public"].map(|kind| room_row(chat, cast, ended, row, kind)));
    let mut faults: Vec<String> = stream::iter(rooms).buffer_unordered(AT_ONCE).concat().await;
    let others = ACCOUNT_ROWS
        .iter()
        .map(|row| account_row(chat, cast, ended, row));
    faults.extend(
        stream::iter(others)
            .buffer_unordered(AT_ONCE)
            .concat()
            .await,
    );
    assert!(
        faults.is_empty(),
        "{} answers are not those of the table:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

async fn event_row(
    chat: &Chat,
    cast: &Cast,
    sockets: &BTreeMap<usize, Socket>,
    row: &Event,
    kind: &'static str,
) -> Vec<String> {
    let mut faults = Vec::new();
    let about = row.data.contains("{message}") || row.data.contains("{own}");
    let fixture = RoomFixture::new(chat, cast, kind, about).await;
    let wanted = match kind {
        "private" => row.private,
        _ => row.public,
    };
    for (i, (caller, want)) in cast.callers().into_iter().zip(wanted).enumerate() {
        let socket = &sockets[&i];
        let data = fixture.fill(row.data, cast, caller);
        let data: Value = serde_json::from_str(&data).expect("JSON");
        let got = socket.call(row.event, data).await;
        let right = match (want, &got) {
            (Want::Ok, Ok(_)) => true,
            (Want::Later(code), Ok(_)) => {
                let failed = |event: &crate::harness::socket::Event| {
                    let data = event.data();
                    event.name == "sendFailed"
                        && data["room"] == json!(fixture.room)
                        && data["code"] == code
                };
                socket
                    .until("sendFailed", |received| {
                        received.events.iter().any(failed).then_some(())
                    })
                    .await;
                true
            }
            (Want::No(code), Err(error)) => error.code == code,
            _ => false,
        };
        if !right {
            let (who, what) = (CALLERS[i], row.event);
            faults.push(format!(
                "{what} in a {kind} room by {who}: {got:?}, not {want:?}"
            ));
        }
    }
    faults
}

async fn events_answer_every_caller_as_in_the_table(kind: Kind) {
    let (chat, cast) = start(kind).await;
    let printed = chat.program("asyncapi", &["asyncapi"]).run().await;
    let printed: Value = serde_json::from_str(&printed.stdout).expect("JSON");
    let operations = printed["operations"].as_object().expect("operations");
    let served: BTreeSet<&str> = operations
        .iter()
        .filter(|(_, operation)| operation["action"] == "receive")
        .map(|(name, _)| name.as_str())
        .collect();
    let known: BTreeSet<&str> = EVENTS.iter().map(|row| row.event).collect();
    assert_eq!(
        served, known,
        "tests/it/e2e/rights/table.rs and the events are not the same"
    );

    // Before authentication every event is refused.
    for row in EVENTS.iter().filter(|row| row.event != "auth") {
        let socket = chat
            .dial(0)
            .connect()
            .await
            .expect("a socket may authenticate later");
        let data = json!({"room": Uuid::new_v4(), "id": Uuid::new_v4(), "body": "x", "clientMsgId": "1",
            "emoji": "a", "on": true, "seq": 1});
        let error = socket.call(row.event, data).await.expect_err(row.event);
        assert_eq!(error.code, "unauthorized", "{}", row.event);
        assert_eq!(socket.closed().await.code, 4001, "{}", row.event);
    }
    let ended = Ended::new(&chat).await;
    for (who, token, code) in bad_tokens(&cast.owner, &ended) {
        let socket = chat
            .dial(0)
            .connect()
            .await
            .expect("a socket may authenticate later");
        let error = socket.call("auth", json!({"token": token})).await;
        assert_eq!(error.expect_err(who).code, code, "{who}");
        assert_eq!(socket.closed().await.code, 4001, "{who}");
    }

    let (chat, cast) = (&chat, &cast);
    let rows = EVENTS.iter().filter(|row| row.data.contains("{room}"));
    let rows = rows.flat_map(|row| ["private", "public"].map(|kind| (row, kind)));
    let rows = rows.map(|(row, kind)| async move {
        // New sockets for each row, so that rows do not affect each other.
        let callers = cast.callers().into_iter().enumerate();
        let sockets = callers
            .map(|(i, user)| async move { (i, chat.connect(i % chat.edges.len(), user).await) });
        let sockets: BTreeMap<usize, Socket> = join_all(sockets).await.into_iter().collect();
        event_row(chat, cast, &sockets, row, kind).await
    });
    let faults: Vec<String> = stream::iter(rows).buffer_unordered(4).concat().await;
    assert!(
        faults.is_empty(),
        "{} answers are not those of the table:\n{}",
        faults.len(),
        faults.join("\n")
    );
    // Events without a room are allowed on every socket.
    let socket = chat.connect(0, &cast.stranger).await;
    let auth = json!({"token": cast.stranger.access});
    socket.call("auth", auth).await.expect("the same user");
    let auth = json!({"token": cast.member.access});
    let error = socket.call("auth", auth).await.expect_err("another user");
    assert_eq!(error.code, "forbidden");
    socket.call("disconnect", json!({})).await.expect("goodbye");
}

/// `docs/rights.md` is generated from the table.
#[test]
fn the_page_is_up_to_date() {
    let path = std::path::Path::new(crate::support::ROOT).join("docs/rights.md");
    let page = page::write();
    if std::env::var_os("CHAT_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/ can be written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == page,
        "docs/rights.md is not what tests/it/e2e/rights/table.rs says; rewrite it with: \
         CHAT_WRITE_DOCS=1 cargo test --test it e2e::rights::the_page"
    );
}
