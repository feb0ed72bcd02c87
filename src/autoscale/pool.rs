//! Starts, watches and stops the worker processes of this machine.
//!
//! Each worker's standard input is a pipe from this process, and the worker stops gracefully when the pipe closes. Closing it
//! stops a worker, and a killed autoscaler needs no clean-up: its workers finish their batches and exit. The next autoscaler
//! starts its own workers.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Code, Error, Result},
    retry::Policy,
};

/// A worker that ends sooner has crashed at its start.
const STARTUP: Duration = Duration::from_secs(10);
/// Consecutive crashes at the start, without a worker that stays, after which the pool gives up: about ten seconds.
const GIVE_UP_AFTER: u32 = 8;
const RESTART: Policy = Policy {
    initial: Duration::from_millis(200),
    max: Duration::from_secs(3),
    deadline: None,
};
/// Exit code for wrong usage or settings: another attempt would end the same way.
const EXIT_USAGE: i32 = 2;

/// How a worker is started.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Set on top of this process's environment.
    pub env: Vec<(String, String)>,
}

impl WorkerCommand {
    /// `chat worker` of the running program, with its settings file and, where given, its roles.
    ///
    /// # Errors
    /// If the path of the program is unknown.
    pub fn this_program(config: Option<&Path>, roles: Option<&str>) -> Result<WorkerCommand> {
        let program = std::env::current_exe().map_err(Error::internal)?;
        let mut args = vec!["worker".into(), "--stop-with-stdin".into()];
        if let Some(config) = config {
            args.extend(["--config".into(), config.into()]);
        }
        if let Some(roles) = roles {
            args.extend(["--jobs".into(), roles.into()]);
        }
        Ok(WorkerCommand {
            program,
            args,
            // The autoscaler uses the port itself, and a name belongs to one worker.
            env: [("CHAT__METRICS__PORT", "0"), ("CHAT__WORKER__ID", "")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
        })
    }
}

/// An event in the life of a worker.
#[derive(Debug)]
pub struct Event {
    worker: u64,
    kind: EventKind,
}

#[derive(Debug)]
enum EventKind {
    Ready,
    Ended(std::io::Result<ExitStatus>),
}

struct Worker {
    pid: Option<u32>,
    started: Instant,
    ready: bool,
    /// Closed to stop it.
    stdin: Option<ChildStdin>,
    /// When it is killed, once it is stopping.
    deadline: Option<Instant>,
    kill: CancellationToken,
}

pub struct Pool {
    command: WorkerCommand,
    grace: Duration,
    workers: BTreeMap<u64, Worker>,
    next: u64,
    events: mpsc::UnboundedReceiver<Event>,
    sender: mpsc::UnboundedSender<Event>,
    /// Consecutive crashes at the start.
    crashes: u32,
    last_crash: Option<Instant>,
    /// The earliest time of the next start, after a crash.
    not_before: Option<Instant>,
}

impl Pool {
    /// Starts no worker yet. `grace`: how long a stopping worker may take before it is killed.
    pub fn new(command: WorkerCommand, grace: Duration) -> Pool {
        let (sender, events) = mpsc::unbounded_channel();
        Pool {
            command,
            grace,
            workers: BTreeMap::new(),
            next: 1,
            events,
            sender,
            crashes: 0,
            last_crash: None,
            not_before: None,
        }
    }

    /// Workers that are not stopping.
    pub fn active(&self) -> usize {
        self.workers
            .values()
            .filter(|worker| worker.deadline.is_none())
            .count()
    }

    /// All processes, including stopping ones.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Starts or stops workers until `target` are active. After a crash workers are started one at a time, each after a
    /// pause, so this must be called repeatedly.
    ///
    /// # Errors
    /// If starting workers fails repeatedly.
    pub fn set(&mut self, target: usize) -> Result<()> {
        if self.workers.values().any(|worker| self.stays(worker)) {
            self.crashes = 0;
        }
        let active = self.active();
        for _ in active..target {
            if self.not_before.is_some_and(|end| Instant::now() < end) {
                break;
            }
            if self.start()? && self.crashes > 0 {
                // The next one is started when this one stays.
                self.not_before = Some(Instant::now() + STARTUP);
                break;
            }
        }
        self.stop_newest(active.saturating_sub(target));
        Ok(())
    }

    /// Whether the worker was started after the last crash and survived its start.
    fn stays(&self, worker: &Worker) -> bool {
        let later = self.last_crash.is_none_or(|crash| worker.started > crash);
        worker.ready && later && worker.started.elapsed() >= STARTUP
    }

    /// Closes the pipes of the newest workers, which stops them.
    fn stop_newest(&mut self, count: usize) {
        let deadline = Instant::now() + self.grace;
        let newest = self.workers.iter_mut().rev();
        for (id, worker) in newest.filter(|(_, w)| w.deadline.is_none()).take(count) {
            tracing::info!(worker = id, pid = worker.pid, "worker is asked to finish");
            worker.stdin = None;
            worker.deadline = Some(deadline);
        }
    }

    /// Returns whether a worker was started.
    fn start(&mut self) -> Result<bool> {
        let id = self.next;
        self.next += 1;
        match spawn(&self.command) {
            Ok((child, stdin)) => {
                let kill = CancellationToken::new();
                let pid = child.id();
                tracing::info!(worker = id, pid, "worker started");
                tokio::spawn(watch(id, child, kill.clone(), self.sender.clone()));
                self.workers.insert(
                    id,
                    Worker {
                        pid,
                        started: Instant::now(),
                        ready: false,
                        stdin,
                        deadline: None,
                        kill,
                    },
                );
                Ok(true)
            }
            Err(error) => {
                let program = self.command.program.display();
                self.crashed(id, &format!("cannot start {program}: {error}"))?;
                Ok(false)
            }
        }
    }

    fn crashed(&mut self, worker: u64, how: &str) -> Result<()> {
        self.crashes += 1;
        self.last_crash = Some(Instant::now());
        let nobody_works = !self.workers.values().any(|worker| worker.ready);
        if self.crashes >= GIVE_UP_AFTER && nobody_works {
            return Err(Error::new(
                Code::Internal,
                format!(
                    "gave up: {} workers in a row ended as soon as they were started, the last one: {how}; `chat doctor` may say why",
                    self.crashes
                ),
            ));
        }
        let pause = RESTART.delay_after(self.crashes);
        self.not_before = Some(Instant::now() + pause);
        tracing::warn!(
            worker,
            in_a_row = self.crashes,
            pause_ms = pause.as_millis() as u64,
            "worker crashed: {how}"
        );
        Ok(())
    }

    /// The next event of any worker. Never resolves without workers. Cancel-safe.
    pub async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // Cannot happen: the pool holds a sender.
            None => std::future::pending().await,
        }
    }

    /// # Errors
    /// If workers crash repeatedly at their start, or for a permanent reason.
    pub fn handle(&mut self, event: Event) -> Result<()> {
        let id = event.worker;
        match event.kind {
            EventKind::Ready => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.ready = true;
                    let took = worker.started.elapsed().as_millis() as u64;
                    tracing::info!(
                        worker = id,
                        pid = worker.pid,
                        took_ms = took,
                        "worker ready"
                    );
                    self.not_before = None;
                }
                Ok(())
            }
            EventKind::Ended(status) => {
                let Some(worker) = self.workers.remove(&id) else {
                    return Ok(());
                };
                let how = match &status {
                    Ok(status) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                if worker.deadline.is_some() {
                    tracing::info!(worker = id, pid = worker.pid, "worker finished: {how}");
                    return Ok(());
                }
                if status.is_ok_and(|status| status.code() == Some(EXIT_USAGE)) {
                    return Err(Error::new(
                        Code::Internal,
                        "a worker does not accept its settings; its message stands above",
                    ));
                }
                if worker.started.elapsed() >= STARTUP {
                    self.crashes = 0;
                    self.not_before = None;
                    tracing::warn!(worker = id, pid = worker.pid, "worker ended: {how}");
                    return Ok(());
                }
                self.crashed(id, &how)
            }
        }
    }

    /// Kills workers that did not stop in time.
    pub fn kill_late(&mut self) {
        let now = Instant::now();
        for (id, worker) in &self.workers {
            if worker.deadline.is_some_and(|end| end <= now) && !worker.kill.is_cancelled() {
                tracing::warn!(
                    worker = id,
                    pid = worker.pid,
                    grace_ms = self.grace.as_millis() as u64,
                    "worker did not stop in time and is killed; its payloads are requeued"
                );
                worker.kill.cancel();
            }
        }
    }

    /// Stops all workers and waits for the last one to end.
    pub async fn stop(&mut self) {
        self.stop_newest(usize::MAX);
        while !self.workers.is_empty() {
            let next = self.workers.values().filter_map(|w| w.deadline).min();
            let end = next.unwrap_or_else(Instant::now);
            match timeout_at(end, self.event()).await {
                Ok(event) => {
                    // A crash while stopping is not an error.
                    let _ = self.handle(event);
                }
                Err(_) => {
                    self.kill_late();
                    sleep_until(Instant::now() + Duration::from_millis(20)).await;
                }
            }
        }
    }
}

fn spawn(command: &WorkerCommand) -> std::io::Result<(Child, Option<ChildStdin>)> {
    let mut child = Command::new(&command.program)
        .args(&command.args)
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take();
    Ok((child, stdin))
}

/// Reports that a worker is ready, which it prints as its first line, and its end.
async fn watch(
    worker: u64,
    mut child: Child,
    kill: CancellationToken,
    events: mpsc::UnboundedSender<Event>,
) {
    let report = |kind| {
        // An error means that the pool was dropped.
        let _ = events.send(Event { worker, kind });
    };
    let stdout = child.stdout.take();
    let read = async {
        if let Some(stdout) = stdout {
            first_line(stdout, || report(EventKind::Ready)).await;
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = child.wait() => ended,
        () = kill.cancelled() => match child.start_kill() {
            Ok(()) => child.wait().await,
            Err(error) => Err(error),
        },
        () = read => return,
    };
    report(EventKind::Ended(ended));
}

/// Reads to the end, so that the worker never blocks on a full pipe.
async fn first_line(stdout: impl AsyncRead + Unpin, ready: impl Fn()) {
    let mut lines = BufReader::new(stdout).lines();
    let mut first = true;
    while let Ok(Some(_)) = lines.next_line().await {
        if std::mem::take(&mut first) {
            ready();
        }
    }
}
