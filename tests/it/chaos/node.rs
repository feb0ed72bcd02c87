//! One process of the cluster: it is started, signalled, and started again with another program.

use std::{fs::File, path::PathBuf, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// Longer than `start.timeout`, after which a process gives up on its servers.
const START: Duration = Duration::from_secs(90);
/// Longer than `edge.drain` and a worker's last batch, while its servers are away.
const STOP: Duration = Duration::from_secs(60);

/// How to start a process.
pub struct Node {
    /// `edge 0`.
    pub name: String,
    pub program: PathBuf,
    pub role: &'static str,
    pub env: Vec<(String, String)>,
    pub directory: PathBuf,
    child: Option<Child>,
}

impl Node {
    pub fn new(name: String, role: &'static str, program: PathBuf, directory: PathBuf) -> Node {
        Node {
            name,
            program,
            role,
            env: Vec::new(),
            directory,
            child: None,
        }
    }

    fn command(&self) -> Command {
        let inherited = ["PATH", "HOME"];
        let inherited = inherited
            .iter()
            .filter_map(|key| Some((*key, std::env::var(key).ok()?)));
        let mut command = Command::new(&self.program);
        command
            .arg(self.role)
            .current_dir(&self.directory)
            .env_clear()
            .envs(inherited)
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub fn log(&self) -> PathBuf {
        self.directory
            .join(format!("{}.log", self.name.replace(' ', "-")))
    }

    /// Runs a command that ends by itself, such as `migrate`.
    pub async fn run(&self) -> Result<(), String> {
        let output = timeout(START, self.command().stderr(Stdio::piped()).output()).await;
        match output {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it did not end within {START:?}")),
        }
    }

    /// Starts it and waits until it is ready. Returns the `host:port` of an edge.
    pub async fn start(&mut self) -> Result<Option<String>, String> {
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.map_err(|error| format!("{}: {error}", self.log().display()))?;
        let mut child = self
            .command()
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        self.child = Some(child);
        let mut line = String::new();
        let read = timeout(START, stdout.read_line(&mut line)).await;
        let ready = line.trim_end();
        let address = ready
            .strip_prefix("chat is ready on http://")
            .map(str::to_owned);
        if address.is_none() && !ready.ends_with(" is ready") {
            self.kill().await;
            return Err(format!(
                "{} did not become ready: {read:?} {ready:?}",
                self.name
            ));
        }
        // The pipe must not fill up.
        tokio::spawn(async move { stdout.read_to_end(&mut Vec::new()).await });
        Ok(address)
    }

    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
    }

    /// Sends SIGTERM and waits until it has ended; its exit code, if it ended in time.
    pub async fn terminate(&mut self) -> Result<(), String> {
        self.signal(Signal::TERM);
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        let ended = timeout(STOP, child.wait()).await;
        let name = &self.name;
        let result = match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{name} ended with {status} after SIGTERM")),
            Ok(Err(error)) => Err(format!("{name}: {error}")),
            Err(_) => Err(format!("{name} did not end within {STOP:?} of SIGTERM")),
        };
        self.kill().await;
        result
    }

    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// How it ended, if it ended by itself.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(format!("{} ended by itself: {status}", self.name))
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(Child::id);
        let pid = pid
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }
}
