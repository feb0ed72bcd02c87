//! Query parameters: every list pages with `cursor`, and what an operation does not have is refused.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Chat, Kind, both_ways, rest::Rest};

both_ways!(
    every_list_pages_with_cursor,
    query_parameters_that_an_operation_does_not_have_are_refused,
);

/// All items of a list, read in pages of two as docs/clients.md describes.
async fn all(rest: &Rest, path: &str, parameters: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    for _ in 0..100 {
        let asked = format!("{path}?limit=2{parameters}{cursor}");
        let page = rest.get(&asked).await.ok(200);
        let some = page["items"].as_array().expect("items");
        assert!(some.len() <= 2, "{asked}: {page}");
        items.extend(some.iter().cloned());
        if page["hasMore"] == false {
            return items;
        }
        let next = match &page["nextCursor"] {
            Value::String(next) => next.clone(),
            next => next.to_string(),
        };
        cursor = format!("&cursor={next}");
    }
    panic!("{path} has no end");
}

fn ids(items: &[Value]) -> Vec<&str> {
    let ids = items.iter().map(|item| match &item["user"]["id"] {
        Value::String(id) => id.as_str(),
        _ => item["id"].as_str().expect("an id"),
    });
    ids.collect()
}

fn seqs(items: &[Value]) -> Vec<i64> {
    let seqs = items.iter().map(|item| item["seq"].as_i64());
    seqs.map(|seq| seq.expect("a number")).collect()
}

async fn every_list_pages_with_cursor(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let others = [chat.register("bob").await, chat.register("eve").await];
    let rest = chat.rest_as(0, &ada);
    let room = chat.room(&ada, "public", &[&others[0], &others[1]]).await;
    for _ in 0..4 {
        chat.room(&ada, "public", &[]).await;
    }
    let messages = format!("/v1/rooms/{room}/messages");
    for number in 0..7 {
        let body = json!({"body": number.to_string()});
        let path = format!("{messages}?wait=stored");
        rest.post(&path, body).await.ok(201);
    }

    for (path, parameters, count) in [
        ("/v1/rooms".to_owned(), "", 5),
        ("/v1/rooms".to_owned(), "&public=true", 5),
        (format!("/v1/rooms/{room}/members"), "", 3),
    ] {
        let items = all(&rest, &path, parameters).await;
        let distinct: BTreeSet<_> = ids(&items).into_iter().collect();
        assert!(
            distinct.len() >= count && distinct.len() == items.len(),
            "{path}"
        );
        // The earlier name.
        let first = rest.get(&format!("{path}?limit=2")).await.ok(200);
        let next = first["nextCursor"].as_str().expect("a cursor");
        let [after, cursor] = ["after", "cursor"].map(|name| format!("{path}?{name}={next}"));
        let second = rest.get(&cursor).await.ok(200);
        assert_eq!(rest.get(&after).await.ok(200), second);
        // A client that leaves the parameter of its first page unchanged.
        let first = Uuid::nil();
        let both = rest.get(&format!("{cursor}&after={first}")).await;
        assert_eq!(both.ok(200), second);
    }

    let newest = all(&rest, &messages, "").await;
    let page = rest.get(&format!("{messages}?limit=7")).await.ok(200);
    let mut stored = seqs(page["items"].as_array().expect("items"));
    let mut found = seqs(&newest);
    found.sort_unstable();
    assert_eq!(found, stored);
    let (first, middle) = (stored[0], stored[3]);
    // Upwards the order of the pages is that of the messages.
    assert_eq!(seqs(&all(&rest, &messages, "&after=0").await), stored);
    let mut before = seqs(&all(&rest, &messages, &format!("&before={middle}")).await);
    before.sort_unstable();
    assert_eq!(before, &stored[..3]);
    let around = seqs(&all(&rest, &messages, &format!("&around={middle}")).await);
    assert_eq!(around, stored.split_off(2));
    let changes = all(&rest, &format!("/v1/rooms/{room}/changes"), "&after=0").await;
    let numbers = changes
        .iter()
        .map(|change| change["data"]["changeSeq"].as_i64());
    let numbers: Vec<i64> = numbers.map(|number| number.expect("a number")).collect();
    let expected: Vec<i64> = (1..=first + 6).collect();
    assert_eq!(numbers, expected);

    // Cursors that no page returned, and parameters that exclude each other.
    for (query, code) in [
        ("/v1/rooms?cursor=x".to_owned(), "malformed"),
        ("/v1/rooms?cursor=".to_owned(), "malformed"),
        (format!("/v1/rooms/{room}/members?cursor=41"), "malformed"),
        (format!("{messages}?cursor=newest"), "malformed"),
        (format!("{messages}?cursor=1000000"), "malformed"),
        (format!("{messages}?cursor=0"), "malformed"),
        (
            format!("{messages}?after={middle}&cursor={first}"),
            "malformed",
        ),
        (
            format!("{messages}?before={first}&cursor={middle}"),
            "malformed",
        ),
        (format!("/v1/rooms/{room}/changes?cursor=-1"), "malformed"),
        (
            "/v1/me/notifications/history?cursor=1_2".to_owned(),
            "malformed",
        ),
        (format!("{messages}?around=1&before=1&cursor=1"), "invalid"),
    ] {
        let problem = rest.get(&query).await.problem(400, code);
        assert!(
            problem["errors"][0]["field"].is_string(),
            "{query}: {problem}"
        );
    }
    // As after a loss of history.
    rest.get(&format!("/v1/rooms/{room}/changes?cursor=1000000"))
        .await
        .problem(409, "conflict");
}

async fn query_parameters_that_an_operation_does_not_have_are_refused(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let rest = chat.rest_as(0, &ada);
    let specification = chat.rest(0).get("/api/openapi.json").await.ok(200);
    let mut walked = 0;
    for (path, operations) in specification["paths"].as_object().expect("paths") {
        let mut asked = path.clone();
        while let (Some(begin), Some(end)) = (asked.find('{'), asked.find('}')) {
            asked.replace_range(begin..=end, &Uuid::nil().to_string());
        }
        for (method, operation) in operations.as_object().expect("operations") {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            let query = format!("{asked}?utm_source=mail&surprise=1");
            let answer = rest.send(method, &query, None).await;
            if operation["tags"] == json!(["Callbacks"]) {
                assert!([403, 404].contains(&answer.status), "{answer:?}");
                continue;
            }
            let problem = answer.problem(400, "invalid");
            assert_eq!(problem["errors"][0]["field"], "utm_source", "{path}");
            walked += 1;
        }
    }
    assert!(walked > 35, "{walked}");

    // Names are case-sensitive, and none is given twice. The error names those that are allowed.
    for (query, field) in [
        ("Limit=1", "Limit"),
        ("page=2", "page"),
        ("limit=1&limit=1", "limit"),
    ] {
        let problem = rest.get(&format!("/v1/rooms?{query}")).await;
        let problem = problem.problem(400, "invalid");
        assert_eq!(problem["errors"][0]["field"], field, "{query}");
    }
    let problem = rest.get("/v1/rooms?page=2").await.problem(400, "invalid");
    let detail = problem["detail"].as_str().expect("a detail");
    assert!(
        detail.ends_with("allowed: public, cursor, after, limit"),
        "{detail}"
    );
    // Also without a token.
    let problem = chat.rest(0).get("/v1/rooms?page=2").await;
    problem.problem(400, "invalid");
    chat.rest(0)
        .get("/v1/rooms")
        .await
        .problem(401, "unauthorized");
}
