//! Forgotten passwords: a token by mail, valid once, and nothing that shows which accounts exist.

use serde_json::json;

use super::{start, verify};
use crate::harness::{Chat, Kind, User, both_ways, eventually, provider::Provider};

both_ways!(a_forgotten_password_is_reset_once_by_mail);

const LINK: &str = "https://app.example.com/reset#token=";
const ADDRESS: &str = "ada@example.com";

async fn forgot(chat: &Chat, username: &str) {
    let body = json!({"username": username});
    let answer = chat.rest(0).post("/v1/auth/password/forgot", body).await;
    assert_eq!(answer.ok(202), json!({"status": "accepted"}), "{username}");
}

/// The token of the newest mail that is not one of `known`.
async fn token(mail: &Provider, known: &[&str]) -> String {
    eventually("a mail with another token", async || {
        mail.find(ADDRESS, |asked| {
            let text = asked.text();
            let (_, rest) = text.split_once(LINK)?;
            let token = rest.split_whitespace().next()?;
            (!known.contains(&token)).then(|| token.to_owned())
        })
    })
    .await
}

async fn a_forgotten_password_is_reset_once_by_mail(kind: Kind) {
    let mail = Provider::start().await;
    let chat = start(kind, &mail, &[("auth.reset_url", LINK)]).await;
    let ada = chat.register("ada").await;
    // Nothing is sent to an address that is not verified, nor to unknown accounts.
    let patch = json!({"email": ADDRESS});
    chat.rest_as(0, &ada).patch("/v1/me", patch).await.ok(200);
    for name in ["ada", "nobody", "not a name", ""] {
        forgot(&chat, name).await;
    }
    verify(&chat, &ada, &mail, "email", ADDRESS).await;
    let socket = chat.connect(1, &ada).await;

    forgot(&chat, "ADA").await;
    let first = token(&mail, &[]).await;
    let reset = |token: &str, password: &str| {
        let body = json!({"token": token, "newPassword": password});
        let rest = chat.rest(1);
        async move { rest.post("/v1/auth/password/reset", body).await }
    };
    for bad in ["", "x", &first[1..], &first.to_uppercase()] {
        let problem = reset(bad, "correct horse battery").await;
        let problem = problem.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["field"], "token", "{bad}");
    }
    // A password that is refused does not use up the token.
    let weak = reset(&first, "password1").await.problem(422, "invalid");
    assert_eq!(weak["errors"][0]["field"], "newPassword");
    socket.settle().await;

    forgot(&chat, "ada").await;
    let second = token(&mail, &[&first]).await;
    reset(&first, "correct horse battery").await.ok(204);
    assert_eq!(socket.closed().await.code, 4001);
    // Both were issued for the old password.
    for used in [&first, &second] {
        reset(used, "another good password")
            .await
            .problem(422, "invalid");
    }
    let log_in = |password: &str| {
        let body = json!({"username": "ada", "password": password});
        let rest = chat.rest(0);
        async move { rest.post("/v1/auth/login", body).await }
    };
    log_in(&ada.password).await.problem(401, "unauthorized");
    log_in("correct horse battery").await.ok(200);
    let refresh = json!({"refreshToken": ada.refresh});
    let ended = chat.rest(0).post("/v1/auth/refresh", refresh).await;
    ended.problem(401, "unauthorized");
    not_logged(&chat, &[&first, &second], &ada);

    // A stranger's requests do not use up the codes of the user, and an address that replaces another one gets no token.
    let session = log_in("correct horse battery").await.ok(200);
    let access = session["accessToken"].as_str().expect("a token").to_owned();
    let thief = User { access, ..ada };
    verify(&chat, &thief, &mail, "email", "thief@example.com").await;
    forgot(&chat, "ada").await;
    let bob = chat.register("bob").await;
    verify(&chat, &bob, &mail, "email", "bob@example.com").await;
    forgot(&chat, "bob").await;
    eventually("the mail to bob", async || {
        mail.find("bob@example.com", |asked| {
            asked.text().contains(LINK).then_some(())
        })
    })
    .await;
    let sent = mail.find("thief@example.com", |asked| Some(asked.text()));
    assert_eq!(sent, None);
}

/// Tokens and passwords are in no log.
fn not_logged(chat: &Chat, tokens: &[&str], ada: &User) {
    for process in chat.edges.iter().chain(&chat.workers) {
        let log = process.log();
        for secret in tokens.iter().copied().chain([ada.password.as_str()]) {
            assert!(!log.contains(secret), "{}", process.name());
        }
    }
}
