//! A struct for each section of `config.toml`, with checked values. `config.toml` documents the meaning of each key;
//! the fields here document units and limits.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tracing::level_filters::LevelFilter;

use super::secret::{Secret, SecretUrl, SecretUrls, Secrets};
use crate::templates::Templates;

/// `[edge]`
#[derive(Clone, Debug)]
pub struct Edge {
    /// The address to listen on: an IP address (IPv6 without brackets) or a host name.
    pub host: String,
    /// 0 picks a free one.
    pub port: u16,
    /// `http(s)://host[:port][/path]` without a slash at its end; the address for clients if it is not `host` and
    /// `port`.
    pub public_url: Option<String>,
    /// Exact origins in lower case, or the single entry `*`. The server's own origin is allowed besides.
    pub allowed_origins: Vec<String>,
    /// Bytes of one inbound frame.
    pub max_frame_bytes: usize,
    /// Bytes of UTF-8 of one message body; at most half of `max_frame_bytes`.
    pub max_body_bytes: usize,
    /// Bytes queued for one socket before it is closed with 4008.
    pub send_queue_bytes: usize,
    /// Connections open at once.
    pub max_connections: usize,
    /// Connections open at once from one address; 0: half of `max_connections`, loopback excepted.
    pub max_connections_per_address: usize,
    /// From connect, or from a head's first byte, to the head's end.
    pub request_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// The period in which the reader of an HTTP response must read 1 KiB per second, and the reader of a socket one
    /// byte.
    pub write_timeout: Duration,
    /// Peers from which the client's address is read.
    pub trusted_proxies: Vec<IpNet>,
    /// The header from which it is read.
    pub forwarded: ForwardedHeader,
    /// Connections from `trusted_proxies` begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// `[edge.tls]`
    pub tls: EdgeTls,
    /// The enabled pages.
    pub pages: Vec<Page>,
    /// Sockets of one user on this edge at once.
    pub max_sockets_per_user: u32,
    /// Connections at once that have not authenticated; at most half of `max_connections` is used.
    pub max_unauthenticated: usize,
    /// Those of one address.
    pub max_unauthenticated_per_address: usize,
    /// Handshakes without credentials of one address, per second.
    pub handshakes_per_second: u32,
    /// Over how long the closing of sockets is spread; may be zero.
    pub drain: Duration,
    /// From the signal to stop until no more connections are accepted; may be zero.
    pub drain_delay: Duration,
    /// Between two pings on an idle WebSocket.
    pub ping_interval: Duration,
    /// From ping to pong.
    pub pong_timeout: Duration,
    /// From connect to authenticated.
    pub auth_timeout: Duration,
    /// How long a REST write waits for its worker; may be zero.
    pub wait: Duration,
    /// Between two comparisons of the rooms' heads.
    pub reconcile_interval: Duration,
    /// Between two comparisons of the sockets' logins and memberships.
    pub rights_interval: Duration,
}

/// `[edge.tls]`
#[derive(Clone, Debug)]
pub struct EdgeTls {
    /// A PEM file; empty, as is `key` then: plain connections.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Between two checks whether the files have changed.
    pub reload_interval: Duration,
    /// `Strict-Transport-Security`'s `max-age`; zero: no such header.
    pub hsts: Duration,
}

impl EdgeTls {
    /// Whether the edge's port speaks TLS.
    pub fn is_on(&self) -> bool {
        !self.cert.as_os_str().is_empty()
    }
}

/// `edge.forwarded`: the header that proxies set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// A page for browsers: an item of `edge.pages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `/`: a chat page.
    Chat,
    /// `/api` and `/api/openapi.json`.
    Api,
}

impl Page {
    /// Each page with its name.
    pub const ALL: [(Page, &str); 2] = [(Page::Chat, "chat"), (Page::Api, "api")];
}

/// `[socketio]`
#[derive(Clone, Debug)]
pub struct SocketIo {
    /// `ping_interval_ms`, whole milliseconds.
    pub ping_interval: Duration,
    /// `ping_timeout_ms`, whole milliseconds.
    pub ping_timeout: Duration,
    /// Bytes of one packet.
    pub max_payload: usize,
}

/// `[queue]`
#[derive(Clone, Debug)]
pub struct Queue {
    /// `amqp://` or `amqps://`.
    pub url: SecretUrls,
    /// Begins every queue's, key's and channel's name; 1 to 64 of `a-z 0-9 _ . -`.
    pub prefix: String,
    /// 1..=256, the same on all nodes.
    pub partitions: u16,
    /// Messages accepted and not yet stored, beyond which sends are `busy`.
    pub max_backlog: u64,
    /// Commands in one batch, 1..=10000.
    pub batch_messages: usize,
    /// Bytes in one batch; a larger command travels alone.
    pub batch_bytes: usize,
    /// From publish to confirm.
    pub confirm_timeout: Duration,
    /// Unacknowledged batches for each partition.
    pub prefetch: u16,
}

/// `[database]`
#[derive(Clone, Debug)]
pub struct Database {
    /// `postgres://` or `postgresql://`.
    pub url: SecretUrls,
    /// Replicas for reads of older data.
    pub read_url: Option<SecretUrls>,
    /// Connections of this process.
    pub max_connections: u32,
    /// Wait for a free connection.
    pub acquire_timeout: Duration,
    /// Whether statements are prepared under a name.
    pub prepared_statements: PreparedStatements,
}

/// `database.prepared_statements`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreparedStatements {
    /// Unless a connection pooler is detected.
    Auto,
    On,
    Off,
}

/// `[redis]`
#[derive(Clone, Debug)]
pub struct Redis {
    /// `redis://` or `rediss://`.
    pub url: SecretUrl,
    /// `host:port`, `redis://` or `rediss://`; empty without Sentinels.
    pub sentinels: Vec<SecretUrl>,
    /// The name under which the Sentinels watch the master; empty without Sentinels.
    pub master: String,
    /// Of Sentinels whose addresses have none.
    pub sentinel_password: Secret,
    /// Events kept for each room.
    pub recent_messages: usize,
    /// How long after the room's last event.
    pub recent_ttl: Duration,
    /// Connections of this process, besides the subscribing one.
    pub pool: usize,
}

/// `[worker]`
#[derive(Clone, Debug)]
pub struct Worker {
    /// Its roles; never empty.
    pub jobs: Vec<WorkerRole>,
    /// Batches stored at the same time.
    pub concurrency: usize,
    /// Commands in one transaction.
    pub batch_messages: usize,
    /// Tasks of `notify` at once.
    pub notify_concurrency: u16,
    /// Prefetched tasks of `notify`.
    pub notify_prefetch: u16,
    /// Prefetched deliveries, for each channel.
    pub deliver_prefetch: u16,
    /// Interval of deleting expired rows, all workers together.
    pub maintenance_interval: Duration,
    /// Interval of heartbeats.
    pub heartbeat: Duration,
    /// Time to live of a heartbeat; at least three heartbeats.
    pub heartbeat_ttl: Duration,
    /// Name of the worker, from which its id is derived; `None`: a random id.
    pub id: Option<String>,
}

impl Worker {
    pub fn does(&self, role: WorkerRole) -> bool {
        self.jobs.contains(&role)
    }
}

/// A role of a worker: an item of `worker.jobs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerRole {
    /// Stores the commands that edges accepted.
    Messages,
    /// Evaluates the recipients of stored messages.
    Notify,
    /// Sends e-mails and text messages.
    Deliver,
    /// Deletes expired rows.
    Maintenance,
}

impl WorkerRole {
    pub const ALL: [WorkerRole; 4] = [
        WorkerRole::Messages,
        WorkerRole::Notify,
        WorkerRole::Deliver,
        WorkerRole::Maintenance,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            WorkerRole::Messages => "messages",
            WorkerRole::Notify => "notify",
            WorkerRole::Deliver => "deliver",
            WorkerRole::Maintenance => "maintenance",
        }
    }

    pub fn parse(text: &str) -> Option<WorkerRole> {
        WorkerRole::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// `[notify]`
#[derive(Clone, Debug)]
pub struct Notify {
    /// From storing a message to evaluating its recipients.
    pub delay: Duration,
    /// From the first message of a digest to its sending.
    pub digest_window: Duration,
    /// Silence after which a connected member counts as away.
    pub away_after: Duration,
    /// Attempts at one delivery.
    pub max_attempts: usize,
    /// Age from which a delivery is not retried.
    pub max_age: Duration,
    /// Requests at once for each channel, all workers together; without the bus, for each worker.
    pub concurrency: u16,
    /// How long rows of the delivery log are kept.
    pub keep: Duration,
    /// From request to answer.
    pub timeout: Duration,
    /// Pause after the first failure.
    pub retry_initial: Duration,
    /// Pause of a channel after refused credentials.
    pub pause: Duration,
    /// Texts of notifications.
    pub templates: Templates,
    /// `[notify.email]`
    pub email: Email,
    /// `[notify.sms]`
    pub sms: Sms,
}

impl Notify {
    /// Whether anything can be sent at all.
    pub fn enabled(&self) -> bool {
        self.email.provider != EmailProvider::None || self.sms.provider != SmsProvider::None
    }
}

/// `[notify.email]`
#[derive(Clone, Debug)]
pub struct Email {
    pub provider: EmailProvider,
    /// An address, with or without a name; set where there is a provider.
    pub from: String,
    /// `http(s)://host`, without a slash at its end.
    pub base_url: String,
    pub api_key: Secret,
    pub sandbox: bool,
    /// Base64 of a DER public key; empty: none.
    pub webhook_key: String,
    /// `smtp://` or `smtps://`.
    pub smtp_url: SecretUrl,
    /// All workers together.
    pub per_second: u32,
}

/// `notify.email.provider`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailProvider {
    None,
    SendGrid,
    Smtp,
    Log,
}

/// `[notify.sms]`
#[derive(Clone, Debug)]
pub struct Sms {
    pub provider: SmsProvider,
    /// A number or a messaging service.
    pub from: String,
    /// `http(s)://host`, without a slash at its end.
    pub base_url: String,
    pub account_sid: String,
    pub auth_token: Secret,
    /// Whole seconds.
    pub validity: Duration,
    pub on_ambiguous: OnAmbiguous,
    /// All workers together.
    pub per_second: u32,
    /// The beginnings of numbers that text messages go to, such as `+49`; empty: all but those that cost more.
    pub countries: Vec<String>,
    /// Most segments of one text message.
    pub segments: usize,
}

/// `notify.sms.provider`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmsProvider {
    None,
    Twilio,
    Log,
}

/// `notify.sms.on_ambiguous`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAmbiguous {
    /// At most once.
    GiveUp,
    /// At least once.
    Retry,
}

/// `[autoscale]`
#[derive(Clone, Debug)]
pub struct Autoscale {
    /// Workers that always run.
    pub min: u32,
    /// Most workers; at least `min`.
    pub max: u32,
    /// Interval of decisions.
    pub interval: Duration,
    /// Interval of decisions while no worker runs.
    pub idle_interval: Duration,
    /// From asking a worker to stop to killing it.
    pub grace: Duration,
    /// Messages that may wait for each worker.
    pub messages_per_worker: u64,
    /// Messages per second that a worker is assumed to store.
    pub messages_per_second: u32,
    /// Tasks that may wait for each worker.
    pub jobs_per_worker: u64,
    /// Age of a waiting message from which another worker is started.
    pub target_age: Duration,
    /// How long fewer workers must suffice before some are stopped.
    pub cooldown: Duration,
    /// Workers started in one step.
    pub step: u32,
    /// RabbitMQ's management API; may hold a password.
    pub api_url: Option<SecretUrls>,
}

/// `[start]`
#[derive(Clone, Debug)]
pub struct Start {
    /// How long the start retries to reach the servers; zero: one attempt.
    pub timeout: Duration,
}

/// `[auth]`
#[derive(Clone, Debug)]
pub struct Auth {
    /// At least 32 bytes each; the first one signs, all verify. Empty only for roles other than
    /// [`Role::Edge`](super::Role::Edge).
    pub secret: Secrets,
    pub registration: Registration,
    /// The page that resets passwords; the token is appended.
    pub reset_url: Option<String>,
    /// Life of an access token.
    pub access_ttl: Duration,
    /// Life of an unused session.
    pub refresh_ttl: Duration,
    /// Passwords hashed at once.
    pub hash_concurrency: usize,
}

/// `auth.registration`: whether users can create accounts by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registration {
    #[default]
    Open,
    Closed,
}

/// `[rooms]`
#[derive(Clone, Debug)]
pub struct Rooms {
    /// The same on all nodes.
    pub add_members: AddMembers,
}

/// `rooms.add_members`: the users who may make another user a member of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddMembers {
    /// All users.
    #[default]
    Anyone,
    /// Members of a room that the other user is in, too.
    SharedRooms,
    /// Only with the other user's consent.
    Invitation,
}

/// `[limits]`
#[derive(Clone, Debug)]
pub struct Limits {
    /// Commands a second for each user, on average.
    pub messages_per_second: u32,
    /// Commands at once for each user.
    pub burst: u32,
    /// Read units a second for each user, on average; at least `messages_per_second` counts.
    pub reads_per_second: u32,
    /// Read units at once for each user; at least `burst` counts.
    pub read_burst: u32,
    /// Wrong passwords for each pair of user name and address.
    pub logins_per_minute: u32,
    /// Wrong passwords for each address; at least `logins_per_minute` counts.
    pub failed_logins_per_address_per_minute: u32,
    /// For each address.
    pub registrations_per_minute: u32,
    /// Requests without a login for each address, on average.
    pub address_requests_per_second: u32,
    /// Requests without a login for each address at once.
    pub address_burst: u32,
    /// Verification codes to one e-mail address or number.
    pub codes_per_recipient_per_hour: u32,
    /// Verification codes to one e-mail address or number.
    pub codes_per_recipient_per_day: u32,
    /// Verification codes asked for from one address.
    pub codes_per_address_per_hour: u32,
    /// Verification codes by text message, all users together.
    pub sms_codes_per_minute: u32,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// A filter of `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// The most verbose level of libraries, regardless of the filter.
    pub dependencies: LevelFilter,
    /// The share of successful requests and of sockets that get a line at `info`, 0 to 1.
    pub requests: f64,
    /// Format of the lines.
    pub format: LogFormat,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[metrics]`
#[derive(Clone, Debug)]
pub struct Metrics {
    /// 0: none.
    pub port: u16,
    /// An edge's own port serves them to all clients.
    pub public: bool,
}
