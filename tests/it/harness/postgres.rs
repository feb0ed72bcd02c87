//! PostgreSQL servers of a test's own: a primary and a streaming standby.

use std::{
    fs::read_dir,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Stdio,
};

use sqlx::{Connection, Executor, PgConnection};
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::eventually;

/// Killed when dropped.
pub struct PostgresServer {
    port: u16,
    process: Child,
    dir: PathBuf,
}

/// The directory of `initdb` and `postgres`: Debian does not put them on the path.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path);
    let versions = read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let mut all = debian.chain(on_path);
    let needed = ["initdb", "postgres", "pg_basebackup"];
    all.find(|dir| needed.iter().all(|name| dir.join(name).is_file()))
        .expect("PostgreSQL is installed")
}

/// The user and group that run the servers: they refuse root.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").expect("the users");
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line.expect("a user postgres").split(':').collect();
    Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
}

fn program(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(programs().join(name));
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    if let Some((uid, gid)) = user() {
        command.uid(uid).gid(gid);
    }
    command
}

async fn run(mut command: Command) {
    let output = command.stderr(Stdio::piped()).output().await;
    let output = output.expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

fn directory() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("chat-postgres-{}", Uuid::new_v4().simple()));
    std::fs::create_dir(&dir).expect("a directory");
    if let Some((uid, gid)) = user() {
        chown(&dir, Some(uid), Some(gid)).expect("it can be given away");
    }
    dir
}

impl PostgresServer {
    pub async fn primary() -> PostgresServer {
        let dir = directory();
        let mut init = program("initdb", &dir);
        init.args(["-D", "data", "-U", "chat", "-A", "trust", "--no-sync"]);
        run(init).await;
        PostgresServer::serve(dir).await
    }

    /// A streaming standby of this server.
    pub async fn standby(&self) -> PostgresServer {
        let dir = directory();
        let mut copy = program("pg_basebackup", &dir);
        copy.args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            "chat",
        ])
        .args([
            "-D",
            "data",
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
        ]);
        run(copy).await;
        PostgresServer::serve(dir).await
    }

    async fn serve(dir: PathBuf) -> PostgresServer {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let log = std::fs::File::create(dir.join("log")).expect("a log");
        let process = program("postgres", &dir)
            .args(["-D", "data", "-p", &port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(["-c", "unix_socket_directories="])
            .stderr(log)
            .spawn()
            .expect("it can be started");
        let server = PostgresServer { port, process, dir };
        eventually("PostgreSQL answers", || async {
            PgConnection::connect(&server.url()).await.ok()
        })
        .await;
        server
    }

    pub fn url(&self) -> String {
        format!("postgres://chat@127.0.0.1:{}/postgres", self.port)
    }

    pub async fn execute(&self, sql: &'static str) {
        let mut connection = self.connection().await;
        connection.execute(sql).await.expect("it is executed");
    }

    /// The first column of the first row.
    pub async fn number(&self, sql: &'static str) -> i64 {
        let mut connection = self.connection().await;
        let number = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
        number.expect("a number")
    }

    async fn connection(&self) -> PgConnection {
        let connected = PgConnection::connect(&self.url()).await;
        connected.expect("it can be reached")
    }

    /// Sends SIGKILL to its main process; the others end with it.
    pub async fn kill9(&mut self) {
        self.process.kill().await.expect("it can be killed");
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let _ = self.process.start_kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
