//! The program as a process: started, awaited, signalled, and killed with the test that started it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};

use super::DEADLINE;

/// Number of log lines that a failing test prints.
const TAIL: usize = 40;

/// How to start one process.
#[derive(Clone)]
pub struct Program {
    /// For the log file's name and for failures: `edge 0`.
    pub name: String,
    pub args: Vec<String>,
    /// Environment variables in addition to PATH and HOME.
    pub env: Vec<(String, String)>,
    /// The working directory; it also contains the log.
    pub dir: PathBuf,
    /// The program of another build, instead of the one under test.
    pub binary: Option<PathBuf>,
}

/// The output of a process that has ended.
#[derive(Debug)]
pub struct Ended {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    fn command(&self) -> Command {
        let mut command = Command::new(self.binary.clone().unwrap_or_else(binary));
        command
            .args(&self.args)
            .current_dir(&self.dir)
            .env_clear()
            .envs(
                ["PATH", "HOME"]
                    .iter()
                    .filter_map(|key| Some((*key, std::env::var(key).ok()?))),
            )
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn log(&self) -> PathBuf {
        self.dir
            .join(format!("{}.log", self.name.replace(' ', "-")))
    }

    /// Runs to completion; for commands that end by themselves.
    pub async fn run(&self) -> Ended {
        self.run_into(Stdio::piped()).await
    }

    /// As [`Program::run`], with its standard output.
    pub async fn run_into(&self, stdout: Stdio) -> Ended {
        let mut command = self.command();
        command.stdout(stdout).stderr(Stdio::piped());
        let ended = tokio::time::timeout(DEADLINE, command.output()).await;
        let output = ended
            .unwrap_or_else(|_| {
                panic!(
                    "`chat {}` did not end within {DEADLINE:?}",
                    self.args.join(" ")
                )
            })
            .expect("the program can be started");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ended {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Starts the process and waits for the line that reports it ready.
    ///
    /// # Panics
    /// With the end of its log, if it ends before that or takes too long.
    pub async fn start(&self) -> Process {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("the log can be written");
        self.start_with(Stdio::from(log)).await
    }

    /// As [`Program::start`], with its standard error.
    pub async fn start_with(&self, stderr: Stdio) -> Process {
        let mut command = self.command();
        command.stderr(stderr);
        let mut child = command.spawn().expect("the program can be started");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        let read = tokio::time::timeout(DEADLINE, stdout.read_line(&mut line)).await;
        let ready = line.trim_end();
        let url = match ready.strip_prefix("chat is ready on ") {
            Some(url) => Some(url.to_owned()),
            None if ready.starts_with("chat ") && ready.ends_with(" is ready") => None,
            None => panic!(
                "{} did not become ready (waiting for the line: {read:?}); it said {ready:?} and logged:\n{}",
                self.name,
                tail(&self.log())
            ),
        };
        // Drain stdout, so that the pipe does not fill up.
        tokio::spawn(async move {
            let mut rest = Vec::new();
            let _ = stdout.read_to_end(&mut rest).await;
        });
        Process {
            program: self.clone(),
            child,
            url,
        }
    }
}

/// The program under test: the one of this build, unless `scripts/soak` keeps a copy.
fn binary() -> PathBuf {
    let kept = std::env::var_os("CHAT_TEST_PROGRAM");
    kept.map_or_else(|| env!("CARGO_BIN_EXE_chat").into(), PathBuf::from)
}

/// A running process; killed when dropped.
pub struct Process {
    program: Program,
    child: Child,
    url: Option<String>,
}

impl Process {
    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> &str {
        self.url.as_deref().expect("only edges have an address")
    }

    /// How it was started.
    pub fn program(&self) -> &Program {
        &self.program
    }

    pub fn name(&self) -> &str {
        &self.program.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it is running")
    }

    /// Sends SIGKILL and waits until it is gone.
    pub async fn kill9(&mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// Sends SIGTERM; [`Process::ended`] waits for the exit.
    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGSTOP, which freezes it.
    pub fn sigstop(&self) {
        self.signal(Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGHUP, which reloads the certificate.
    pub fn sighup(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("it can be signalled");
    }

    /// Waits until it has ended by itself, and returns its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        match tokio::time::timeout(DEADLINE, self.child.wait()).await {
            Ok(status) => status.expect("it can be waited for").code(),
            Err(_) => panic!("{} did not end within {DEADLINE:?}", self.name()),
        }
    }

    /// Starts it again after it has ended. An edge gets a new port.
    pub async fn restart(&mut self) {
        *self = self.program.start().await;
    }

    /// As [`Process::restart`], with the program of another build, or with the one under test.
    pub async fn restart_with(&mut self, binary: Option<&Path>) {
        self.program.binary = binary.map(Path::to_owned);
        self.restart().await;
    }

    /// As [`Process::restart`], with one more setting.
    pub async fn restart_set(&mut self, variable: &str, value: &str) {
        let set = (variable.to_owned(), value.to_owned());
        self.program.env.push(set);
        self.restart().await;
    }

    /// Its whole log, including earlier runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.program.log()).unwrap_or_default()
    }

    /// The end of its log, for failures.
    pub fn tail(&self) -> String {
        tail(&self.program.log())
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
