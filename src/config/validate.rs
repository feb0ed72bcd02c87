//! Validation across settings: combinations of values that are each valid alone.

use super::{
    problem::Source,
    read::Reader,
    read_sections::SECRET_ALLOWED,
    sections::{EmailProvider, SmsProvider, WorkerRole},
    settings::{Config, Role},
};
use crate::{protocol::bounds::largest_message, tls::Files};

/// Reports every contradiction between settings, and every setting that `role` needs and that is not set.
pub(super) fn validate(config: &Config, role: Role, r: &mut Reader) {
    if config.worker.jobs.is_empty() {
        let allowed = WorkerRole::ALL.map(WorkerRole::as_str).join(", ");
        // A list that could not be read has been reported already.
        if r.shown.iter().any(|shown| shown.key == "worker.jobs") {
            r.refuse("worker.jobs", "names no kind of work", &allowed);
        }
    }
    if matches!(role, Role::Standalone | Role::Edge | Role::Check)
        && let Some(files) = Files::of(&config.edge.tls.cert, &config.edge.tls.key)
        && let Err(wrong) = files.load()
    {
        let allowed = "a certificate chain and its private key, as PEM files";
        r.refuse(wrong.setting.key(), &wrong.reason, allowed);
    }
    if role == Role::Edge && config.auth.secret.is_empty() {
        r.refuse(
            "auth.secret",
            "is empty, but every edge needs it, and all the same one",
            SECRET_ALLOWED,
        );
    }
    // If only the frame was lowered, a body that does not fit is refused as a frame.
    let body_was_set = r.shown.iter().any(|shown| {
        shown.key == "edge.max_body_bytes" && !matches!(shown.source, Source::Default)
    });
    if body_was_set && config.edge.max_body_bytes > config.edge.max_frame_bytes / 2 {
        let allowed = format!(
            "at most {} here, or a larger edge.max_frame_bytes",
            config.edge.max_frame_bytes / 2
        );
        r.contradiction(
            "edge.max_body_bytes",
            "edge.max_frame_bytes",
            "is more than half of",
            &allowed,
        );
    }
    let largest = largest_message(config.edge.max_body_bytes);
    if config.edge.send_queue_bytes < 2 * largest {
        let allowed = format!(
            "at least {} here, or a smaller edge.max_body_bytes",
            2 * largest
        );
        r.contradiction(
            "edge.send_queue_bytes",
            "edge.max_body_bytes",
            "does not hold two of the largest messages with",
            &allowed,
        );
    }
    if config.worker.heartbeat_ttl < config.worker.heartbeat * 3 {
        let allowed = "at least three heartbeats, or a delayed one makes partitions change hands";
        r.contradiction(
            "worker.heartbeat_ttl",
            "worker.heartbeat",
            "is less than three times",
            allowed,
        );
    }
    let list_is_good = r
        .shown
        .iter()
        .any(|shown| shown.key == "edge.trusted_proxies");
    if config.edge.proxy_protocol && config.edge.trusted_proxies.is_empty() && list_is_good {
        let allowed = "false, or the proxies' addresses in edge.trusted_proxies";
        let message = "is true, but no proxy is trusted: edge.trusted_proxies is empty";
        r.refuse("edge.proxy_protocol", message, allowed);
    }
    if config.edge.max_connections_per_address > config.edge.max_connections {
        let allowed = "at most edge.max_connections";
        r.contradiction(
            "edge.max_connections_per_address",
            "edge.max_connections",
            "is more than",
            allowed,
        );
    }
    if config.redis.sentinels.is_empty() != config.redis.master.is_empty() {
        if config.redis.master.is_empty() {
            let message = "is empty, but redis.sentinels names Sentinels";
            r.refuse(
                "redis.master",
                message,
                "the name under which they watch the master",
            );
        } else {
            let allowed = "\"\", or the Sentinels' addresses in redis.sentinels";
            let message = "names a master, but there are no Sentinels in";
            r.contradiction("redis.master", "redis.sentinels", message, allowed);
        }
    }
    check_notify(config, role, r);
    if config.notify.keep < config.notify.max_age {
        let allowed =
            "at least as long: the delivery log holds notifications that are still retried";
        r.contradiction("notify.keep", "notify.max_age", "is less than", allowed);
    }
    if config.autoscale.min > config.autoscale.max {
        let allowed = "at most autoscale.max";
        r.contradiction("autoscale.min", "autoscale.max", "is more than", allowed);
    }
    let serves = matches!(role, Role::Edge | Role::Standalone);
    if serves && config.metrics.port != 0 && config.metrics.port == config.edge.port {
        let allowed = "0, or another port";
        r.contradiction("metrics.port", "edge.port", "is taken by", allowed);
    }
    if config.edge.allowed_origins.len() > 1
        && config
            .edge
            .allowed_origins
            .iter()
            .any(|origin| origin == "*")
    {
        let message = "\"*\" admits every origin, so the others beside it say nothing";
        r.refuse(
            "edge.allowed_origins",
            message,
            "either * alone or exact origins",
        );
    }
}

/// Reports settings that the chosen providers need. An edge sends nothing; it verifies Twilio's callbacks with its token.
fn check_notify(config: &Config, role: Role, r: &mut Reader) {
    let sends = role != Role::Edge;
    let (email, sms) = (&config.notify.email, &config.notify.sms);
    let needed = [
        (
            email.provider != EmailProvider::None && email.from.is_empty(),
            "notify.email.from",
            "an address of yours, such as \"Chat <chat@example.com>\"",
        ),
        (
            sends && email.provider == EmailProvider::SendGrid && email.api_key.is_empty(),
            "notify.email.api_key",
            "an API key that may send mail; set SENDGRID_API_KEY",
        ),
        (
            sends && sms.provider == SmsProvider::Twilio && sms.account_sid.is_empty(),
            "notify.sms.account_sid",
            "AC…; set TWILIO_ACCOUNT_SID",
        ),
        (
            sms.provider == SmsProvider::Twilio && sms.auth_token.is_empty(),
            "notify.sms.auth_token",
            "the account's token; set TWILIO_AUTH_TOKEN",
        ),
        (
            sms.provider == SmsProvider::Twilio && sms.from.is_empty(),
            "notify.sms.from",
            "a number of yours, or the id of a messaging service",
        ),
    ];
    for (_, key, allowed) in needed.into_iter().filter(|(missing, ..)| *missing) {
        r.refuse(key, "is empty, but the provider needs it", allowed);
    }
}
