//! A PgBouncer of a test's own, in transaction mode, in front of the server of `DATABASE_URL`. `scripts/test` installs
//! it; without it a test prints that it is skipped.

use std::{net::SocketAddr, path::PathBuf, process::Stdio};

use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};
use uuid::Uuid;

use super::{eventually, server};

/// Killed when dropped.
pub struct PgBouncer {
    pub address: SocketAddr,
    _process: Child,
    dir: PathBuf,
}

fn program() -> Option<PathBuf> {
    let named = std::env::var_os("CHAT_PGBOUNCER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|dir| dir.join("pgbouncer"));
    let mut all = named.into_iter().chain(installed);
    all.find(|program| program.is_file())
}

impl PgBouncer {
    /// `pool_size` server connections for each database, and further lines of its configuration. `None` where it is
    /// not installed.
    pub async fn start(pool_size: u32, lines: &str) -> Option<PgBouncer> {
        let Some(program) = program() else {
            println!("skipped: no PgBouncer; scripts/test installs it, or set CHAT_PGBOUNCER");
            return None;
        };
        let database: PgConnectOptions = server("DATABASE_URL").parse().expect("an address");
        let user = database.get_username();
        let url = server("DATABASE_URL");
        let password = url.split_once("://").and_then(|(_, rest)| {
            let (login, _) = rest.rsplit_once('@')?;
            Some(login.split_once(':')?.1.to_owned())
        });
        let password = password.map_or(String::new(), |password| format!(" password={password}"));
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let configuration = format!(
            "[databases]\n* = host={} port={} user={user}{password}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {pool_size}\n\
             max_client_conn = 500\n{lines}\n",
            database.get_host(),
            database.get_port(),
        );
        let dir = std::env::temp_dir().join(format!("chat-pgbouncer-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).expect("a directory");
        let file = dir.join("pgbouncer.ini");
        std::fs::write(&file, configuration).expect("a configuration");
        let mut command = Command::new(&program);
        if rustix::process::geteuid().is_root() {
            // It refuses to run as root.
            command.args(["-u", "nobody"]);
        }
        let process = command
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("log")).expect("a log"))
            .kill_on_drop(true)
            .spawn()
            .expect("it can be started");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually("PgBouncer answers", || async {
            TcpStream::connect(address).await.ok()
        })
        .await;
        Some(PgBouncer {
            address,
            _process: process,
            dir,
        })
    }

    /// `url` through it.
    pub fn via(&self, url: &str) -> String {
        let host = super::deployment::authority(url);
        url.replacen(&host, &self.address.to_string(), 1)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
