//! The settings: a struct for each section, filled from layers (built-in, file, `.env`, environment, flags)
//! in two stages. `layers` finds each key's value and source; `read` checks it. All problems come out at once.
//!
//! A new key is a line in `config.toml`, a field in `sections` and a line in `Config::load`; the compiler and the
//! unit tests miss none of the three. Nothing here opens a connection or logs, and no secret is ever shown.

mod layers;
mod problem;
mod read;
mod secret;
mod sections;
mod sources;
mod templates;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

pub use layers::DEFAULTS;
pub use problem::{Problem, Problems, Source};
pub use read::parse_duration;
pub use secret::{Secret, SecretUrl};
pub use sections::{
    AddMembers, Auth, Autoscale, Database, Edge, Email, EmailProvider, ForwardedHeader, Limits,
    Log, LogFormat, Metrics, Notify, OnAmbiguous, Page, Queue, Redis, Rooms, Sms, SmsProvider,
    SocketIo, Start, Worker, WorkerRole,
};
pub use sources::Sources;
pub use templates::{CodeValues, DigestValues, Said, Templates, escape};

use ipnet::IpNet;
use read::{Reader, Shown};
use secret::split_url;

/// What the settings are for, which decides what must be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Edge and worker in one process: nothing must be set.
    Standalone,
    /// Needs `auth.secret`.
    Edge,
    /// Needs nothing beyond what a worker uses.
    Worker,
    /// Commands that look or manage: nothing must be set.
    Tool,
}

/// All settings, checked. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Config {
    /// Clients' side: addresses, limits of a socket, times.
    pub edge: Edge,
    /// What the Engine.IO handshake tells.
    pub socketio: SocketIo,
    /// The way of a command from edge to worker.
    pub queue: Queue,
    /// PostgreSQL.
    pub database: Database,
    /// Redis.
    pub redis: Redis,
    /// Storing commands.
    pub worker: Worker,
    /// Telling those who are away.
    pub notify: Notify,
    /// How many workers run.
    pub autoscale: Autoscale,
    /// Starting up.
    pub start: Start,
    /// Who may be put into rooms.
    pub rooms: Rooms,
    /// Accounts and tokens.
    pub auth: Auth,
    /// What one client may ask for.
    pub limits: Limits,
    /// Standard error.
    pub log: Log,
    /// Prometheus.
    pub metrics: Metrics,
    shown: Vec<Shown>,
}

/// Bytes that HMAC-SHA-256 needs as its key: no fewer than its output has (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;
const SECRET_ALLOWED: &str = "at least 32 bytes, such as `openssl rand -base64 48` prints; set CHAT__AUTH__SECRET or put it in a file";
const NAME_ALLOWED: &str = "1 to 64 of";
/// No limit in practice; keeps sums far from overflow.
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

/// Each kind once, in the order of [`WorkerRole::ALL`].
fn job_kinds(r: &mut Reader) -> Vec<WorkerRole> {
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

/// The pages that are named, each once.
fn pages(r: &mut Reader) -> Vec<Page> {
    let allowed = "chat, api, or an empty list";
    let check = |text: &str| match Page::ALL.iter().any(|(_, name)| *name == text) {
        true => Ok(()),
        false => Err("is no page of this version".to_owned()),
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

fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address.to_canonical()),
        Err(_) => text
            .parse::<IpNet>()
            .map_err(|_| "is neither an IP address nor a network")?,
    };
    if network.prefix_len() == 0 {
        return Err("is every address, so that anyone could claim any address".into());
    }
    if network != network.trunc() {
        return Err(format!("has bits beyond its prefix; {}?", network.trunc()));
    }
    // Peers and hops are compared in their IPv4 form.
    match network {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
            Err("is an IPv4 network written as IPv6; write it as IPv4".into())
        }
        network => Ok(network),
    }
}

impl Config {
    /// Reads all layers and checks every value for `role`.
    ///
    /// # Errors
    /// Everything that is wrong, in the order in which a person would look for it: unreadable files and
    /// unknown keys, then values, then settings that contradict each other. Holds no secret.
    pub fn load(sources: &Sources, role: Role) -> Result<Config, Problems> {
        let (entries, problems) = layers::merge(sources);
        let mut r = Reader {
            entries,
            problems,
            shown: Vec::new(),
        };
        let config = Config {
            edge: Edge {
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
                trusted_proxies: networks(&mut r, "edge.trusted_proxies"),
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
                pages: pages(&mut r),
                max_sockets_per_user: r.number(
                    "edge.max_sockets_per_user",
                    1..=1_000_000,
                    "sockets",
                ),
                max_unauthenticated: r.number(
                    "edge.max_unauthenticated",
                    1..=1_000_000,
                    "connections",
                ),
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
                ping_interval: r.duration("edge.ping_interval", ms(10)..=minutes(60)),
                pong_timeout: r.duration("edge.pong_timeout", ms(10)..=minutes(60)),
                auth_timeout: r.duration("edge.auth_timeout", ms(10)..=minutes(10)),
                wait: r.duration("edge.wait", ms(0)..=minutes(1)),
                reconcile_interval: r.duration("edge.reconcile_interval", ms(10)..=minutes(60)),
                rights_interval: r.duration("edge.rights_interval", ms(10)..=minutes(60)),
            },
            socketio: SocketIo {
                ping_interval: ms(r.number(
                    "socketio.ping_interval_ms",
                    10..=3_600_000,
                    "milliseconds",
                )),
                ping_timeout: ms(r.number(
                    "socketio.ping_timeout_ms",
                    10..=3_600_000,
                    "milliseconds",
                )),
                max_payload: r.number("socketio.max_payload", 1024..=16 * MIB, "bytes"),
            },
            queue: Queue {
                url: r.server("queue.url", &["amqp", "amqps"], true),
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
            },
            database: Database {
                // Without a host: a socket's directory stands in the query (?host=/run/postgresql).
                url: r.server("database.url", &["postgres", "postgresql"], false),
                max_connections: r.number("database.max_connections", 1..=1000, ""),
                acquire_timeout: r.duration("database.acquire_timeout", ms(10)..=minutes(10)),
            },
            redis: Redis {
                url: r.server("redis.url", &["redis", "rediss"], true),
                recent_messages: r.number("redis.recent_messages", 1..=10_000, ""),
                recent_ttl: r.duration("redis.recent_ttl", ms(1000)..=days(30)),
                pool: r.number("redis.pool", 1..=1000, "connections"),
            },
            worker: Worker {
                jobs: job_kinds(&mut r),
                concurrency: r.number("worker.concurrency", 1..=64, ""),
                batch_messages: r.number("worker.batch_messages", 1..=100_000, ""),
                notify_concurrency: r.number("worker.notify_concurrency", 1..=1000, "jobs"),
                notify_prefetch: r.number("worker.notify_prefetch", 1..=10_000, "jobs"),
                deliver_prefetch: r.number("worker.deliver_prefetch", 1..=10_000, "jobs"),
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
            },
            notify: Notify {
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
                    on_ambiguous: r.text("notify.sms.on_ambiguous", "give_up, retry", |text| {
                        match text {
                            "give_up" => Ok(OnAmbiguous::GiveUp),
                            "retry" => Ok(OnAmbiguous::Retry),
                            _ => Err("is no policy".into()),
                        }
                    }),
                    per_second: r.number("notify.sms.per_second", 1..=100_000, ""),
                    countries: r.list(
                        "notify.sms.countries",
                        "beginnings of numbers such as +49 or +1",
                        number_prefix,
                    ),
                },
            },
            autoscale: Autoscale {
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
                api_url: r.server_or_none("autoscale.api_url", &["http", "https"]),
            },
            start: Start {
                timeout: r.duration("start.timeout", ms(0)..=minutes(60)),
            },
            rooms: Rooms {
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
            },
            auth: Auth {
                secret: r.secret("auth.secret", MIN_SECRET_BYTES, SECRET_ALLOWED),
                access_ttl: r.duration("auth.access_ttl", ms(1000)..=days(30)),
                refresh_ttl: r.duration("auth.refresh_ttl", ms(1000)..=days(3650)),
                hash_concurrency: r.number("auth.hash_concurrency", 1..=64, ""),
            },
            limits: Limits {
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
                address_requests_per_second: r.number(
                    "limits.address_requests_per_second",
                    1..=MANY,
                    "",
                ),
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
            },
            log: Log {
                filter: r.text(
                    "log.filter",
                    "levels as in \"info\" or \"warn,chat=debug\"",
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
                format: r.text("log.format", "text, json", |text| match text {
                    "text" => Ok(LogFormat::Text),
                    "json" => Ok(LogFormat::Json),
                    _ => Err("is no format".into()),
                }),
            },
            metrics: Metrics {
                port: r.number("metrics.port", 0..=65535, "0: none"),
                public: r.flag("metrics.public"),
            },
            shown: Vec::new(),
        };
        config.check(role, &mut r);
        if r.problems.is_empty() {
            Ok(Config {
                shown: r.shown,
                ..config
            })
        } else {
            Err(Problems(r.problems))
        }
    }

    /// What no value shows on its own.
    fn check(&self, role: Role, r: &mut Reader) {
        if self.worker.jobs.is_empty() {
            let allowed = WorkerRole::ALL.map(WorkerRole::as_str).join(", ");
            // A list that could not be read was complained about before.
            if r.shown.iter().any(|shown| shown.key == "worker.jobs") {
                r.refuse("worker.jobs", "names no kind of work", &allowed);
            }
        }
        if role == Role::Edge && self.auth.secret.is_empty() {
            r.refuse(
                "auth.secret",
                "is empty, but every edge needs it, and all the same one",
                SECRET_ALLOWED,
            );
        }
        // Someone who lowers the frame alone means just that: a body that does not fit is refused as a frame.
        let body_was_set = r.shown.iter().any(|shown| {
            shown.key == "edge.max_body_bytes" && !matches!(shown.source, Source::Default)
        });
        if body_was_set && self.edge.max_body_bytes > self.edge.max_frame_bytes / 2 {
            let allowed = format!(
                "at most {} here, or a larger edge.max_frame_bytes",
                self.edge.max_frame_bytes / 2
            );
            r.contradiction(
                "edge.max_body_bytes",
                "edge.max_frame_bytes",
                "is more than half of",
                &allowed,
            );
        }
        if self.worker.heartbeat_ttl < self.worker.heartbeat * 3 {
            let allowed =
                "at least three heartbeats, or a delayed one makes partitions change hands";
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
        if self.edge.proxy_protocol && self.edge.trusted_proxies.is_empty() && list_is_good {
            let allowed = "false, or the proxies' addresses in edge.trusted_proxies";
            let message = "is true, but no proxy is trusted: edge.trusted_proxies is empty";
            r.refuse("edge.proxy_protocol", message, allowed);
        }
        if self.edge.max_connections_per_address > self.edge.max_connections {
            let allowed = "at most edge.max_connections";
            r.contradiction(
                "edge.max_connections_per_address",
                "edge.max_connections",
                "is more than",
                allowed,
            );
        }
        self.check_notify(r);
        if self.notify.keep < self.notify.max_age {
            let allowed = "at least as long: a notification that is still tried is in the ledger";
            r.contradiction("notify.keep", "notify.max_age", "is less than", allowed);
        }
        if self.autoscale.min > self.autoscale.max {
            let allowed = "at most autoscale.max";
            r.contradiction("autoscale.min", "autoscale.max", "is more than", allowed);
        }
        let serves = matches!(role, Role::Edge | Role::Standalone);
        if serves && self.metrics.port != 0 && self.metrics.port == self.edge.port {
            let allowed = "0, or another port";
            r.contradiction("metrics.port", "edge.port", "is taken by", allowed);
        }
        if self.edge.allowed_origins.len() > 1
            && self.edge.allowed_origins.iter().any(|origin| origin == "*")
        {
            let message = "\"*\" admits every origin, so the others beside it say nothing";
            r.refuse(
                "edge.allowed_origins",
                message,
                "either * alone or exact origins",
            );
        }
    }

    /// A provider needs what it cannot work without.
    fn check_notify(&self, r: &mut Reader) {
        let (email, sms) = (&self.notify.email, &self.notify.sms);
        let needed = [
            (
                email.provider != EmailProvider::None && email.from.is_empty(),
                "notify.email.from",
                "an address of yours, such as \"Chat <chat@example.com>\"",
            ),
            (
                email.provider == EmailProvider::SendGrid && email.api_key.is_empty(),
                "notify.email.api_key",
                "an API key that may send mail; set SENDGRID_API_KEY",
            ),
            (
                sms.provider == SmsProvider::Twilio && sms.account_sid.is_empty(),
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

    /// Where the value of `key` (`"edge.port"`) came from; `None` if there is no such key.
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.shown
            .iter()
            .find(|shown| shown.key == key)
            .map(|shown| &shown.source)
    }

    /// The settings in effect as TOML, each with its source as a comment. Secrets are `"***"`, passwords in URLs `***`.
    pub fn effective(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for Shown { key, value, source } in &self.shown {
            let (table, name) = key.split_once('.').unwrap_or(("", key));
            if table != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                text += &format!("{gap}[{table}]\n");
                section = table;
            }
            let line = format!("{name} = {value}");
            text += &format!("{line:<48} # {source}\n");
        }
        text
    }
}

fn host(text: &str) -> Result<String, String> {
    let name_letters = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.chars().all(name_letters)) {
        Ok(text.to_owned())
    } else {
        Err("is neither an IP address nor a host name".into())
    }
}

fn public_url(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let url = split_url(text)?;
    match url.scheme {
        "http" | "https" if url.host.is_empty() => Err("has no host".into()),
        "http" | "https" if url.has_user || url.tail.contains(['?', '#']) => {
            Err("has more than a path".into())
        }
        "http" | "https" => Ok(Some(text.trim_end_matches('/').to_owned())),
        _ => Err("does not begin with http:// or https://".into()),
    }
}

/// An origin as a browser sends it (RFC 6454, section 6.2): anything else would never match.
fn origin(text: &str) -> Result<(), String> {
    if text == "*" {
        return Ok(());
    }
    let url = split_url(text)?;
    if url.host.is_empty() {
        Err("has no host".into())
    } else if url.has_user || !url.tail.is_empty() {
        Err("has more than scheme, host and port (a slash at the end counts)".into())
    } else if text.contains('*') {
        Err("has a *, which stands for every origin only when it is alone".into())
    } else if text.contains(|c: char| c.is_ascii_uppercase()) {
        Err("has a capital letter, which browsers never send".into())
    } else if matches!(
        (url.scheme, url.port),
        ("http", Some(80)) | ("https", Some(443))
    ) {
        Err("names the default port, which browsers leave out".into())
    } else {
        Ok(())
    }
}

fn name(text: &str) -> Result<String, String> {
    match text
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || "_.-".contains(*c)))
    {
        Some(c) => Err(format!("has {c:?} in it")),
        None if text.is_empty() => Err("is empty".into()),
        None if text.len() > 64 => Err(format!("has {} characters", text.len())),
        None => Ok(text.to_owned()),
    }
}

fn base_url(text: &str) -> Result<String, String> {
    public_url(text)?.ok_or_else(|| "is empty".into())
}

fn sender(text: &str) -> Result<String, String> {
    let parsed = text.parse::<lettre::message::Mailbox>();
    match parsed {
        _ if text.is_empty() => Ok(String::new()),
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("is not an e-mail address".into()),
    }
}

/// `+` and 1 to 15 digits, none of them leading zeros (E.164).
fn number_prefix(text: &str) -> Result<(), String> {
    let good = text.strip_prefix('+').is_some_and(|digits| {
        (1..=15).contains(&digits.len())
            && !digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    match good {
        true => Ok(()),
        false => Err("does not begin a number in international form".into()),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("is no filter: {error}")),
    }
}
