//! HAProxy with the configuration of `deploy/`, in front of the edges of a deployment.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, process::Stdio};

use tokio::process::{Child, Command};

use super::{Chat, DEADLINE, deployment::authority, eventually};

/// Ends with the test.
pub struct Haproxy {
    /// The address for clients.
    pub url: String,
    /// The same over TLS, if it has a certificate.
    pub secure_url: String,
    states: String,
    child: Child,
}

fn free_address() -> SocketAddr {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    free.local_addr().expect("it has an address")
}

/// The program: `CHAT_HAPROXY`, or the one in PATH.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("CHAT_HAPROXY").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|dir| dir.join("haproxy"));
    let mut all = named.into_iter().chain(installed);
    all.find(|program| program.is_file())
}

/// Replaces `from`, which must be there once.
fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "haproxy.cfg: {from}");
    text.replacen(from, to, 1)
}

impl Haproxy {
    /// In front of the edges of `chat`, with these environment variables. `None`, with a line that says so, if there is
    /// no HAProxy.
    pub async fn start(chat: &Chat, env: &[(&str, &str)]) -> Option<Haproxy> {
        let Some(program) = program() else {
            eprintln!(
                "skipped: there is no haproxy in PATH or CHAT_HAPROXY; scripts/test brings one"
            );
            return None;
        };
        let file = std::path::Path::new(crate::support::ROOT).join("deploy/compose/haproxy.cfg");
        let text = std::fs::read_to_string(file).expect("it is in the repository");
        let [clients, secure, states] = [(); 3].map(|()| free_address());
        // Addresses only: Docker's names are replaced by the edges.
        let resolvers = "resolvers docker\n    nameserver dns 127.0.0.11:53\n    hold valid 2s\n";
        let text = replace(&text, resolvers, "");
        let template = "    server-template edge- 8 edge:3000 resolvers docker init-addr none\n";
        let servers =
            chat.edges
                .iter()
                .enumerate()
                .fold(String::new(), |mut servers, (i, edge)| {
                    let _ = writeln!(servers, "    server edge-{i} {}", authority(edge.url()));
                    servers
                });
        let text = replace(&text, template, &servers);
        // It refuses to start if its limit of open files is less.
        let text = replace(&text, "maxconn 40000\n", "maxconn 1000\n");
        let text = replace(&text, "bind :3000\n", &format!("bind {clients}\n"));
        let mut text = replace(&text, "bind :3443 ", &format!("bind {secure} "));
        let _ = write!(
            text,
            "\nfrontend states\n    bind {states}\n    stats enable\n    stats uri /states\n"
        );
        let config = chat.dir().join("haproxy.cfg");
        std::fs::write(&config, text).expect("the directory can be written");
        let log = std::fs::File::create(chat.dir().join("haproxy.log")).expect("a log");
        let child = Command::new(program)
            .args(["-db", "-f"])
            .arg(&config)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("haproxy can be started");
        let mut proxy = Haproxy {
            url: format!("http://{clients}"),
            secure_url: format!("https://{secure}"),
            states: format!("http://{states}/states;csv"),
            child,
        };
        let states = proxy.states.clone();
        let up = eventually("the first edge is UP", || async {
            let state = state(chat, &states, 0).await?;
            state.starts_with("UP").then_some(())
        });
        let ended = tokio::select! {
            () = up => None,
            ended = proxy.child.wait() => Some(ended),
        };
        if ended.is_some() {
            let log = std::fs::read_to_string(chat.dir().join("haproxy.log"));
            panic!("haproxy did not start: {}", log.unwrap_or_default());
        }
        for i in 1..chat.edges.len() {
            proxy.until(chat, i, "UP").await;
        }
        Some(proxy)
    }

    /// The state of edge `i` by HAProxy's health check, such as `UP` or `DOWN`.
    pub async fn state(&self, chat: &Chat, i: usize) -> Option<String> {
        state(chat, &self.states, i).await
    }

    /// Waits until edge `i` is in this state and was checked.
    pub async fn until(&self, chat: &Chat, i: usize, state: &str) {
        eventually(&format!("edge {i} is {state}"), || async {
            let now = self.state(chat, i).await?;
            now.starts_with(state).then_some(())
        })
        .await;
    }

    /// Ends it.
    pub async fn end(mut self) {
        let _ = self.child.start_kill();
        let _ = tokio::time::timeout(DEADLINE, self.child.wait()).await;
    }
}

async fn state(chat: &Chat, url: &str, i: usize) -> Option<String> {
    let text = chat.http.get(url).send().await.ok()?;
    let text = text.text().await.ok()?;
    let begins = format!("edges,edge-{i},");
    let line = text.lines().find(|line| line.starts_with(&begins))?;
    // The columns are documented in HAProxy's management guide, section 9.1.
    line.split(',').nth(17).map(str::to_owned)
}
