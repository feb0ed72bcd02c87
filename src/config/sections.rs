//! A struct for each section of `config.toml`, its values checked and ready to use.
//! What a key means stands in `config.toml`; here stand units and limits.

use std::time::Duration;

use ipnet::IpNet;
use tracing::level_filters::LevelFilter;

use super::secret::{Secret, SecretUrl};
use crate::templates::Templates;

/// `[edge]`
#[derive(Clone, Debug)]
pub struct Edge {
    /// Where to listen: an IP address (IPv6 without brackets) or a host name.
    pub host: String,
    /// 0 picks a free one.
    pub port: u16,
    /// `http(s)://host[:port][/path]` without a slash at its end; what clients use if not host and port.
    pub public_url: Option<String>,
    /// Exact origins in lower case, or the single entry `*`. The server's own origin is allowed besides.
    pub allowed_origins: Vec<String>,
    /// Bytes of one inbound frame.
    pub max_frame_bytes: usize,
    /// Bytes of UTF-8 of one message body; at most half of `max_frame_bytes`.
    pub max_body_bytes: usize,
    /// Bytes that may wait for one socket before it is closed with 4008.
    pub send_queue_bytes: usize,
    /// Connections open at once.
    pub max_connections: usize,
    /// Connections open at once from one address; 0: half of `max_connections`, loopback excepted.
    pub max_connections_per_address: usize,
    /// From connect, or from a head's first byte, to the head's end.
    pub request_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// The time over which the reader of an HTTP answer must take 1 KiB a second, and that of a socket a byte.
    pub write_timeout: Duration,
    /// Peers whose word on the client's address counts.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they say it.
    pub forwarded: ForwardedHeader,
    /// Connections from `trusted_proxies` begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// The pages that are shown.
    pub pages: Vec<Page>,
    /// Sockets of one user on this edge at once.
    pub max_sockets_per_user: u32,
    /// Connections at once that have not authenticated; at most half of `max_connections` is used.
    pub max_unauthenticated: usize,
    /// Those of one address.
    pub max_unauthenticated_per_address: usize,
    /// Handshakes without credentials of one address, per second.
    pub handshakes_per_second: u32,
    /// Over how long the goodbye is spread; may be zero.
    pub drain: Duration,
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
    /// `/`: a page to talk with.
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
    pub url: SecretUrl,
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
    pub url: SecretUrl,
    /// Connections of this process.
    pub max_connections: u32,
    /// Wait for a free connection.
    pub acquire_timeout: Duration,
}

/// `[redis]`
#[derive(Clone, Debug)]
pub struct Redis {
    /// `redis://` or `rediss://`.
    pub url: SecretUrl,
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
    /// What it does; never empty.
    pub jobs: Vec<WorkerRole>,
    /// Batches stored at the same time.
    pub concurrency: usize,
    /// Commands in one transaction.
    pub batch_messages: usize,
    /// Jobs of `notify` at once.
    pub notify_concurrency: u16,
    /// Jobs of `notify` in its hands.
    pub notify_prefetch: u16,
    /// Deliveries in its hands, for each channel.
    pub deliver_prefetch: u16,
    /// Between two clearings of what expired, all workers together.
    pub maintenance_interval: Duration,
    /// Between two signs of life.
    pub heartbeat: Duration,
    /// After which silence a worker counts as gone; at least three heartbeats.
    pub heartbeat_ttl: Duration,
    /// Name among the workers; `None`: make one up.
    pub id: Option<String>,
}

impl Worker {
    pub fn does(&self, kind: WorkerRole) -> bool {
        self.jobs.contains(&kind)
    }
}

/// A kind of work: an item of `worker.jobs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerRole {
    /// Storing what edges accepted.
    Messages,
    /// Whom stored messages concern.
    Notify,
    /// E-mails and text messages.
    Deliver,
    /// What expired.
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
    /// From stored to looked at.
    pub delay: Duration,
    /// From the first message of a digest to its sending.
    pub digest_window: Duration,
    /// Silence after which a connected member counts as away.
    pub away_after: Duration,
    /// Requests for one delivery.
    pub max_attempts: usize,
    /// Age of a delivery that is not tried again.
    pub max_age: Duration,
    /// Requests at once for each channel, all workers together; without the bus, for each worker.
    pub concurrency: u16,
    /// Age of the ledger's oldest rows.
    pub keep: Duration,
    /// From request to answer.
    pub timeout: Duration,
    /// After a first failure.
    pub retry_initial: Duration,
    /// After refused credentials.
    pub pause: Duration,
    /// What notifications say.
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
    /// Between two looks at the queue.
    pub interval: Duration,
    /// Between two looks while no worker runs.
    pub idle_interval: Duration,
    /// From asking a worker to finish to killing it.
    pub grace: Duration,
    /// Messages that may wait for each worker.
    pub messages_per_worker: u64,
    /// Messages a second each worker is trusted with.
    pub messages_per_second: u32,
    /// Jobs that may wait for each worker.
    pub jobs_per_worker: u64,
    /// A message's wait that calls for another worker.
    pub target_age: Duration,
    /// Quiet that lets workers go.
    pub cooldown: Duration,
    /// Workers started in one step.
    pub step: u32,
    /// RabbitMQ's management API; may hold a password.
    pub api_url: Option<SecretUrl>,
}

/// `[start]`
#[derive(Clone, Debug)]
pub struct Start {
    /// How long to try to reach the servers; zero: once.
    pub timeout: Duration,
}

/// `[auth]`
#[derive(Clone, Debug)]
pub struct Auth {
    /// At least 32 bytes, or empty except for [`Role::Edge`](super::Role::Edge).
    pub secret: Secret,
    /// Life of an access token.
    pub access_ttl: Duration,
    /// Life of an unused session.
    pub refresh_ttl: Duration,
    /// Passwords hashed at once.
    pub hash_concurrency: usize,
}

/// `[rooms]`
#[derive(Clone, Debug)]
pub struct Rooms {
    /// The same on all nodes.
    pub add_members: AddMembers,
}

/// `rooms.add_members`: who may make another user a member of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddMembers {
    /// Anyone with an account.
    #[default]
    Anyone,
    /// Those who are members of a room that the other is in, too.
    SharedRooms,
    /// Nobody without the other's consent.
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
    /// What `tracing_subscriber::EnvFilter` understands.
    pub filter: String,
    /// The most verbose level of everything that is not this program's own code, whatever the filter says.
    pub dependencies: LevelFilter,
    /// For people or for collectors.
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
    /// An edge's own port serves them to everyone.
    pub public: bool,
}
