//! PostgreSQL: a primary and a standby with synchronous replication, so that a promotion loses no committed
//! transaction.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{
    server::{Account, Launch, Server, find},
    until_ready,
};
use crate::{harness::deployment::Directory, support::free_ports};

/// Database and role of the product.
const CHAT: &str = "chat";
const NODES: u16 = 2;

/// The superuser connects over TCP too: the directories of sockets have a limit of 107 bytes.
const ACCESS: &str = "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";

/// How a primary ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT: closes all connections and writes a checkpoint.
    Fast,
    /// SIGQUIT: as a crash.
    Immediate,
}

pub struct Postgres {
    nodes: Vec<Node>,
    primary: usize,
    account: Account,
    programs: PathBuf,
    // Dropped after the servers.
    _dir: Directory,
}

struct Node {
    port: u16,
    launch: Launch,
    server: Option<Server>,
}

impl Node {
    fn data(&self) -> PathBuf {
        self.launch.dir.join("data")
    }
}

impl Postgres {
    /// Node 0 is the primary. Takes about five seconds.
    pub async fn start() -> Postgres {
        let dir = Directory::new();
        let account = Account::of("postgres");
        assert!(
            !account.is_root(),
            "PostgreSQL refuses to run as root, and there is no user postgres"
        );
        let places = installed();
        let program = find("initdb", &places, "postgresql");
        let programs = program.parent().expect("a directory").to_owned();
        let first = free_ports(NODES);
        let nodes = (0..NODES).map(|i| {
            let home = dir.path().join(format!("postgres-{i}"));
            account.make_dir(&home);
            Node {
                port: first + i,
                launch: Launch {
                    name: format!("postgres {i}"),
                    account: account.clone(),
                    program: programs.join("postgres"),
                    args: vec!["-D".to_owned(), home.join("data").display().to_string()],
                    env: Vec::new(),
                    dir: home,
                },
                server: None,
            }
        });
        let mut postgres = Postgres {
            nodes: nodes.collect(),
            primary: 0,
            account,
            programs,
            _dir: dir,
        };
        let data = postgres.nodes[0].data().display().to_string();
        let words = "-U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync -D";
        postgres.run(0, "initdb", words, &[&data]).await;
        postgres.configure(0, "");
        postgres.restart(0).await;
        for sql in [
            "CREATE ROLE chat LOGIN CREATEDB",
            "CREATE DATABASE chat OWNER chat",
        ] {
            postgres.execute(0, sql).await;
        }
        postgres.clone_primary(1).await;
        postgres.restart(1).await;
        postgres.replicate_synchronously().await;
        postgres
    }

    /// The URL of one node's database.
    pub fn url(&self, i: usize) -> String {
        format!("postgres://{CHAT}@127.0.0.1:{}/{CHAT}", self.nodes[i].port)
    }

    /// The URLs of both nodes, as `database.url` takes them.
    pub fn urls(&self) -> String {
        format!("{},{}", self.url(0), self.url(1))
    }

    pub fn port(&self, i: usize) -> u16 {
        self.nodes[i].port
    }

    /// The node that was promoted last.
    pub fn primary(&self) -> usize {
        self.primary
    }

    /// The other node.
    pub fn standby(&self) -> usize {
        1 - self.primary
    }

    /// Executes one statement as superuser.
    pub async fn execute(&self, i: usize, sql: &str) {
        let executed = async {
            let mut connection = self.superuser(i).await?;
            connection.execute(AssertSqlSafe(sql.to_owned())).await
        };
        if let Err(error) = executed.await {
            panic!("{}: {sql}: {error}", self.nodes[i].launch.name);
        }
    }

    /// Lets a node log the statements of its clients, for [`Postgres::statements`].
    pub async fn log_statements(&self, i: usize) {
        self.execute(i, "ALTER SYSTEM SET log_statement = 'all'")
            .await;
        self.execute(i, "SELECT pg_reload_conf()").await;
    }

    /// Number of statements with this text that a node has logged.
    pub fn statements(&self, i: usize, text: &str) -> usize {
        let log = self.nodes[i].launch.logged();
        log.matches(text).count()
    }

    async fn superuser(&self, i: usize) -> sqlx::Result<PgConnection> {
        let port = self.nodes[i].port;
        PgConnection::connect(&format!("postgres://postgres@127.0.0.1:{port}/postgres")).await
    }

    pub fn kill9(&mut self, i: usize) {
        if let Some(mut server) = self.nodes[i].server.take() {
            server.kill9();
        }
    }

    pub async fn stop(&mut self, i: usize, how: Stop) {
        let mut server = self.nodes[i].server.take().expect("the node runs");
        server.signal(match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        });
        server.ended().await;
    }

    pub fn freeze(&self, i: usize) {
        self.nodes[i].server.as_ref().expect("it runs").freeze();
    }

    pub fn thaw(&self, i: usize) {
        self.nodes[i].server.as_ref().expect("it runs").thaw();
    }

    /// Starts a node that is not running and waits until it answers.
    pub async fn restart(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        assert!(node.server.is_none(), "{} runs already", node.launch.name);
        // Its process id may be in use by now, and PostgreSQL would not start.
        let _ = std::fs::remove_file(node.data().join("postmaster.pid"));
        node.server = Some(node.launch.start());
        self.until_answering(i).await;
    }

    async fn until_answering(&mut self, i: usize) {
        let address = format!(
            "postgres://postgres@127.0.0.1:{}/postgres",
            self.nodes[i].port
        );
        let Node { launch, server, .. } = &mut self.nodes[i];
        let server = server.as_mut().expect("it runs");
        until_ready(&launch.name, async || {
            let connected = PgConnection::connect(&address).await;
            connected.map(drop).map_err(|error| server.not_ready(error))
        })
        .await;
    }

    /// Makes the standby the primary and waits until it accepts writes. It commits without a standby until
    /// [`Postgres::rejoin_as_standby`].
    pub async fn promote(&mut self) {
        let standby = self.standby();
        self.configure(standby, "");
        self.execute(standby, "SELECT pg_promote(true, 60)").await;
        until_ready("the promotion", async || {
            let mut connection = self.superuser(standby).await.map_err(|e| e.to_string())?;
            let recovering: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()")
                .fetch_one(&mut connection)
                .await
                .map_err(|error| error.to_string())?;
            (!recovering)
                .then_some(())
                .ok_or("it is in recovery".to_owned())
        })
        .await;
        self.primary = standby;
    }

    /// Starts the former primary, which has ended, as a server that answers and accepts no writes. It does not follow
    /// the new one: it has the data of the time of its end.
    pub async fn restart_read_only(&mut self) {
        let old = self.standby();
        self.configure(old, "default_transaction_read_only = on\n");
        self.restart(old).await;
    }

    /// Starts the former primary, which has ended, as a standby of the new one, after `pg_rewind`; a copy of the new
    /// one if that fails. Then commits wait for it.
    pub async fn rejoin_as_standby(&mut self) {
        // Until its first checkpoint, pg_rewind takes the new primary's history for the old one's.
        self.execute(self.primary, "CHECKPOINT").await;
        let (old, new) = (self.standby(), &self.nodes[self.primary]);
        let source = format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres",
            new.port
        );
        let data = self.nodes[old].data();
        let target = data.display().to_string();
        let rewound = self
            .command(
                old,
                "pg_rewind",
                "--no-sync -D",
                &[&target, "--source-server", &source],
            )
            .run()
            .await;
        match rewound {
            // The settings are those of the other server now.
            Ok(_) => self.follow_primary(old),
            Err(reason) => {
                eprintln!("copying the new primary, since pg_rewind failed: {reason}");
                std::fs::remove_dir_all(&data).expect("the data can be deleted");
                self.clone_primary(old).await;
            }
        }
        self.restart(old).await;
        self.replicate_synchronously().await;
    }

    /// Makes a node's data a copy of the primary's.
    async fn clone_primary(&mut self, i: usize) {
        let port = self.nodes[self.primary].port.to_string();
        let data = self.nodes[i].data().display().to_string();
        let words = "-h 127.0.0.1 -U postgres -X stream -c fast --no-sync -p";
        self.run(i, "pg_basebackup", words, &[&port, "-D", &data])
            .await;
        self.follow_primary(i);
    }

    fn follow_primary(&self, i: usize) {
        let port = self.nodes[self.primary].port;
        let source = format!("host=127.0.0.1 port={port} user=postgres application_name=standby");
        self.configure(i, &format!("primary_conninfo = '{source}'\n"));
        let signal = self.nodes[i].data().join("standby.signal");
        self.account.write(&signal, "");
    }

    /// Lets commits wait for the standby, once it streams.
    async fn replicate_synchronously(&mut self) {
        let primary = self.primary;
        self.configure(primary, "synchronous_standby_names = '*'\n");
        self.execute(primary, "SELECT pg_reload_conf()").await;
        until_ready("the standby replicates synchronously", async || {
            let mut connection = self.superuser(primary).await.map_err(|e| e.to_string())?;
            let states: Vec<String> = sqlx::query_scalar(
                "SELECT concat_ws(' ', state, sync_state) FROM pg_stat_replication",
            )
            .fetch_all(&mut connection)
            .await
            .map_err(|error| error.to_string())?;
            let done = states == ["streaming sync"];
            done.then_some(()).ok_or(format!("{states:?}"))
        })
        .await;
    }

    /// Writes a node's settings; `more` is what differs by its state.
    fn configure(&self, i: usize, more: &str) {
        let (data, port) = (self.nodes[i].data(), self.nodes[i].port);
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n\
             max_connections = 200\nshared_buffers = 64MB\nhot_standby = on\n\
             wal_retrieve_retry_interval = 500ms\nwal_log_hints = on\n\
             wal_keep_size = 512MB\nlog_line_prefix = '%m [%p] %q%u@%d '\n{more}"
        );
        self.account.write(&data.join("postgresql.conf"), &settings);
        self.account.write(&data.join("pg_hba.conf"), ACCESS);
    }

    fn command(&self, i: usize, program: &str, words: &str, more: &[&str]) -> Launch {
        let launch = &self.nodes[i].launch;
        let words = words.split_whitespace().chain(more.iter().copied());
        Launch {
            name: format!("{program} of {}", launch.name),
            program: self.programs.join(program),
            args: words.map(str::to_owned).collect(),
            ..launch.clone()
        }
    }

    async fn run(&self, i: usize, program: &str, words: &str, more: &[&str]) {
        let done = self.command(i, program, words, more).run().await;
        done.unwrap_or_else(|reason| panic!("{reason}"));
    }
}

/// The directories of the installed versions, newest first.
fn installed() -> Vec<PathBuf> {
    let versions = std::fs::read_dir(Path::new("/usr/lib/postgresql"));
    let mut found: Vec<(u32, PathBuf)> = versions
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}
