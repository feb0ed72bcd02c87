//! Attacks on logins, registrations and verification: password guessing, account lockout, mail and text-message floods.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all, stream};
use serde_json::{Value, json};

use crate::harness::{
    Chat, Kind, Rest, both_ways, eventually, provider::Provider, rest::RestResponse,
};

both_ways!(
    a_login_flood_does_not_block_other_logins,
    password_spraying_is_limited_per_address,
    wrong_passwords_do_not_lock_an_account,
    requests_with_invalid_tokens_are_limited,
    verification_codes_per_address_are_limited,
    common_passwords_are_refused,
);

/// Bound of an honest client's request during an attack, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// REST on edge `i` from the source address 127.0.0.`last`.
fn rest_from(chat: &Chat, i: usize, last: u8) -> Rest {
    let http = reqwest::Client::builder()
        .local_address(Some(Ipv4Addr::new(127, 0, 0, last).into()))
        .timeout(Duration::from_secs(30))
        .no_proxy()
        .build()
        .expect("a client");
    Rest::new(http, chat.edge(i).url())
}

async fn log_in(rest: &Rest, username: &str, password: &str) -> RestResponse {
    let body = json!({"username": username, "password": password});
    rest.post("/v1/auth/login", body).await
}

async fn a_login_flood_does_not_block_other_logins(kind: Kind) {
    // Counting limits are out of reach: only fair scheduling of password hashing protects honest clients.
    let chat = Chat::plan(kind)
        .set("limits.logins_per_minute", 1_000_000)
        .start()
        .await;
    let ada = chat.register("ada").await;
    let beside = rest_from(&chat, 0, 2);
    log_in(&beside, "ada", &ada.password).await.ok(200);
    let over = Arc::new(AtomicBool::new(false));
    let (busy, wrong) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let flood: Vec<_> = (0..150)
        .map(|attacker| {
            let rest = rest_from(&chat, 0, 2);
            let (over, busy, wrong) = (over.clone(), busy.clone(), wrong.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    let name = format!("nobody{attacker}x{n}");
                    match log_in(&rest, &name, "a wrong password").await.status {
                        503 => busy.fetch_add(1, Ordering::Relaxed),
                        401 => wrong.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    };
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        })
        .collect();
    eventually("the flood", async || {
        (busy.load(Ordering::Relaxed) > 0).then_some(())
    })
    .await;

    let mut slowest = Duration::ZERO;
    let honest = rest_from(&chat, 0, 3);
    for _ in 0..9 {
        let asked = Instant::now();
        log_in(&honest, "ada", &ada.password).await.ok(200);
        slowest = slowest.max(asked.elapsed());
    }
    for name in ["bob", "eve"] {
        let asked = Instant::now();
        let body = json!({"username": name, "password": "correct horse"});
        honest.post("/v1/auth/register", body).await.ok(201);
        slowest = slowest.max(asked.elapsed());
    }
    // A user who logged in from the flooding address before has a separate share of the hashing there.
    let asked = Instant::now();
    log_in(&beside, "ada", &ada.password).await.ok(200);
    let known_there = asked.elapsed();
    println!(
        "slowest {slowest:?}, from the flooding address {known_there:?}; {} busy, {} wrong",
        busy.load(Ordering::Relaxed),
        wrong.load(Ordering::Relaxed),
    );
    assert!(slowest < SOON, "{slowest:?}");
    assert!(known_there < SOON, "{known_there:?}");
    over.store(true, Ordering::Relaxed);
    for attacker in flood {
        attacker.await.expect("401 or 503");
    }
}

async fn password_spraying_is_limited_per_address(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("limits.logins_per_minute", 10)
        .start()
        .await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    let sprayer = rest_from(&chat, 0, 2);
    log_in(&sprayer, "ada", &ada.password).await.ok(200);
    // Sixty user names, twenty concurrent requests, over all edges.
    let tried = stream::iter(0..60).map(|name| {
        let rest = rest_from(&chat, name, 2);
        async move { log_in(&rest, &format!("user{name}"), "letmein1").await }
    });
    let answers: Vec<RestResponse> = tried.buffer_unordered(20).collect().await;
    let wrong = answers.iter().filter(|answer| answer.status == 401).count();
    println!("{wrong} of 60 were tried");
    // With two edges, each may have requests in flight that the other has not counted yet.
    assert!((30..=40).contains(&wrong), "{wrong}");
    for answer in answers.into_iter().filter(|answer| answer.status != 401) {
        let problem = answer.problem(429, "rate_limited");
        assert!(problem["retryAfterMs"].as_u64().is_some());
    }
    // The limited address refuses Bob, who never logged in from it, but not Ada, who did. Other addresses are
    // unaffected.
    let bob_there = log_in(&sprayer, "bob", &bob.password).await;
    bob_there.problem(429, "rate_limited");
    log_in(&sprayer, "ada", &ada.password).await.ok(200);
    let asked = Instant::now();
    let elsewhere = rest_from(&chat, 1, 3);
    log_in(&elsewhere, "bob", &bob.password).await.ok(200);
    assert!(asked.elapsed() < SOON);
}

async fn wrong_passwords_do_not_lock_an_account(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("limits.logins_per_minute", 5)
        .start()
        .await;
    let ada = chat.register("ada").await;
    // Attackers on several addresses, over all edges.
    let attack = |last: u8, times: usize| {
        let rest = rest_from(&chat, last.into(), last);
        async move {
            let mut statuses = Vec::new();
            for _ in 0..times {
                statuses.push(log_in(&rest, "ada", "a wrong password").await.status);
            }
            statuses
        }
    };
    let (first, second) = tokio::join!(attack(2, 7), attack(3, 3));
    assert_eq!(first[..5], [401; 5]);
    assert_eq!(first[5..], [429; 2], "one address makes no more guesses");
    assert_eq!(second, [401; 3]);

    // Ada logs in without delay from the address of her registration. From a new address the first login is delayed.
    let (home, away) = (rest_from(&chat, 1, 1), rest_from(&chat, 0, 9));
    let took = async |rest: &Rest| {
        let asked = Instant::now();
        log_in(rest, "ada", &ada.password).await.ok(200);
        asked.elapsed()
    };
    let (at_home, elsewhere, again) = (took(&home).await, took(&away).await, took(&away).await);
    println!("at home {at_home:?}, elsewhere {elsewhere:?}, then {again:?}");
    assert!(at_home < SOON && again < SOON);
    assert!(
        elsewhere > Duration::from_millis(500) && elsewhere < Duration::from_secs(8) + SOON,
        "{elsewhere:?}"
    );

    // An attacker who shares Ada's address can neither block her nor exceed the limit.
    let beside = attack(1, 6).await;
    assert_eq!(beside, [401, 401, 401, 401, 401, 429]);
    let slowed = took(&home).await;
    println!("beside an attacker {slowed:?}");
    assert!(slowed < Duration::from_secs(2) + SOON, "{slowed:?}");
    // Unknown user names get the same responses.
    let unknown = rest_from(&chat, 0, 4);
    for expected in [401, 401, 401, 401, 401, 429] {
        let answer = log_in(&unknown, "nobody", "a wrong password").await;
        assert_eq!(answer.status, expected);
    }
}

async fn requests_with_invalid_tokens_are_limited(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("limits.logins_per_minute", 600)
        .set("limits.registrations_per_minute", 600)
        .set("limits.address_requests_per_second", 10)
        .set("limits.address_burst", 100)
        .start()
        .await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    let revoked = json!({"refreshToken": ada.refresh});
    chat.rest(0)
        .post("/v1/auth/logout", revoked.clone())
        .await
        .ok(204);
    let attacker = rest_from(&chat, 0, 2);
    let flood = async |path: &'static str, body: Value, times: usize| {
        let (mut answered, mut refused) = (0, 0);
        for _ in 0..times {
            let answer = attacker.post(path, body.clone()).await;
            match answer.status {
                429 => {
                    answer.problem(429, "rate_limited");
                    refused += 1;
                }
                401 | 204 => answered += 1,
                other => panic!("{other}"),
            }
        }
        (answered, refused)
    };
    // Requests with a revoked token count against its login's limit, which is little more than its burst.
    let (answered, refused) = flood("/v1/auth/refresh", revoked.clone(), 80).await;
    println!("{answered} refreshes were answered, {refused} were not");
    assert!((25..60).contains(&answered) && refused > 0, "{answered}");
    // Requests with forged tokens count against the address's limit.
    let made_up = json!({"refreshToken": "made up"});
    let (answered, refused) = flood("/v1/auth/refresh", made_up, 400).await;
    println!("{answered} of the made-up ones were answered, {refused} were not");
    assert!(answered < 380 && refused > 0, "{answered}");
    let (answered, refused) = flood("/v1/auth/logout", revoked, 50).await;
    assert!(refused > 0, "{answered}");

    // Other users, and the same user with another login, are not affected.
    let honest = rest_from(&chat, 0, 3);
    let asked = Instant::now();
    honest
        .post("/v1/auth/refresh", json!({"refreshToken": bob.refresh}))
        .await
        .ok(200);
    let session = log_in(&honest, "ada", &ada.password).await.ok(200);
    let refresh = json!({"refreshToken": session["refreshToken"]});
    honest.post("/v1/auth/refresh", refresh).await.ok(200);
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
}

async fn verification_codes_per_address_are_limited(kind: Kind) {
    let mail = Provider::start().await;
    let chat = Chat::plan(kind)
        .set("notify.email.provider", "sendgrid")
        .set("notify.email.from", "Chat <chat@example.com>")
        .set("notify.email.api_key", "SG.test")
        .set("notify.email.base_url", &mail.url)
        .set("notify.sms.provider", "log")
        .set("notify.sms.countries", "+49,+1")
        .start()
        .await;
    // 10 accounts request 3 mails each to one mailbox, in several spellings of its address.
    let attackers = join_all((0..10).map(|n| {
        let chat = &chat;
        async move { chat.register(&format!("attacker{n}")).await }
    }))
    .await;
    let ask = async |i: usize, user: &crate::harness::User, address: &str, which: &str| {
        let rest = chat.rest_as(i, user);
        let field = if which == "email" { "email" } else { "phone" };
        rest.patch("/v1/me", json!({ field: address }))
            .await
            .ok(200);
        rest.post(&format!("/v1/me/verify/{which}"), json!({}))
            .await
    };
    for (n, attacker) in attackers.iter().enumerate() {
        for round in 0..3 {
            let address = format!("Stranger+{n}x{round}@example.com");
            // The response does not reveal that others have used up the mailbox's limit.
            ask(n, attacker, &address, "email").await.ok(204);
        }
        let more = ask(n, attacker, "stranger@example.com", "email").await;
        more.problem(429, "rate_limited");
    }
    // Once an honest user's code has arrived, no earlier mail can still be in flight.
    let ada = chat.register("ada").await;
    let asked = Instant::now();
    ask(0, &ada, "ada@example.org", "email").await.ok(204);
    eventually("the code", async || {
        mail.find("ada@example.org", |_| Some(()))
    })
    .await;
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    let stranger = mail
        .asked()
        .iter()
        .filter(|asked| asked.body.to_lowercase().contains("stranger+"))
        .count();
    println!("the stranger got {stranger} mails");
    assert!((1..=3).contains(&stranger), "{stranger}");

    // Text messages are sent to allowed countries only, and not to premium-rate numbers.
    for (number, status) in [
        ("+4915112345678", 204),
        ("+4990012345678", 422),
        ("+19005551234", 422),
        ("+447911123456", 422),
        ("+881612345678", 422),
    ] {
        let user = chat.register(&format!("sms{}", &number[1..])).await;
        let answer = ask(0, &user, number, "sms").await;
        assert_eq!(answer.status, status, "{number}: {}", answer.text);
    }
}

async fn common_passwords_are_refused(kind: Kind) {
    let chat = Chat::start(kind).await;
    let register = async |password: &str| {
        let body = json!({
            "username": "ada-lovelace",
            "displayName": "Countess of Lovelace",
            "email": "augusta.ada@example.com",
            "password": password,
        });
        chat.rest(0).post("/v1/auth/register", body).await
    };
    for common in [
        "password",
        "12345678",
        "PassWord",
        "Ada-Lovelace",
        "countess of lovelace",
        "augusta.ada",
    ] {
        let problem = register(common).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["field"], "password", "{common}");
        let message = problem["errors"][0]["message"].as_str().unwrap_or_default();
        assert!(message.contains("choose another"), "{message}");
    }
    register("correct horse").await.ok(201);
}
