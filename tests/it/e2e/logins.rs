//! Authentication: methods, token refresh and logout.

use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use crate::harness::{Chat, Kind, both_ways, eventually};

both_ways!(
    sockets_authenticate_by_header_ticket_and_first_frame,
    logins_are_refreshed_and_closed,
    a_lost_refresh_can_be_repeated_and_an_old_token_ends_the_login,
);

async fn sockets_authenticate_by_header_ticket_and_first_frame(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;

    let mut bearer = chat
        .dial(0)
        .bearer(&ada.access)
        .connect()
        .await
        .expect("accepted");
    let connected = bearer.event("connected").await;
    assert_eq!(connected["user"]["id"], json!(ada.id));
    assert_eq!(connected["user"]["displayName"], "Ada");
    assert_eq!(connected["limits"]["maxBodyBytes"], 16000);
    assert!(!connected["session"].as_str().unwrap_or_default().is_empty());

    let mut first_frame = chat
        .dial(1)
        .first_frame(&ada.access)
        .connect()
        .await
        .expect("accepted");
    assert_eq!(
        first_frame.event("connected").await["user"]["id"],
        json!(ada.id)
    );

    // A ticket is valid on any edge, once.
    let ticket = chat
        .rest_as(0, &ada)
        .post("/v1/auth/ticket", json!({}))
        .await
        .ok(201);
    let ticket = ticket["ticket"].as_str().expect("a ticket");
    let mut ticketed = chat
        .dial(1)
        .ticket(ticket)
        .connect()
        .await
        .expect("accepted");
    assert_eq!(
        ticketed.event("connected").await["user"]["id"],
        json!(ada.id)
    );
    let again = chat
        .dial(0)
        .ticket(ticket)
        .connect()
        .await
        .expect("the refusal is in the close code");
    assert_eq!(again.closed().await.code, 4001);

    // `disconnect` is acknowledged before the close.
    bearer
        .call("disconnect", json!({}))
        .await
        .expect("an answer");
    assert_eq!(bearer.closed().await.code, 1001);
}

async fn logins_are_refreshed_and_closed(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;

    let login = json!({"username": "ada", "password": ada.password});
    let session = eventually("the login", || async {
        let answer = chat.rest(1).post("/v1/auth/login", login.clone()).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    let refresh = json!({"refreshToken": session["refreshToken"]});
    let tokens = eventually("the refresh", || async {
        let answer = chat.rest(0).post("/v1/auth/refresh", refresh.clone()).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_ne!(
        tokens["refreshToken"], session["refreshToken"],
        "it rotates"
    );
    let access = tokens["accessToken"].as_str().expect("a token");
    let me = chat.rest(1).with_token(access).get("/v1/me").await.ok(200);
    assert_eq!(me["username"], "ada");

    // Logging out closes the sockets of this login only.
    let mut ended = chat
        .dial(1)
        .bearer(access)
        .connect()
        .await
        .expect("accepted");
    // Wait until the edge has authenticated the socket.
    ended.event("connected").await;
    let other = chat.connect(1, &ada).await;
    chat.rest(0)
        .post(
            "/v1/auth/logout",
            json!({"refreshToken": tokens["refreshToken"]}),
        )
        .await
        .ok(204);
    assert_eq!(ended.closed().await.code, 4001);
    other.settle().await;
    chat.rest(0)
        .post(
            "/v1/auth/refresh",
            json!({"refreshToken": tokens["refreshToken"]}),
        )
        .await
        .problem(401, "unauthorized");
}

/// Makes the last refresh of every login look an hour old.
async fn an_hour_later(chat: &Chat) {
    match chat.kind {
        Kind::Standalone => {
            let url = format!("sqlite://{}", chat.dir().join("data/chat.db").display());
            let mut database = SqliteConnection::connect(&url).await.expect("the file");
            let earlier = "UPDATE logins SET rotated_at = rotated_at - 3600000";
            database.execute(earlier).await.expect("updated");
        }
        Kind::Cluster => {
            let database = PgConnection::connect(chat.database_url()).await;
            let earlier = "UPDATE logins SET rotated_at = rotated_at - interval '1 hour'";
            let mut database = database.expect("the database");
            database.execute(earlier).await.expect("updated");
        }
    }
}

async fn a_lost_refresh_can_be_repeated_and_an_old_token_ends_the_login(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let socket = chat.connect(1, &ada).await;
    let refresh = |edge: usize, token: &str| {
        let rest = chat.rest(edge);
        let body = json!({"refreshToken": token});
        async move { rest.post("/v1/auth/refresh", body).await }
    };
    let token = |answer: &Value| {
        let token = answer["refreshToken"].as_str();
        token.expect("a token").to_owned()
    };
    let t0 = ada.refresh.as_str();

    // A phone that got no answer repeats after an hour, and so does a second tab, on another edge.
    let t1 = token(&refresh(0, t0).await.ok(200));
    an_hour_later(&chat).await;
    for edge in [0, 1, 0] {
        let again = refresh(edge, t0).await.ok(200);
        assert_eq!(token(&again), t1);
        let access = again["accessToken"].as_str().expect("a token");
        chat.rest(1).with_token(access).get("/v1/me").await.ok(200);
    }
    // Access tokens were used. A token one step behind is not a replay.
    let t2 = token(&refresh(1, &t1).await.ok(200));
    an_hour_later(&chat).await;
    assert_eq!(token(&refresh(0, &t1).await.ok(200)), t2);
    socket.settle().await;

    // Two steps behind is a replay: the login ends, for the current token as well.
    refresh(0, t0).await.problem(401, "unauthorized");
    assert_eq!(socket.closed().await.code, 4001);
    for (edge, old) in [(1, t0), (0, t1.as_str()), (1, t2.as_str())] {
        refresh(edge, old).await.problem(401, "unauthorized");
    }
}
