//! The client's address behind proxies, and which addresses share a limit.

use std::net::Ipv4Addr;

use serde_json::json;
use uuid::Uuid;

use crate::harness::{
    Chat, Kind, both_ways,
    raw::{ELSEWHERE, HERE, Raw, RawAnswer},
};

both_ways!(
    clients_behind_a_proxy_are_limited_separately,
    proxy_protocol_headers_set_the_client_address,
);

/// Registrations per minute and address. One minute boundary may fall into the test.
const LIMIT: usize = 3;
const TRIES: usize = 2 * LIMIT + 1;

/// Registers an account over `raw`.
async fn register(mut raw: Raw, headers: &[&str]) -> RawAnswer {
    let name = format!("u{}", &Uuid::new_v4().simple().to_string()[..12]);
    let body = json!({"username": name, "password": "long enough for anyone"}).to_string();
    let answer = raw.ask("POST /v1/auth/register", headers, &body).await;
    answer.expect("an answer")
}

fn is_limited(answer: &RawAnswer) -> bool {
    assert!(
        matches!(answer.status, 201 | 202 | 429),
        "{}",
        answer.text()
    );
    answer.status == 429
}

async fn clients_behind_a_proxy_are_limited_separately(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("limits.registrations_per_minute", LIMIT)
        .set("edge.trusted_proxies", HERE)
        .start()
        .await;
    let url = chat.edge(0).url();
    let of = async |peer: Ipv4Addr, line: String| {
        let answer = register(Raw::connect(url, peer).await, &[&line]).await;
        is_limited(&answer)
    };
    // One client, whatever it writes in front of the address that the proxy appends.
    let mut limited = false;
    for i in 0..TRIES {
        limited |= of(
            HERE,
            format!("x-forwarded-for: 203.0.113.{i}, 198.51.100.1"),
        )
        .await;
    }
    assert!(limited, "the client's own header was trusted");
    // Each address has its own limit; the `Forwarded` header is ignored.
    for i in 0..TRIES {
        let line = format!("forwarded: for=198.51.100.1\r\nx-forwarded-for: 192.0.2.{i}");
        assert!(!of(HERE, line).await, "one client counted for another");
    }
    // IPv6 addresses are limited per /64 network.
    for i in 0..TRIES {
        assert!(!of(HERE, format!("x-forwarded-for: 2001:db8:0:{i}::1")).await);
    }
    let mut limited = false;
    for i in 0..TRIES {
        limited |= of(HERE, format!("x-forwarded-for: 2001:db8:1:1::{i}")).await;
    }
    assert!(limited, "a network of IPv6 counted as many addresses");
    // Headers of an untrusted peer are ignored.
    let mut limited = false;
    for i in 0..TRIES {
        limited |= of(ELSEWHERE, format!("x-forwarded-for: 192.0.2.{}", 100 + i)).await;
    }
    assert!(limited, "a header of an untrusted peer was trusted");
}

/// A header of PROXY protocol version 2 with an IPv4 source address.
fn proxy_header(source: Ipv4Addr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend(source.octets());
    header.extend([127, 0, 0, 1, 0x1f, 0x90, 0, 80]);
    header
}

async fn proxy_protocol_headers_set_the_client_address(kind: Kind) {
    let chat = Chat::plan(kind)
        .set("limits.registrations_per_minute", LIMIT)
        .set("edge.trusted_proxies", ELSEWHERE)
        .set("edge.proxy_protocol", true)
        .set("edge.max_connections_per_address", 20)
        .set("edge.request_timeout", "3s")
        .start()
        .await;
    let url = chat.edge(0).url();
    let through = async |source: Ipv4Addr| {
        let mut raw = Raw::connect(url, ELSEWHERE).await;
        raw.send(&proxy_header(source)).await;
        raw
    };
    let mut limited = false;
    for _ in 0..TRIES {
        let raw = through(Ipv4Addr::new(198, 51, 100, 1)).await;
        limited |= is_limited(&register(raw, &[]).await);
    }
    assert!(limited, "a client had no limit");
    for i in 0..TRIES as u8 {
        // The address comes from the PROXY header, not from `X-Forwarded-For`.
        let raw = through(Ipv4Addr::new(192, 0, 2, i)).await;
        let answer = register(raw, &["x-forwarded-for: 198.51.100.1"]).await;
        assert!(!is_limited(&answer), "one client counted for another");
    }
    // Connections count against the client's address; the proxy as a whole may have more than one client's limit.
    let mut held = Vec::new();
    for i in 0..25 {
        let mut raw = through(Ipv4Addr::new(198, 51, 100, 9)).await;
        let answer = raw.ask("GET /v1/me", &[], "").await.expect("an answer");
        assert_eq!(answer.status, if i < 20 { 401 } else { 503 });
        held.push(raw);
    }
    let mut other = through(Ipv4Addr::new(198, 51, 100, 10)).await;
    assert_eq!(
        other
            .ask("GET /v1/me", &[], "")
            .await
            .expect("an answer")
            .status,
        401
    );
    // LOCAL: connections of the proxy itself, such as health checks.
    let mut own = Raw::connect(url, ELSEWHERE).await;
    own.send(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00").await;
    assert_eq!(
        own.ask("GET /healthz", &[], "")
            .await
            .expect("health")
            .status,
        200
    );
    // A connection with a missing, malformed or late header is closed without a response.
    for begin in [
        &b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n"[..],
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQU",
        b"",
    ] {
        let mut raw = Raw::connect(url, ELSEWHERE).await;
        raw.send(begin).await;
        assert!(raw.answer().await.is_none(), "{begin:?} was answered");
    }
    // Untrusted peers need no header, and a header from them is a malformed request.
    let mut raw = Raw::connect(url, HERE).await;
    assert_eq!(
        raw.ask("GET /healthz", &[], "")
            .await
            .expect("health")
            .status,
        200
    );
    let mut raw = Raw::connect(url, HERE).await;
    raw.send(&proxy_header(Ipv4Addr::new(192, 0, 2, 1))).await;
    raw.request("GET /healthz", &[], "").await;
    assert!(raw.answer().await.is_none_or(|answer| answer.status == 400));
}
