//! A PostgreSQL server of a test's own, as `scripts/services` sets it up: its data and its system user are where the
//! commands of docs/ expect them, which archive, back up and restore it. The servers of `engines/` are for failovers.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::eventually;
use crate::support::ROOT;

/// Stopped and deleted when dropped.
pub struct OwnPostgres {
    directory: PathBuf,
    port: u16,
}

impl OwnPostgres {
    /// Takes a few seconds.
    pub async fn start(name: &str) -> OwnPostgres {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let directory = format!("{ROOT}/target/services-{name}-{}", std::process::id());
        let own = OwnPostgres {
            directory: directory.into(),
            port,
        };
        own.up().await;
        own
    }

    /// Starts it, also after [`OwnPostgres::down`], and lets backups be made over its socket.
    pub async fn up(&self) {
        self.services(&["up", "postgres"]).await;
        let rules = self.data().join("pg_hba.conf");
        let mut text = std::fs::read_to_string(&rules).expect("the rules");
        text.push_str("local replication all trust\n");
        std::fs::write(&rules, text).expect("written");
        self.psql("SELECT pg_reload_conf()").await;
    }

    pub async fn down(&self) {
        self.services(&["down"]).await;
    }

    /// Ends it at once, without the archiving of a shutdown.
    pub async fn crash(&self) {
        let file = self.data().join("postmaster.pid");
        let text = std::fs::read_to_string(file).expect("it runs");
        let pid: i32 = text
            .lines()
            .next()
            .and_then(|pid| pid.parse().ok())
            .expect("a pid");
        let process = Pid::from_raw(pid).expect("a pid");
        kill_process(process, Signal::QUIT).expect("it can be signalled");
        let gone = || async { (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()) };
        eventually("the server's end", gone).await;
    }

    /// For clients.
    pub fn url(&self) -> String {
        format!("postgres://chat@127.0.0.1:{}/chat", self.port)
    }

    /// Of the superuser, through the socket.
    pub fn admin_url(&self) -> String {
        let host = self.base();
        format!(
            "postgresql://postgres@/chat?host={}&port={}",
            host.display(),
            self.port
        )
    }

    fn base(&self) -> PathBuf {
        let base = self.directory.join("postgres");
        base.canonicalize().unwrap_or(base)
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.base().join("data")
    }

    /// A directory of its user's, beside the data.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.base().join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        let owner = std::fs::metadata(self.data()).expect("the data");
        use std::os::unix::fs::{MetadataExt, chown};
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("its owner");
        path
    }

    /// A command that runs others as the user of the server.
    pub fn as_its_user(&self) -> Vec<String> {
        use std::os::unix::fs::MetadataExt;
        let owner = std::fs::metadata(self.data()).expect("the data");
        let (uid, gid) = (owner.uid(), owner.gid());
        let words = [
            "setpriv",
            &format!("--reuid={uid}"),
            &format!("--regid={gid}"),
            "--clear-groups",
        ];
        words.map(str::to_owned).to_vec()
    }

    /// As the superuser.
    pub async fn psql(&self, sql: &str) {
        let done = Command::new("psql")
            .args(["-q", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.admin_url()])
            .output()
            .await
            .expect("psql");
        assert!(
            done.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    async fn services(&self, arguments: &[&str]) {
        let done = Command::from(self.command(arguments))
            .output()
            .await
            .expect("scripts/services");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(
            done.status.success(),
            "scripts/services {arguments:?}: {said}"
        );
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(Path::new(ROOT).join("scripts/services"));
        command
            .args(arguments)
            .env("CHAT_SERVICES_DIR", &self.directory)
            .env("CHAT_PG_PORT", self.port.to_string());
        command
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        let _ = self.command(&["down", "--wipe"]).output();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
