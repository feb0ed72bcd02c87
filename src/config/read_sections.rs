//! Reads each section of the settings: one function per section, with the limits of each key.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use tracing::level_filters::LevelFilter;

use super::{
    read::Reader,
    sections::{
        AddMembers, Auth, Autoscale, Database, Edge, EdgeTls, Email, EmailProvider,
        ForwardedHeader, Limits, Log, LogFormat, Metrics, Notify, OnAmbiguous, Page,
        PreparedStatements, Queue, Redis, Registration, Rooms, Sms, SmsProvider, SocketIo, Start,
        Worker, WorkerRole,
    },
    values::{
        base_url, host, log_filter, name, network, number_prefix, origin, public_url, reset_url,
        sender,
    },
};

/// Shortest key for HMAC-SHA-256, in bytes: the length of its output (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;
pub(super) const SECRET_ALLOWED: &str = "at least 32 bytes, such as `openssl rand -base64 48` prints, or a list of up to 8 such secrets; set CHAT__AUTH__SECRET or put it in a file";
const NAME_ALLOWED: &str = "1 to 64 of";
/// No limit in practice; prevents overflows of sums.
const MANY: i64 = 1_000_000_000;
const MIB: i64 = 1 << 20;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}
const fn days(n: u64) -> Duration {
    Duration::from_secs(n * 86_400)
}

pub(super) fn edge(r: &mut Reader) -> Edge {
    Edge {
        host: r.text("edge.host", "an IP address or a host name", host),
        port: r.number("edge.port", 0..=65535, "0 picks a free port"),
        public_url: r.text(
            "edge.public_url",
            "http(s)://host[:port][/path], or \"\"",
            public_url,
        ),
        allowed_origins: r.list(
            "edge.allowed_origins",
            "scheme://host[:port] in lower case, or *",
            origin,
        ),
        max_frame_bytes: r.number("edge.max_frame_bytes", 1024..=16 * MIB, "bytes"),
        max_body_bytes: r.number("edge.max_body_bytes", 1..=8 * MIB, "bytes"),
        send_queue_bytes: r.number("edge.send_queue_bytes", 1024..=1024 * MIB, "bytes"),
        max_connections: r.number("edge.max_connections", 1..=1_000_000, ""),
        max_connections_per_address: r.number(
            "edge.max_connections_per_address",
            0..=1_000_000,
            "0: half of edge.max_connections",
        ),
        request_timeout: r.duration("edge.request_timeout", ms(100)..=minutes(10)),
        idle_timeout: r.duration("edge.idle_timeout", ms(1000)..=minutes(60)),
        write_timeout: r.duration("edge.write_timeout", ms(100)..=minutes(10)),
        trusted_proxies: networks(r, "edge.trusted_proxies"),
        forwarded: r.text(
            "edge.forwarded",
            "x-forwarded-for, forwarded",
            |text| match text.to_ascii_lowercase().as_str() {
                "x-forwarded-for" => Ok(ForwardedHeader::XForwardedFor),
                "forwarded" => Ok(ForwardedHeader::Forwarded),
                _ => Err("is no such header".into()),
            },
        ),
        proxy_protocol: r.flag("edge.proxy_protocol"),
        pages: pages(r),
        tls: edge_tls(r),
        max_sockets_per_user: r.number("edge.max_sockets_per_user", 1..=1_000_000, "sockets"),
        max_unauthenticated: r.number("edge.max_unauthenticated", 1..=1_000_000, "connections"),
        max_unauthenticated_per_address: r.number(
            "edge.max_unauthenticated_per_address",
            1..=1_000_000,
            "connections",
        ),
        handshakes_per_second: r.number(
            "edge.handshakes_per_second",
            1..=1_000_000,
            "per second and address",
        ),
        drain: r.duration("edge.drain", ms(0)..=minutes(60)),
        drain_delay: r.duration("edge.drain_delay", ms(0)..=minutes(10)),
        ping_interval: r.duration("edge.ping_interval", ms(10)..=minutes(60)),
        pong_timeout: r.duration("edge.pong_timeout", ms(10)..=minutes(60)),
        auth_timeout: r.duration("edge.auth_timeout", ms(10)..=minutes(10)),
        wait: r.duration("edge.wait", ms(0)..=minutes(1)),
        reconcile_interval: r.duration("edge.reconcile_interval", ms(10)..=minutes(60)),
        rights_interval: r.duration("edge.rights_interval", ms(10)..=minutes(60)),
    }
}

fn edge_tls(r: &mut Reader) -> EdgeTls {
    let file = |text: &str| Ok(PathBuf::from(text.trim()));
    let allowed = "a PEM file, or \"\"";
    let cert = r.text("edge.tls.cert", allowed, file);
    let key = r.text("edge.tls.key", allowed, file);
    let is_set = |path: &PathBuf| !path.as_os_str().is_empty();
    let (key_name, message) = match (is_set(&cert), is_set(&key)) {
        (false, true) => ("edge.tls.cert", "is empty, but edge.tls.key is set"),
        (true, false) => ("edge.tls.key", "is empty, but edge.tls.cert is set"),
        _ => ("", ""),
    };
    if !key_name.is_empty() {
        r.refuse(key_name, message, "both files, or none");
    }
    EdgeTls {
        cert,
        key,
        reload_interval: r.duration("edge.tls.reload_interval", ms(10)..=days(1)),
        hsts: r.duration("edge.tls.hsts", ms(0)..=days(3650)),
    }
}

pub(super) fn socketio(r: &mut Reader) -> SocketIo {
    SocketIo {
        ping_interval: ms(r.number("socketio.ping_interval_ms", 10..=3_600_000, "milliseconds")),
        ping_timeout: ms(r.number("socketio.ping_timeout_ms", 10..=3_600_000, "milliseconds")),
        max_payload: r.number("socketio.max_payload", 1024..=16 * MIB, "bytes"),
    }
}

pub(super) fn queue(r: &mut Reader) -> Queue {
    Queue {
        url: r.servers("queue.url", &["amqp", "amqps"], true),
        prefix: r.text(
            "queue.prefix",
            &format!("{NAME_ALLOWED} a-z 0-9 _ . -"),
            |text| {
                if text.contains(|c: char| c.is_ascii_uppercase()) {
                    return Err("has a capital letter".into());
                }
                name(text)
            },
        ),
        partitions: r.number("queue.partitions", 1..=256, "the same on all nodes"),
        max_backlog: r.number("queue.max_backlog", 1..=MANY, "messages"),
        batch_messages: r.number("queue.batch_messages", 1..=10_000, ""),
        batch_bytes: r.number("queue.batch_bytes", 1024..=16 * MIB, "bytes"),
        confirm_timeout: r.duration("queue.confirm_timeout", ms(100)..=minutes(10)),
        prefetch: r.number("queue.prefetch", 1..=65535, "batches"),
    }
}

pub(super) fn database(r: &mut Reader) -> Database {
    Database {
        // Without a host: a socket's directory stands in the query (?host=/run/postgresql).
        url: r.servers("database.url", &["postgres", "postgresql"], false),
        read_url: r.servers_or_none("database.read_url", &["postgres", "postgresql"], false),
        max_connections: r.number("database.max_connections", 1..=1000, ""),
        acquire_timeout: r.duration("database.acquire_timeout", ms(10)..=minutes(10)),
        prepared_statements: r.text("database.prepared_statements", "auto, on, off", |text| {
            match text {
                "auto" => Ok(PreparedStatements::Auto),
                "on" => Ok(PreparedStatements::On),
                "off" => Ok(PreparedStatements::Off),
                _ => Err("is not one of the values".into()),
            }
        }),
    }
}

pub(super) fn redis(r: &mut Reader) -> Redis {
    Redis {
        url: r.server("redis.url", &["redis", "rediss"], true),
        sentinels: r.nodes("redis.sentinels", &["redis", "rediss"]),
        master: r.text("redis.master", "\"\", or a name", |text| {
            if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return Err("has a space or line break in it".into());
            }
            Ok(text.to_owned())
        }),
        sentinel_password: r.secret(
            "redis.sentinel_password",
            1,
            "the Sentinels' password, or \"\"",
        ),
        recent_messages: r.number("redis.recent_messages", 1..=10_000, ""),
        recent_ttl: r.duration("redis.recent_ttl", ms(1000)..=days(30)),
        pool: r.number("redis.pool", 1..=1000, "connections"),
    }
}

pub(super) fn worker(r: &mut Reader) -> Worker {
    Worker {
        jobs: roles(r),
        concurrency: r.number("worker.concurrency", 1..=64, ""),
        batch_messages: r.number("worker.batch_messages", 1..=100_000, ""),
        notify_concurrency: r.number("worker.notify_concurrency", 1..=1000, "tasks"),
        notify_prefetch: r.number("worker.notify_prefetch", 1..=10_000, "tasks"),
        deliver_prefetch: r.number("worker.deliver_prefetch", 1..=10_000, "tasks"),
        maintenance_interval: r.duration("worker.maintenance_interval", ms(100)..=days(7)),
        heartbeat: r.duration("worker.heartbeat", ms(10)..=minutes(1)),
        heartbeat_ttl: r.duration("worker.heartbeat_ttl", ms(30)..=minutes(10)),
        id: r.text(
            "worker.id",
            &format!("\"\", or {NAME_ALLOWED} A-Z a-z 0-9 _ . -"),
            |text| match text {
                "" => Ok(None),
                text => name(text).map(Some),
            },
        ),
    }
}

pub(super) fn notify(r: &mut Reader) -> Notify {
    Notify {
        delay: r.duration("notify.delay", ms(0)..=days(7)),
        digest_window: r.duration("notify.digest_window", ms(0)..=days(1)),
        away_after: r.duration("notify.away_after", ms(100)..=days(1)),
        max_attempts: r.number("notify.max_attempts", 1..=100, ""),
        max_age: r.duration("notify.max_age", ms(1000)..=days(30)),
        concurrency: r.number("notify.concurrency", 1..=1000, "requests"),
        keep: r.duration("notify.keep", minutes(1)..=days(3650)),
        timeout: r.duration("notify.timeout", ms(10)..=minutes(2)),
        retry_initial: r.duration("notify.retry_initial", ms(10)..=minutes(60)),
        pause: r.duration("notify.pause", ms(10)..=days(1)),
        templates: r.templates("notify.templates"),
        email: Email {
            provider: r.text(
                "notify.email.provider",
                "\"\", sendgrid, smtp, log",
                |text| match text {
                    "" => Ok(EmailProvider::None),
                    "sendgrid" => Ok(EmailProvider::SendGrid),
                    "smtp" => Ok(EmailProvider::Smtp),
                    "log" => Ok(EmailProvider::Log),
                    _ => Err("is no provider".into()),
                },
            ),
            from: r.text("notify.email.from", "an e-mail address, or \"\"", sender),
            base_url: r.text("notify.email.base_url", "http(s)://host[:port]", base_url),
            api_key: r.secret("notify.email.api_key", 1, "an API key of SendGrid"),
            sandbox: r.flag("notify.email.sandbox"),
            webhook_key: r.text("notify.email.webhook_key", "base64, or \"\"", |text| {
                Ok(text.trim().to_owned())
            }),
            smtp_url: r.server("notify.email.smtp_url", &["smtp", "smtps"], true),
            per_second: r.number("notify.email.per_second", 1..=100_000, ""),
        },
        sms: Sms {
            provider: r.text(
                "notify.sms.provider",
                "\"\", twilio, log",
                |text| match text {
                    "" => Ok(SmsProvider::None),
                    "twilio" => Ok(SmsProvider::Twilio),
                    "log" => Ok(SmsProvider::Log),
                    _ => Err("is no provider".into()),
                },
            ),
            from: r.text("notify.sms.from", "+15550006789, MG…, or \"\"", |text| {
                Ok(text.trim().to_owned())
            }),
            base_url: r.text("notify.sms.base_url", "http(s)://host[:port]", base_url),
            account_sid: r.text("notify.sms.account_sid", "AC…", |text| {
                let plain = text.chars().all(|c| c.is_ascii_alphanumeric());
                plain
                    .then(|| text.to_owned())
                    .ok_or_else(|| "is none".into())
            }),
            auth_token: r.secret("notify.sms.auth_token", 1, "Twilio's auth token"),
            validity: r.duration("notify.sms.validity", ms(1000)..=minutes(600)),
            on_ambiguous: r.text(
                "notify.sms.on_ambiguous",
                "give_up, retry",
                |text| match text {
                    "give_up" => Ok(OnAmbiguous::GiveUp),
                    "retry" => Ok(OnAmbiguous::Retry),
                    _ => Err("is no policy".into()),
                },
            ),
            per_second: r.number("notify.sms.per_second", 1..=100_000, ""),
            countries: r.list(
                "notify.sms.countries",
                "beginnings of numbers such as +49 or +1",
                number_prefix,
            ),
            segments: r.number("notify.sms.segments", 1..=10, "segments"),
        },
    }
}

pub(super) fn autoscale(r: &mut Reader) -> Autoscale {
    Autoscale {
        min: r.number("autoscale.min", 0..=1000, "workers"),
        max: r.number("autoscale.max", 1..=1000, "workers"),
        interval: r.duration("autoscale.interval", ms(50)..=minutes(1)),
        idle_interval: r.duration("autoscale.idle_interval", ms(10)..=minutes(1)),
        grace: r.duration("autoscale.grace", ms(0)..=minutes(60)),
        messages_per_worker: r.number("autoscale.messages_per_worker", 1..=MANY, ""),
        messages_per_second: r.number("autoscale.messages_per_second", 1..=MANY, ""),
        jobs_per_worker: r.number("autoscale.jobs_per_worker", 1..=MANY, ""),
        target_age: r.duration("autoscale.target_age", ms(10)..=minutes(60)),
        cooldown: r.duration("autoscale.cooldown", ms(100)..=minutes(60)),
        step: r.number("autoscale.step", 1..=1000, "workers"),
        api_url: r.servers_or_none("autoscale.api_url", &["http", "https"], true),
    }
}

pub(super) fn start(r: &mut Reader) -> Start {
    Start {
        timeout: r.duration("start.timeout", ms(0)..=minutes(60)),
    }
}

pub(super) fn rooms(r: &mut Reader) -> Rooms {
    Rooms {
        add_members: r.text(
            "rooms.add_members",
            "anyone, shared_rooms, invitation",
            |text| match text {
                "anyone" => Ok(AddMembers::Anyone),
                "shared_rooms" => Ok(AddMembers::SharedRooms),
                "invitation" => Ok(AddMembers::Invitation),
                _ => Err("is no rule".into()),
            },
        ),
    }
}

pub(super) fn auth(r: &mut Reader) -> Auth {
    Auth {
        secret: r.secrets("auth.secret", MIN_SECRET_BYTES, SECRET_ALLOWED),
        registration: r.text("auth.registration", "open, closed", |text| match text {
            "open" => Ok(Registration::Open),
            "closed" => Ok(Registration::Closed),
            _ => Err("is no kind of registration".into()),
        }),
        reset_url: r.text(
            "auth.reset_url",
            "\"\", or http:// or https://, such as https://app.example.com/reset#token=",
            reset_url,
        ),
        access_ttl: r.duration("auth.access_ttl", ms(1000)..=days(30)),
        refresh_ttl: r.duration("auth.refresh_ttl", ms(1000)..=days(3650)),
        hash_concurrency: r.number("auth.hash_concurrency", 1..=64, ""),
    }
}

pub(super) fn limits(r: &mut Reader) -> Limits {
    Limits {
        messages_per_second: r.number("limits.messages_per_second", 1..=MANY, ""),
        burst: r.number("limits.burst", 1..=MANY, ""),
        reads_per_second: r.number("limits.reads_per_second", 1..=MANY, ""),
        read_burst: r.number("limits.read_burst", 1..=MANY, ""),
        logins_per_minute: r.number("limits.logins_per_minute", 1..=MANY, ""),
        failed_logins_per_address_per_minute: r.number(
            "limits.failed_logins_per_address_per_minute",
            1..=MANY,
            "",
        ),
        registrations_per_minute: r.number("limits.registrations_per_minute", 1..=MANY, ""),
        address_requests_per_second: r.number("limits.address_requests_per_second", 1..=MANY, ""),
        address_burst: r.number("limits.address_burst", 1..=MANY, ""),
        codes_per_recipient_per_hour: r.number(
            "limits.codes_per_recipient_per_hour",
            1..=MANY,
            "codes",
        ),
        codes_per_recipient_per_day: r.number(
            "limits.codes_per_recipient_per_day",
            1..=MANY,
            "codes",
        ),
        codes_per_address_per_hour: r.number(
            "limits.codes_per_address_per_hour",
            1..=MANY,
            "codes",
        ),
        sms_codes_per_minute: r.number("limits.sms_codes_per_minute", 1..=MANY, "codes"),
    }
}

pub(super) fn log(r: &mut Reader) -> Log {
    Log {
        filter: r.text(
            "log.filter",
            "off, error, warn, info, debug, trace, also of single modules, as in \"warn,chat=debug\"",
            log_filter,
        ),
        dependencies: r.text(
            "log.dependencies",
            "off, error, warn, info, debug, trace",
            |text| match text {
                "off" => Ok(LevelFilter::OFF),
                "error" => Ok(LevelFilter::ERROR),
                "warn" => Ok(LevelFilter::WARN),
                "info" => Ok(LevelFilter::INFO),
                "debug" => Ok(LevelFilter::DEBUG),
                "trace" => Ok(LevelFilter::TRACE),
                _ => Err("is no level".into()),
            },
        ),
        requests: r.share("log.requests"),
        format: r.text("log.format", "text, json", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("is no format".into()),
        }),
    }
}

pub(super) fn metrics(r: &mut Reader) -> Metrics {
    Metrics {
        port: r.number("metrics.port", 0..=65535, "0: none"),
        public: r.flag("metrics.public"),
    }
}

/// Each role once, in the order of [`WorkerRole::ALL`].
fn roles(r: &mut Reader) -> Vec<WorkerRole> {
    let allowed = WorkerRole::ALL.map(WorkerRole::as_str).join(", ");
    let check = |text: &str| match WorkerRole::parse(text) {
        Some(_) => Ok(()),
        None => Err("is no kind of work".to_owned()),
    };
    let named = r.list("worker.jobs", &allowed, check);
    let all = WorkerRole::ALL.into_iter();
    all.filter(|kind| named.iter().any(|name| name == kind.as_str()))
        .collect()
}

/// Each page once, in the order of [`Page::ALL`].
fn pages(r: &mut Reader) -> Vec<Page> {
    let allowed = "chat, api, or an empty list";
    let check = |text: &str| {
        if Page::ALL.iter().any(|(_, name)| *name == text) {
            Ok(())
        } else {
            Err("is no page of this version".to_owned())
        }
    };
    let named = r.list("edge.pages", allowed, check);
    let all = Page::ALL.into_iter();
    all.filter(|(_, name)| named.iter().any(|named| named == name))
        .map(|(page, _)| page)
        .collect()
}

/// Addresses and networks.
fn networks(r: &mut Reader, key: &'static str) -> Vec<IpNet> {
    let allowed = "addresses and networks such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32";
    let named = r.list(key, allowed, |text| network(text).map(drop));
    named.iter().filter_map(|text| network(text).ok()).collect()
}
