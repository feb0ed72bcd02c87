//! A deployment for one test: standalone, or edges and workers with their own database, queue prefix and directory. It
//! is removed when the test ends; if the test fails, the logs of its processes are printed.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use super::{
    process::{Process, Program},
    rest::{Rest, RestResponse},
    server,
    socket::{Dial, Socket},
};

/// The key that signs every deployment's tokens.
pub const SECRET: &str = "only for tests: at least thirty-two bytes";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One process with SQLite.
    Standalone,
    /// Two edges and two workers with RabbitMQ, PostgreSQL and Redis.
    Cluster,
}

/// The configuration of a deployment that is not started yet.
pub struct Plan {
    kind: Kind,
    edges: usize,
    workers: usize,
    settings: Vec<(String, String)>,
    lines: Vec<(&'static str, SocketAddr)>,
}

pub struct Chat {
    pub kind: Kind,
    /// The edges. In standalone mode, the only process.
    pub edges: Vec<Process>,
    /// Empty in standalone mode: the only process is `edges[0]`.
    pub workers: Vec<Process>,
    pub http: reqwest::Client,
    dir: Directory,
    env: Vec<(String, String)>,
    // Dropped after the processes that use it.
    database: Option<Database>,
}

/// A registered user and their credentials.
#[derive(Debug, Clone)]
pub struct User {
    pub id: Uuid,
    pub username: String,
    pub password: String,
    pub access: String,
    pub refresh: String,
}

impl Plan {
    pub fn edges(mut self, edges: usize) -> Self {
        self.edges = edges;
        self
    }

    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// `set("edge.wait", "0s")`.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.push(setting(key, value));
        self
    }

    /// Replaces the address in `DATABASE_URL`, `AMQP_URL` or `REDIS_URL`, in order to connect through a proxy.
    pub fn via(mut self, variable: &'static str, address: SocketAddr) -> Self {
        self.lines.push((variable, address));
        self
    }

    /// Replaces a server's URL: `address("REDIS_URL", ...)`.
    pub fn address(mut self, variable: &str, url: String) -> Self {
        self.settings.push((variable.to_owned(), url));
        self
    }

    pub async fn start(self) -> Chat {
        let dir = Directory::new();
        let mut env = vec![
            setting("edge.port", 0),
            setting("edge.drain", "100ms"),
            // Long, because the machine may be busy; a response that never comes still fails the test.
            setting("edge.wait", "20s"),
            setting("auth.secret", SECRET),
            // All clients have the same address, and only password hashing should slow them down.
            setting("limits.logins_per_minute", 100_000),
            setting("limits.registrations_per_minute", 100_000),
        ];
        let mut database = None;
        if self.kind == Kind::Cluster {
            let made = Database::create().await;
            env.extend([
                ("DATABASE_URL".to_owned(), made.url.clone()),
                ("AMQP_URL".to_owned(), server("AMQP_URL")),
                ("REDIS_URL".to_owned(), server("REDIS_URL")),
                setting("queue.prefix", &made.name),
                // Declaring a quorum queue is slow, and four partitions are enough for the workers.
                setting("queue.partitions", 4),
                // All tests together must stay below the server's connection limit.
                setting("database.max_connections", 4),
            ]);
            database = Some(made);
        }
        for (variable, address) in self.lines {
            for (_, url) in env.iter_mut().filter(|(name, _)| name == variable) {
                *url = url.replacen(&authority(url), &address.to_string(), 1);
            }
        }
        env.extend(self.settings);
        let mut chat = Chat {
            kind: self.kind,
            edges: Vec::new(),
            workers: Vec::new(),
            http: http_client(),
            dir,
            env,
            database,
        };
        match self.kind {
            Kind::Standalone => {
                let data = chat.dir().join("data");
                let args = ["standalone", "--data", &data.to_string_lossy()];
                let process = chat.program("standalone", &args).start().await;
                chat.edges.push(process);
            }
            Kind::Cluster => {
                let migrated = chat.program("migrate", &["migrate"]).run().await;
                assert_eq!(migrated.code, Some(0), "chat migrate: {}", migrated.stderr);
                let programs = |role: &str, count| -> Vec<Program> {
                    (0..count)
                        .map(|i| chat.program(&format!("{role} {i}"), &[role]))
                        .collect()
                };
                let (edges, workers) = (
                    programs("edge", self.edges),
                    programs("worker", self.workers),
                );
                let (edges, workers) = tokio::join!(start_all(&edges), start_all(&workers));
                (chat.edges, chat.workers) = (edges, workers);
            }
        }
        chat
    }
}

async fn start_all(programs: &[Program]) -> Vec<Process> {
    futures_util::future::join_all(programs.iter().map(Program::start)).await
}

impl Chat {
    /// Two edges and two workers, or one process in standalone mode.
    pub fn plan(kind: Kind) -> Plan {
        Plan {
            kind,
            edges: 2,
            workers: 2,
            settings: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// Starts a deployment with default settings.
    pub async fn start(kind: Kind) -> Chat {
        Chat::plan(kind).start().await
    }

    /// The deployment's directory.
    pub fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// The prefix of its queues' names; cluster only.
    pub fn prefix(&self) -> &str {
        &self.database.as_ref().expect("a cluster").name
    }

    /// The URL of its database; cluster only.
    pub fn database_url(&self) -> &str {
        &self.database.as_ref().expect("a cluster").url
    }

    /// A further process with the deployment's settings: `chat.program("queue", &["queue", "--json"])`.
    pub fn program(&self, name: &str, args: &[&str]) -> Program {
        Program {
            name: name.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: self.env.clone(),
            dir: self.dir().to_owned(),
            binary: None,
        }
    }

    /// As [`Chat::program`], with other values of some variables.
    pub fn program_with(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Program {
        let mut program = self.program(name, args);
        let env = env
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        program.env.extend(env);
        program
    }

    /// The value of a setting that the test has set.
    pub fn setting(&self, key: &str) -> &str {
        let (name, _) = setting(key, "");
        let found = self.env.iter().rev().find(|(key, _)| *key == name);
        &found.expect("the setting is set").1
    }

    /// Starts one more worker; cluster only.
    pub async fn add_worker(&mut self) -> usize {
        let name = format!("worker {}", self.workers.len());
        let process = self.program(&name, &["worker"]).start().await;
        self.workers.push(process);
        self.workers.len() - 1
    }

    /// Starts edge `i`, or the standalone process, again with other settings.
    pub async fn restart_edge_with(&mut self, i: usize, settings: &[(&str, &str)]) {
        let mut program = self.edge(i).program().clone();
        for (key, value) in settings {
            let (name, value) = setting(key, value);
            program.env.retain(|(known, _)| *known != name);
            program.env.push((name, value));
        }
        let edge = self.edge_mut(i);
        edge.sigterm();
        edge.ended().await;
        *edge = program.start().await;
    }

    /// Edge `i`, modulo the number of edges.
    pub fn edge(&self, i: usize) -> &Process {
        &self.edges[i % self.edges.len()]
    }

    pub fn edge_mut(&mut self, i: usize) -> &mut Process {
        let i = i % self.edges.len();
        &mut self.edges[i]
    }

    /// Worker `i`, modulo the number of workers; in standalone mode, the only process.
    pub fn worker_mut(&mut self, i: usize) -> &mut Process {
        if self.workers.is_empty() {
            return &mut self.edges[0];
        }
        let i = i % self.workers.len();
        &mut self.workers[i]
    }

    // ---- clients

    /// REST on edge `i`, without credentials.
    pub fn rest(&self, i: usize) -> Rest {
        Rest::new(self.http.clone(), self.edge(i).url())
    }

    /// REST on edge `i` as `user`.
    pub fn rest_as(&self, i: usize, user: &User) -> Rest {
        self.rest(i).with_token(&user.access)
    }

    /// A socket on edge `i`, without credentials unless they are added.
    pub fn dial(&self, i: usize) -> Dial {
        Dial::new(self.edge(i).url())
    }

    /// Opens a socket on edge `i` as `user` and waits for `connected`.
    pub async fn connect(&self, i: usize, user: &User) -> Socket {
        let mut socket = self
            .dial(i)
            .bearer(&user.access)
            .connect()
            .await
            .expect("the handshake succeeds");
        socket.event("connected").await;
        socket
    }

    /// Registers an account. `name` is its user name and, with a capital letter, its display name.
    pub async fn register(&self, name: &str) -> User {
        let password = format!("the password of {name}");
        let body =
            json!({"username": name, "password": password, "displayName": display_name(name)});
        let answer = self.rest(0).post("/v1/auth/register", body).await;
        User::read(&password, answer)
    }

    /// Creates a room of `owner`.
    pub async fn room(&self, owner: &User, kind: &str, members: &[&User]) -> Uuid {
        let members: Vec<Uuid> = members.iter().map(|user| user.id).collect();
        let mut body = json!({"kind": kind, "members": members});
        if kind != "direct" {
            body["name"] = format!("a {kind} room").into();
        }
        let room = self.rest_as(0, owner).post("/v1/rooms", body).await.ok(201);
        uuid(&room["id"])
    }
}

impl User {
    /// Reads the user from the response to a registration.
    pub fn read(password: &str, answer: RestResponse) -> User {
        let body = answer.ok(201);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        User {
            id: uuid(&body["user"]["id"]),
            username: text(&body["user"]["username"]),
            password: password.to_owned(),
            access: text(&body["accessToken"]),
            refresh: text(&body["refreshToken"]),
        }
    }
}

/// `ada` is displayed as Ada.
pub fn display_name(name: &str) -> String {
    let mut chars = name.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

#[track_caller]
pub fn uuid(value: &Value) -> Uuid {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("not a UUID: {value}"))
}

impl Drop for Chat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.edges.iter().chain(&self.workers) {
                eprintln!("---- {} logged:\n{}", process.name(), process.tail());
            }
            if let Some(database) = &self.database {
                database.explain();
            }
        }
    }
}

/// The `host:port` of a URL.
pub fn authority(url: &str) -> String {
    let (_, rest) = url.split_once("://").expect("a URL");
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (_, host) = rest[..end].rsplit_once('@').unwrap_or(("", &rest[..end]));
    host.to_owned()
}

fn setting(key: &str, value: impl ToString) -> (String, String) {
    let name = format!("CHAT__{}", key.replace('.', "__").to_uppercase());
    (name, value.to_string())
}

fn http_client() -> reqwest::Client {
    // reqwest requires a TLS provider even for plain http. Fails from the second test on, which is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(super::DEADLINE)
        .no_proxy()
        .build()
        .expect("a client can be made")
}

/// A directory that is deleted with the test, unless the test fails.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("chat-test-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).expect("a temporary directory can be made");
        Directory(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the deployment's files are in {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A directory and settings without a deployment, for processes that are expected to fail at start.
pub struct Nowhere(Directory);

impl Nowhere {
    pub fn new() -> Self {
        Nowhere(Directory::new())
    }

    pub fn dir(&self) -> &Path {
        &self.0.0
    }

    pub fn program(&self, args: &[&str], env: &[(&str, &str)]) -> Program {
        Program {
            name: args[0].to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: env
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            dir: self.dir().to_owned(),
            binary: None,
        }
    }
}

/// A database whose name is also the queue prefix. The database and the queues are deleted when it is dropped.
pub struct Database {
    pub name: String,
    pub url: String,
    admin: String,
}

impl Database {
    pub async fn create() -> Self {
        let admin = server("DATABASE_URL");
        let name = format!("chat_test_{}", Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&admin).await.unwrap_or_else(|error| {
            panic!("DATABASE_URL: {error}; scripts/services up starts the servers")
        });
        connection
            .execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .await
            .expect("a database can be made");
        let (server, query) = match admin.split_once('?') {
            Some((server, query)) => (server, format!("?{query}")),
            None => (admin.as_str(), String::new()),
        };
        let (server, _) = server
            .rsplit_once('/')
            .expect("DATABASE_URL names a database");
        Database {
            url: format!("{server}/{name}{query}"),
            name,
            admin,
        }
    }

    /// Prints what PostgreSQL and RabbitMQ are doing for this deployment.
    fn explain(&self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        let explaining = async move {
            if let Ok(mut connection) = PgConnection::connect(&url).await {
                const SQL: &str = "SELECT concat_ws(' ', pid, state, wait_event_type, wait_event, \
                     now() - query_start, left(query, 60)) FROM pg_stat_activity \
                     WHERE datname = current_database()";
                let rows = sqlx::query_scalar::<_, String>(SQL);
                let rows = rows.fetch_all(&mut connection).await.unwrap_or_default();
                eprintln!("---- PostgreSQL: {rows:#?}");
            }
            let Ok(api) = std::env::var("RABBITMQ_API_URL") else {
                return;
            };
            let columns = "name,messages_ready,messages_unacknowledged,consumers";
            let url = format!("{api}/queues/%2f?columns={columns}");
            if let Ok(answer) = http_client().get(url).send().await {
                let text = answer.text().await.unwrap_or_default();
                let queues = serde_json::from_str::<Vec<Value>>(&text).unwrap_or_default();
                let ours = queues.iter().filter(|queue| {
                    let queue = queue["name"].as_str().unwrap_or_default();
                    queue.starts_with(&format!("{name}.p."))
                });
                ours.for_each(|queue| eprintln!("---- RabbitMQ: {queue}"));
            }
        };
        // A separate runtime, because the test's own may be shutting down.
        let explaining = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                let _ = runtime
                    .block_on(async { tokio::time::timeout(super::DEADLINE, explaining).await });
            }
        });
        let _ = explaining.join();
    }

    async fn remove(admin: String, name: String) {
        if let Ok(mut connection) = PgConnection::connect(&admin).await {
            let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            let _ = connection.execute(AssertSqlSafe(drop)).await;
        }
        // Without the management API the queues stay until the broker's data is wiped.
        let Ok(api) = std::env::var("RABBITMQ_API_URL") else {
            return;
        };
        let http = http_client();
        let listed = async {
            let url = format!("{api}/queues/%2f?columns=name&disable_stats=true");
            let answer = http.get(url).send().await.ok()?;
            serde_json::from_slice::<Vec<Value>>(&answer.bytes().await.ok()?).ok()
        };
        for queue in listed.await.unwrap_or_default() {
            if let Some(queue) = queue["name"]
                .as_str()
                // Delay queues are deleted by `scripts/test`: see the contract's `delete_queues`.
                .filter(|queue| queue.starts_with(&name) && !queue.contains(".delay."))
            {
                let _ = http
                    .delete(format!("{api}/queues/%2f/{queue}"))
                    .send()
                    .await;
            }
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin, name) = (self.admin.clone(), self.name.clone());
        // A separate runtime, because the test's own may be shutting down.
        let removing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                runtime.block_on(Database::remove(admin, name));
            }
        });
        let _ = removing.join();
    }
}
