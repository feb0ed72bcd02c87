//! Authentication: methods, token refresh and logout.

use serde_json::json;

use crate::harness::{Chat, Kind, both_ways, eventually};

both_ways!(
    sockets_authenticate_by_header_ticket_and_first_frame,
    logins_are_refreshed_and_closed,
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
    assert_eq!(connected["limits"]["maxBodyBytes"], 8000);
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
