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
    sync::Arc,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{worker_metrics::WorkerMetrics, worker_pipe};
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
    /// Dropped to close its standard input, which stops it.
    stdin: Option<DropGuard>,
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
    metrics: Arc<WorkerMetrics>,
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
            metrics: Arc::default(),
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

    /// The metrics of the workers that are not stopping.
    pub fn metrics(&self) -> Arc<WorkerMetrics> {
        self.metrics.clone()
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
            self.metrics.remove(*id);
            worker.stdin = None;
            worker.deadline = Some(deadline);
        }
    }

    /// Returns whether a worker was started.
    fn start(&mut self) -> Result<bool> {
        let id = self.next;
        self.next += 1;
        match spawn(&self.command) {
            Ok(child) => {
                let close = CancellationToken::new();
                let (requests, scrapes) = mpsc::channel(1);
                self.metrics.add(id, requests);
                let kill = CancellationToken::new();
                let pid = child.id();
                tracing::info!(worker = id, pid, "worker started");
                let pipe = (scrapes, close.clone());
                let events = self.sender.clone();
                tokio::spawn(watch(id, child, pipe, kill.clone(), events));
                self.workers.insert(
                    id,
                    Worker {
                        pid,
                        started: Instant::now(),
                        ready: false,
                        stdin: Some(close.drop_guard()),
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
                self.metrics.remove(id);
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

fn spawn(command: &WorkerCommand) -> std::io::Result<Child> {
    Command::new(&command.program)
        .args(&command.args)
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Reports that a worker is ready, which it prints as its first line, and its end. Serves its pipes meanwhile.
async fn watch(
    worker: u64,
    mut child: Child,
    (scrapes, close): (mpsc::Receiver<worker_pipe::Request>, CancellationToken),
    kill: CancellationToken,
    events: mpsc::UnboundedSender<Event>,
) {
    let report = |kind| {
        // An error means that the pool was dropped.
        let _ = events.send(Event { worker, kind });
    };
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let pipes = async {
        if let Some(stdout) = stdout {
            let ready = || report(EventKind::Ready);
            worker_pipe::serve(stdin, stdout, scrapes, close, ready).await;
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = child.wait() => ended,
        () = kill.cancelled() => match child.start_kill() {
            Ok(()) => child.wait().await,
            Err(error) => Err(error),
        },
        () = pipes => return,
    };
    report(EventKind::Ended(ended));
}
