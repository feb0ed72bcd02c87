//! The user's own logins: listed and ended, ended by a new password, and kept while the server's secret is replaced.

use serde_json::{Value, json};

use crate::harness::{Chat, Kind, User, both_ways, eventually, rest::Rest};

both_ways!(
    sessions_are_listed_and_ended,
    a_new_password_ends_all_other_sessions,
    a_secret_is_replaced_while_nobody_is_logged_out,
    registration_can_be_closed,
);

/// Logs in once more.
async fn log_in(chat: &Chat, edge: usize, user: &User) -> User {
    let credentials = json!({"username": user.username, "password": user.password});
    let answer = eventually("the login", || async {
        let answer = chat
            .rest(edge)
            .post("/v1/auth/login", credentials.clone())
            .await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    let token = |name: &str| answer[name].as_str().expect("a token").to_owned();
    User {
        access: token("accessToken"),
        refresh: token("refreshToken"),
        ..user.clone()
    }
}

async fn sessions(rest: &Rest) -> Vec<Value> {
    let page = rest.get("/v1/me/sessions").await.ok(200);
    assert_eq!(page["hasMore"], false);
    page["items"].as_array().expect("items").clone()
}

fn current(sessions: &[Value]) -> &str {
    let mut current = sessions.iter().filter(|session| session["current"] == true);
    let id = current.next().expect("one is the current one")["id"].as_str();
    assert!(current.next().is_none());
    id.expect("an id")
}

async fn sessions_are_listed_and_ended(kind: Kind) {
    let chat = Chat::start(kind).await;
    let first = chat.register("ada").await;
    let second = log_in(&chat, 1, &first).await;
    let third = log_in(&chat, 0, &first).await;
    let eve = chat.register("eve").await;
    let list = eventually("three sessions", || async {
        let list = sessions(&chat.rest_as(0, &first)).await;
        (list.len() == 3).then_some(list)
    })
    .await;
    let id = current(&list).to_owned();
    assert_eq!(list[0]["id"], id.as_str(), "the oldest one is the first");
    assert_eq!(list[0]["address"], "127.0.0.1");
    assert!(list[0]["createdAt"].as_str() < list[0]["expiresAt"].as_str());
    assert_eq!(list[0].get("refreshedAt"), None);
    let refresh = json!({"refreshToken": first.refresh});
    chat.rest(1).post("/v1/auth/refresh", refresh).await.ok(200);
    let list = sessions(&chat.rest_as(1, &second)).await;
    assert!(list[0]["refreshedAt"].is_string());
    assert_eq!(current(&list), list[1]["id"]);

    // Another user's session looks like none.
    let path = format!("/v1/me/sessions/{id}");
    let refused = chat.rest_as(0, &eve).delete(&path).await;
    refused.problem(404, "not_found");
    let socket = chat.connect(1, &first).await;
    socket.settle().await;
    for _ in 0..2 {
        chat.rest_as(0, &second).delete(&path).await.ok(204);
    }
    assert_eq!(socket.closed().await.code, 4001);
    let ended = chat.rest_as(0, &first).get("/v1/me").await;
    ended.problem(401, "unauthorized");
    assert_eq!(sessions(&chat.rest_as(0, &third)).await.len(), 2);

    let (kept, closed) = (
        chat.connect(0, &third).await,
        chat.connect(1, &second).await,
    );
    chat.rest_as(1, &third)
        .delete("/v1/me/sessions")
        .await
        .ok(204);
    assert_eq!(closed.closed().await.code, 4001);
    kept.settle().await;
    let list = sessions(&chat.rest_as(1, &third)).await;
    assert_eq!(list.len(), 1);
    current(&list);
    assert_eq!(sessions(&chat.rest_as(0, &eve)).await.len(), 1);
}

async fn a_new_password_ends_all_other_sessions(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let other = log_in(&chat, 1, &ada).await;
    let (socket, closed) = (chat.connect(0, &ada).await, chat.connect(1, &other).await);
    let change = |current: &str, new: &str| {
        let rest = chat.rest_as(0, &ada);
        let body = json!({"currentPassword": current, "newPassword": new});
        async move { rest.put("/v1/me/password", body).await }
    };
    let wrong = change("not the password", "correct horse battery").await;
    wrong.problem(403, "forbidden");
    let weak = change(&ada.password, "password1")
        .await
        .problem(422, "invalid");
    assert_eq!(weak["errors"][0]["field"], "newPassword");
    closed.settle().await;

    change(&ada.password, "correct horse battery").await.ok(204);
    assert_eq!(closed.closed().await.code, 4001);
    socket.settle().await;
    let refresh = |user: &User| json!({"refreshToken": user.refresh});
    let ended = chat.rest(0).post("/v1/auth/refresh", refresh(&other)).await;
    ended.problem(401, "unauthorized");
    chat.rest(1)
        .post("/v1/auth/refresh", refresh(&ada))
        .await
        .ok(200);
    let old = json!({"username": ada.username, "password": ada.password});
    let refused = chat.rest(1).post("/v1/auth/login", old).await;
    refused.problem(401, "unauthorized");
    let new = User {
        password: "correct horse battery".to_owned(),
        ..ada.clone()
    };
    log_in(&chat, 0, &new).await;

    // Nor does the repeat of a registration log in with a password that was replaced.
    let register = async |password: &str| {
        let body = json!({"username": "grace", "password": password});
        let url = format!("{}/v1/auth/register", chat.edge(1).url());
        let request = chat.http.post(url).header("Idempotency-Key", "6d0f2e1c");
        let answer = request.json(&body).send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.expect("JSON"))
    };
    let (status, answer) = register("the first good password").await;
    assert_eq!(status, 201, "{answer}");
    let access = answer["accessToken"].as_str().expect("a token");
    eventually("the repeat", || async {
        (register("the first good password").await.0 == 201).then_some(())
    })
    .await;
    let body = json!({
        "currentPassword": "the first good password",
        "newPassword": "correct horse battery",
    });
    let rest = chat.rest(0).with_token(access);
    rest.put("/v1/me/password", body).await.ok(204);
    for password in ["the first good password", "correct horse battery"] {
        assert_eq!(register(password).await.0, 409);
    }
}

async fn a_secret_is_replaced_while_nobody_is_logged_out(kind: Kind) {
    let (old, new) = ("o".repeat(32), "n".repeat(32));
    let mut chat = Chat::plan(kind).set("auth.secret", &old).start().await;
    let mut ada = chat.register("ada").await;
    let steps = [format!("{old},{new}"), format!("{new},{old}"), new.clone()];
    let edges = chat.edges.len();
    for secrets in &steps {
        // The last step comes after `auth.refresh_ttl`, when every login has been refreshed.
        for edge in 0..edges {
            chat.restart_edge_with(edge, &[("auth.secret", secrets)])
                .await;
            // Edges before and after the step answer the same refresh, also if the first answer is lost.
            let refresh = json!({"refreshToken": ada.refresh});
            let (mut lost, mut taken) = (Value::Null, Value::Null);
            for (other, answer) in [(edge, &mut lost), (edge + 1, &mut taken)] {
                *answer = chat
                    .rest(other)
                    .post("/v1/auth/refresh", refresh.clone())
                    .await
                    .ok(200);
                let access = answer["accessToken"].as_str().expect("a token");
                for reader in 0..edges {
                    let rest = chat.rest(reader).with_token(access);
                    rest.get("/v1/me").await.ok(200);
                }
            }
            assert_eq!(lost["refreshToken"], taken["refreshToken"]);
            for (place, name) in [
                (&mut ada.access, "accessToken"),
                (&mut ada.refresh, "refreshToken"),
            ] {
                *place = taken[name].as_str().expect("a token").to_owned();
            }
        }
    }
    let mut program = chat.edge(0).program().clone();
    program
        .env
        .push(("CHAT__AUTH__SECRET".to_owned(), format!("{new},tooshort")));
    let ended = program.run().await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("auth.secret: secret 2 of 2"));
    assert!(!ended.stderr.contains("tooshort"), "{}", ended.stderr);
}

async fn registration_can_be_closed(kind: Kind) {
    let mut chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    chat.restart_edge_with(0, &[("auth.registration", "closed")])
        .await;
    let new = json!({"username": "eve", "password": "correct horse battery"});
    let refused = chat.rest(0).post("/v1/auth/register", new).await;
    refused.problem(403, "forbidden");
    log_in(&chat, 0, &ada).await;
}
