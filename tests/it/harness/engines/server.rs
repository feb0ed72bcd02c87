//! One server process of an engine: started as the engine's user, frozen, and killed with everything below it.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::READY_WITHIN;

/// Number of log lines that a failure prints.
const TAIL: usize = 25;

/// The system user that an engine's programs run as: its own if the tests run as root and it exists, otherwise the
/// tests' own.
#[derive(Clone)]
pub struct Account {
    other: Option<(String, u32, u32)>,
}

impl Account {
    pub fn of(engine: &str) -> Account {
        let is_root = geteuid().is_root();
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = users.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (name, uid, gid) = (fields.first()?, fields.get(2)?, fields.get(3)?);
            (*name == engine).then_some((uid.parse().ok()?, gid.parse().ok()?))
        });
        Account {
            other: found
                .filter(|_| is_root)
                .map(|(uid, gid)| (engine.to_owned(), uid, gid)),
        }
    }

    /// Whether the programs would run as root, which PostgreSQL refuses.
    pub fn is_root(&self) -> bool {
        self.other.is_none() && geteuid().is_root()
    }

    /// Makes a directory that belongs to this user.
    pub fn make_dir(&self, path: &Path) {
        std::fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.own(path);
    }

    /// Writes a file that belongs to this user.
    pub fn write(&self, path: &Path, text: &str) {
        std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.own(path);
    }

    fn own(&self, path: &Path) {
        if let Some((_, uid, gid)) = self.other {
            chown(path, Some(uid), Some(gid)).expect("root can give files away");
        }
    }
}

/// Finds a program in these directories, then in PATH.
///
/// # Panics
/// With the package to install, if it is missing.
pub fn find(program: &str, directories: &[PathBuf], package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = directories
        .iter()
        .cloned()
        .chain(std::env::split_paths(&path));
    places
        .find_map(|place| {
            let found = place.join(program);
            found.is_file().then_some(found)
        })
        .unwrap_or_else(|| {
            panic!("{program} is not installed: run `scripts/services install {package}`")
        })
}

/// How to start one program of an engine.
#[derive(Clone)]
pub struct Launch {
    /// For failures, and the name of its log: `rabbitmq 1`.
    pub name: String,
    pub account: Account,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// In addition to PATH and LC_ALL.
    pub env: Vec<(String, String)>,
    /// The working directory; its log is beside it.
    pub dir: PathBuf,
}

impl Launch {
    /// The kernel kills the program when the thread that started it ends, so that a killed test leaves no server.
    fn command(&self) -> Command {
        let mut command = Command::new(find("setpriv", &[], "util-linux"));
        command.args(["--pdeathsig", "KILL"]);
        if let Some((_, uid, gid)) = &self.account.other {
            let ids = [uid.to_string(), gid.to_string()];
            command.args(["--reuid", &ids[0], "--regid", &ids[1], "--init-groups"]);
        }
        command
            .arg("--")
            .arg(&self.program)
            .args(&self.args)
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C")
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            // Ctrl-C in the terminal is for the tests, which end their servers themselves.
            .process_group(0);
        command
    }

    fn log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// The log of all its runs so far.
    pub fn logged(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Starts a server. Its log continues the log of earlier runs.
    pub fn start(&self) -> Server {
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.expect("the log can be written");
        let both = log.try_clone().expect("the log can be written");
        let child = self.command().stdout(log).stderr(both).spawn();
        Server {
            launch: self.clone(),
            child: child.unwrap_or_else(|error| panic!("{}: {error}", self.name)),
        }
    }

    /// Runs a command to its end and returns its output.
    ///
    /// # Errors
    /// Its output, if it fails or takes too long.
    pub async fn run(&self) -> Result<String, String> {
        let mut command = tokio::process::Command::from(self.command());
        command.kill_on_drop(true);
        let output = tokio::time::timeout(READY_WITHIN, command.output())
            .await
            .map_err(|_| format!("{}: not within {READY_WITHIN:?}", self.name))?
            .map_err(|error| format!("{}: {error}", self.name))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let said = text(&output.stdout);
        if output.status.success() {
            return Ok(said);
        }
        Err(format!("{}: {said} {}", self.name, text(&output.stderr)))
    }
}

/// A running server; it is killed when dropped.
pub struct Server {
    launch: Launch,
    child: Child,
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the server itself.
    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// Sends SIGKILL to the server and the processes below it, and waits until all of them are gone.
    pub fn kill9(&mut self) {
        let mut below = descendants(self.child.id());
        // A frozen parent starts no further children.
        self.signal(Signal::STOP);
        below.extend(descendants(self.child.id()));
        self.signal(Signal::KILL);
        below.iter().for_each(|pid| send(*pid, Signal::KILL));
        let _ = self.child.wait();
        let end = Instant::now() + READY_WITHIN;
        while below.iter().any(|pid| is_alive(*pid)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Freezes it (SIGSTOP), with the processes below it.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let below = descendants(self.child.id());
        below.iter().for_each(|pid| send(*pid, Signal::STOP));
    }

    /// Continues it (SIGCONT).
    pub fn thaw(&self) {
        let below = descendants(self.child.id());
        below.iter().for_each(|pid| send(*pid, Signal::CONT));
        self.signal(Signal::CONT);
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) {
        let name = self.launch.name.clone();
        super::until_ready(&format!("{name} ends"), async || {
            match self.child.try_wait() {
                Ok(Some(_)) => Ok(()),
                _ => Err("it still runs".to_owned()),
            }
        })
        .await;
    }

    /// The reason why it is not ready, for [`super::until_ready`].
    ///
    /// # Panics
    /// With the end of its log, if it has ended.
    pub fn not_ready(&mut self, reason: impl ToString) -> String {
        assert!(
            self.is_running(),
            "{} ended while it started:\n{}",
            self.launch.name,
            self.tail()
        );
        reason.to_string()
    }

    pub fn tail(&self) -> String {
        let text = self.launch.logged();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill9();
        }
        if std::thread::panicking() {
            eprintln!("---- {} logged:\n{}", self.launch.name, self.tail());
        }
    }
}

/// A process that has just ended cannot be signalled, which is no failure.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The process's state and its parent, from /proc.
fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

fn is_alive(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// All processes below this one.
fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        if let Some((_, parent)) = state_and_parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(&below);
        next.extend(below);
    }
    found
}
