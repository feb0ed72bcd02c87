//! Settings that name several nodes of a server.

use super::{env, load, problem};

#[test]
fn a_server_may_have_several_addresses() {
    let two = ["amqp://a:1,2@mq-1/%2f", "amqp://b@mq-2"];
    for text in [
        two.join(","),
        two.join(" , "),
        format!("[\"{}\", \"{}\"]", two[0], two[1]),
    ] {
        let config = load(env([("AMQP_URL", text.as_str())])).unwrap();
        assert_eq!(config.queue.url.expose(), two, "{text}");
        assert!(!config.queue.url.to_string().contains("1,2"));
    }
    for bad in ["amqp://a,http://b", "[]", "amqp://a,amqp://"] {
        assert!(load(env([("AMQP_URL", bad)])).is_err(), "{bad}");
    }
}

#[test]
fn sentinels_are_host_and_port_or_urls() {
    let shown = |sentinels: &str| {
        let sources = env([
            ("CHAT__REDIS__SENTINELS", sentinels),
            ("CHAT__REDIS__MASTER", "main"),
        ]);
        let redis = load(sources).unwrap().redis;
        let sentinels: Vec<String> = redis.sentinels.iter().map(ToString::to_string).collect();
        sentinels.join(" ")
    };
    assert_eq!(shown("a:1, [::1]:2"), "a:1 [::1]:2");
    assert_eq!(shown("[\"a:1\", 'rediss://u:p@b']"), "a:1 rediss://u:***@b");
    let urls = "redis://:p,q@a:1,redis://b:2";
    assert_eq!(shown(urls), "redis://:***@a:1 redis://b:2");
    for (sentinels, master, wrong) in [
        ("a", "main", "redis.sentinels: is not host:port"),
        ("u:p@a:1", "main", "redis.sentinels: is not host:port"),
        (
            "a:1,b,c:3",
            "main",
            "redis.sentinels: entry 2 of 3 is not host:port",
        ),
        (
            "amqp://a:1",
            "main",
            "redis.sentinels: has a scheme that is not",
        ),
        ("a:1", "", "redis.master: is empty, but redis.sentinels"),
        (
            "",
            "main",
            "redis.master: \"main\" names a master, but there are no Sentinels",
        ),
    ] {
        let line = problem(env([
            ("CHAT__REDIS__SENTINELS", sentinels),
            ("CHAT__REDIS__MASTER", master),
        ]));
        assert!(line.starts_with(wrong), "{line}");
    }
}
