//! Settings that name several nodes of a server.

use super::{env, load};

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
