//! Values with a grammar of their own: origins, addresses, proxies, pages.

use super::*;

#[test]
fn origins_and_addresses_are_exact() {
    for wrong in [
        "https://a.example/",
        "a.example",
        "https://A.example",
        "https://a.example:443",
        "https://*.example",
        "https://",
    ] {
        let line = problem(env([("CHAT__EDGE__ALLOWED_ORIGINS", wrong)]));
        assert!(
            line.starts_with("edge.allowed_origins: ")
                && line.contains("allowed: scheme://host[:port]"),
            "{line}"
        );
    }
    for (host, ok) in [
        ("::", true),
        ("chat.internal", true),
        ("", false),
        ("[::1]", false),
        ("a:80", false),
    ] {
        assert_eq!(
            load(env([("CHAT__EDGE__HOST", host)])).is_ok(),
            ok,
            "{host}"
        );
    }
    let config = load(env([(
        "CHAT__EDGE__PUBLIC_URL",
        "https://chat.example/base/",
    )]))
    .unwrap();
    assert_eq!(
        config.edge.public_url.as_deref(),
        Some("https://chat.example/base")
    );
    for wrong in [
        "chat.example",
        "ws://chat.example",
        "https://",
        "https://a.example?x",
    ] {
        assert!(problem(env([("CHAT__EDGE__PUBLIC_URL", wrong)])).starts_with("edge.public_url: "));
    }
}

#[test]
fn proxies_are_addresses_and_networks() {
    let list = "10.0.0.0/8, 192.0.2.7,2001:db8::/32,::ffff:192.0.2.9";
    let config = load(env([("CHAT__EDGE__TRUSTED_PROXIES", list)])).unwrap();
    let shown: Vec<String> = config
        .edge
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = [
        "10.0.0.0/8",
        "192.0.2.7/32",
        "2001:db8::/32",
        "192.0.2.9/32",
    ];
    assert_eq!(shown, expected);
    for (wrong, says) in [
        ("10.0.0.1/8", "10.0.0.0/8?"),
        ("0.0.0.0/0", "is every address"),
        ("::/0", "is every address"),
        ("::ffff:10.0.0.0/104", "write it as IPv4"),
        ("10.0.0.0/33", "is neither an IP address nor a network"),
        ("proxy.example", "is neither an IP address nor a network"),
    ] {
        let line = problem(env([("CHAT__EDGE__TRUSTED_PROXIES", wrong)]));
        assert!(line.starts_with("edge.trusted_proxies: "), "{line}");
        assert!(line.contains(says), "{line}");
    }
    let alone = problem(env([("CHAT__EDGE__PROXY_PROTOCOL", "true")]));
    assert!(alone.starts_with("edge.proxy_protocol: "), "{alone}");
    let both = env([
        ("CHAT__EDGE__PROXY_PROTOCOL", "true"),
        ("CHAT__EDGE__TRUSTED_PROXIES", "10.0.0.1"),
    ]);
    assert!(load(both).unwrap().edge.proxy_protocol);
}

#[test]
fn pages_are_known_and_may_be_none() {
    let pages = |value| {
        load(env([("CHAT__EDGE__PAGES", value)]))
            .unwrap()
            .edge
            .pages
    };
    assert_eq!(pages("api,chat,api"), [Page::Chat, Page::Api]);
    assert_eq!(pages("[]"), []);
    let line = problem(env([("CHAT__EDGE__PAGES", "chat,admin")]));
    assert!(
        line.starts_with("edge.pages: ") && line.contains("chat, api"),
        "{line}"
    );
    let line = problem(env([
        ("CHAT__EDGE__MAX_CONNECTIONS", "10"),
        ("CHAT__EDGE__MAX_CONNECTIONS_PER_ADDRESS", "11"),
    ]));
    assert!(
        line.starts_with("edge.max_connections_per_address: 11 is more than"),
        "{line}"
    );
}

#[test]
fn every_short_secret_is_reported() {
    let long = "0123456789abcdef0123456789abcdef";
    let line = problem(env([("CHAT__AUTH__SECRET", &*format!("short,{long},x"))]));
    assert!(
        line.starts_with("auth.secret: secret 1 of 3 has 5 bytes, which is too short to be secret; secret 3 of 3 has 1 byte,"),
        "{line}"
    );
}
