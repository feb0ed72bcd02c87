//! HTTP semantics: request targets, framing, methods, media types, credentials, and headers of every response.

use crate::harness::{
    Chat, Kind, both_ways,
    raw::{HERE, Raw, RawAnswer},
};

both_ways!(
    invalid_http_requests_are_refused,
    browser_pages_and_security_headers
);

async fn send(url: &str, text: &str) -> RawAnswer {
    let mut raw = Raw::connect(url, HERE).await;
    raw.send(text.as_bytes()).await;
    raw.answer()
        .await
        .unwrap_or_else(|| panic!("no answer to {text:?}"))
}

async fn ask(url: &str, line: &str, headers: &[&str]) -> RawAnswer {
    let answer = Raw::connect(url, HERE).await.ask(line, headers, "").await;
    answer.unwrap_or_else(|| panic!("no answer to {line}"))
}

async fn invalid_http_requests_are_refused(kind: Kind) {
    let chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let url = chat.edge(0).url();

    // Request target and `Host` (RFC 9112, section 3.2).
    for (text, status) in [
        ("GET /healthz HTTP/1.1\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nhost:\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nhost: a:b\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nhost: user@a\r\n\r\n", 400),
        ("GET http://a/healthz HTTP/1.1\r\n\r\n", 400),
        ("GET ftp://a/healthz HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("GET /ws HTTP/1.1\r\n\r\n", 400),
        (
            "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n\r\n",
            400,
        ),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),
        ("GET /healthz HTTP/1.1\r\nhost: [::1]:3000\r\n\r\n", 200),
        ("GET http://b:1/healthz HTTP/1.1\r\nhost: a\r\n\r\n", 200),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", 204),
        // Message body length (section 6.3): ambiguous lengths allow request smuggling.
        (
            "POST /v1/auth/login HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
            400,
        ),
        (
            "POST /v1/auth/login HTTP/1.1\r\nhost: a\r\ncontent-length: +2\r\n\r\n{}",
            400,
        ),
        (
            "POST /v1/auth/login HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n{}",
            400,
        ),
        (
            "POST /v1/auth/login HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
    ] {
        let answer = send(url, text).await;
        assert_eq!(answer.status, status, "{text:?}: {}", answer.text());
    }
    // With both headers, `Transfer-Encoding` applies and the connection is closed (section 6.1).
    let both = "POST /v1/auth/login HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut raw = Raw::connect(url, HERE).await;
    raw.send(both.as_bytes()).await;
    assert_eq!(raw.answer().await.expect("an answer").status, 422);
    assert!(raw.answer().await.is_none());

    for method in ["TRACE", "BREW", "PROPFIND", "DELETE"] {
        for path in [
            "/",
            "/api",
            "/api/openapi.json",
            "/healthz",
            "/readyz",
            "/metrics",
        ] {
            let answer = ask(url, &format!("{method} {path}"), &[]).await;
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text());
            assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
    assert_eq!(
        send(url, "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n")
            .await
            .status,
        405
    );

    // The authentication scheme is case-insensitive (RFC 9110, section 11.1).
    for scheme in ["bearer", "Bearer", "BEARER"] {
        let header = format!("authorization: {scheme} {}", ada.access);
        assert_eq!(
            ask(url, "GET /v1/me", &[&header]).await.status,
            200,
            "{scheme}"
        );
    }
    // HEAD has the status and headers of GET, also for errors (RFC 9110, section 9.3.2).
    let header = format!("authorization: Bearer {}", ada.access);
    for (path, status) in [
        ("/v1/me", 200),
        ("/healthz", 200),
        ("/v1/me/notifications", 200),
        ("/v1/nothing", 404),
    ] {
        let get = ask(url, &format!("GET {path}"), &[&header]).await;
        let head = ask(url, &format!("HEAD {path}"), &[&header]).await;
        assert_eq!((get.status, head.status), (status, status), "{path}");
        for name in ["content-length", "content-type"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
    }
    // Tokens in URLs are refused, because URLs are logged.
    let header = format!("authorization: Bearer {}", ada.access);
    for name in ["token", "access_token"] {
        for headers in [&[][..], &[header.as_str()]] {
            let line = format!("GET /v1/me?a=b&{name}={}", ada.access);
            let answer = ask(url, &line, headers).await;
            assert_eq!(answer.status, 400, "{}", answer.text());
            assert!(answer.text().contains("never put an access token in a URL"));
        }
    }
}

async fn browser_pages_and_security_headers(kind: Kind) {
    let chat = Chat::start(kind).await;
    let url = chat.edge(0).url();
    for path in ["/", "/api", "/api/openapi.json"] {
        let answer = ask(url, &format!("GET {path}"), &[]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
        let tag = answer.header("etag").expect("a tag").to_owned();
        assert!(tag.starts_with('"'), "{tag} is not strong");
        let length = answer.header("content-length").map(str::to_owned);
        assert_eq!(length, Some(answer.body.len().to_string()));
        let head = ask(url, &format!("HEAD {path}"), &[]).await;
        assert_eq!(
            (head.status, head.header("etag")),
            (200, Some(tag.as_str()))
        );
        assert_eq!(
            head.header("content-length").map(str::to_owned),
            length,
            "{path}"
        );
        for (known, status) in [(tag.as_str(), 304), ("\"other\"", 200), ("*", 304)] {
            let answer = ask(
                url,
                &format!("GET {path}"),
                &[&format!("if-none-match: {known}")],
            )
            .await;
            assert_eq!(
                (answer.status, answer.header("etag")),
                (status, Some(tag.as_str()))
            );
        }
    }
    // Every response has a Content-Security-Policy: pages allow what they need, everything else nothing.
    for path in [
        "/",
        "/api",
        "/api/openapi.json",
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/me",
        "/nothing",
        "/ws",
        "/socket.io/?EIO=4&transport=polling",
        "/socket.io/?EIO=3&transport=polling",
    ] {
        let answer = ask(url, &format!("GET {path}"), &[]).await;
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        let policy = answer.header("content-security-policy").expect(path);
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(
            policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(
            policy.contains("script-src"),
            ["/", "/api"].contains(&path),
            "{path}: {policy}"
        );
    }
    let broken = send(url, "GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(broken.header("x-frame-options"), Some("DENY"));
}

/// Pages disabled, and an edge that is reachable from other machines: metrics are on their own port only.
#[tokio::test]
async fn pages_and_metrics_can_be_disabled() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let chat = Chat::plan(Kind::Standalone)
        .set("edge.host", "0.0.0.0")
        .set("edge.pages", "[]")
        .set("metrics.port", port)
        .start()
        .await;
    let url = chat.edge(0).url().replace("localhost", "127.0.0.1");
    for (path, status) in [
        ("/", 404),
        ("/api", 404),
        ("/api/openapi.json", 404),
        ("/metrics", 404),
        ("/healthz", 200),
        ("/readyz", 200),
    ] {
        assert_eq!(
            ask(&url, &format!("GET {path}"), &[]).await.status,
            status,
            "{path}"
        );
    }
    let inside = format!("http://127.0.0.1:{port}");
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/v1/me", 404),
        ("/", 404),
    ] {
        assert_eq!(
            ask(&inside, &format!("GET {path}"), &[]).await.status,
            status,
            "{path}"
        );
    }
    let public = Chat::plan(Kind::Standalone)
        .set("edge.host", "0.0.0.0")
        .set("metrics.public", true)
        .start()
        .await;
    let url = public.edge(0).url().replace("localhost", "127.0.0.1");
    assert_eq!(
        ask(&url, "GET /metrics", &["x-forwarded-for: 192.0.2.1"])
            .await
            .status,
        200
    );
    // On loopback, a forwarded request is refused: it came through a proxy on this machine.
    let local = Chat::start(Kind::Standalone).await;
    let url = local.edge(0).url();
    assert_eq!(ask(url, "GET /metrics", &[]).await.status, 200);
    assert_eq!(
        ask(url, "GET /metrics", &["x-forwarded-for: 192.0.2.1"])
            .await
            .status,
        404
    );
    // A page in a browser reached it by a name of its own (DNS rebinding).
    let rebound = "GET /metrics HTTP/1.1\r\nhost: attacker.example\r\n\r\n";
    assert_eq!(send(url, rebound).await.status, 404);
}
