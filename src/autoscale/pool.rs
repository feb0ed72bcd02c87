//! The worker processes of this machine: started, watched, retired.
//!
//! Each worker holds the other end of a pipe as its standard input and stops gently when it ends. So closing it is
//! how a worker is retired, and a killed autoscaler needs no clean-up: its workers finish their batches and go. The
//! next autoscaler starts its own; there is nobody to adopt, and none is there twice.

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

/// Who ends sooner crashed at once.
const AT_ONCE: Duration = Duration::from_secs(10);
/// So many crash at once, in a row and with no worker that stays, before the pool gives up: ten seconds or so.
const GIVE_UP_AFTER: u32 = 8;
const RESTART: Policy = Policy {
    initial: Duration::from_millis(200),
    max: Duration::from_secs(3),
    deadline: None,
};
/// Wrong usage or settings: another try would end the same way.
const USELESS: i32 = 2;

/// How a worker is started.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Set on top of this process's environment.
    pub env: Vec<(String, String)>,
}

impl Recipe {
    /// `chat worker` by the program that runs now, with its settings file and, where they were given, its kinds of
    /// work.
    ///
    /// # Errors
    /// Where the system does not say which program that is.
    pub fn this_program(config: Option<&Path>, jobs: Option<&str>) -> Result<Recipe> {
        let program = std::env::current_exe().map_err(Error::internal)?;
        let mut args = vec!["worker".into(), "--stop-with-stdin".into()];
        if let Some(config) = config {
            args.extend(["--config".into(), config.into()]);
        }
        if let Some(jobs) = jobs {
            args.extend(["--jobs".into(), jobs.into()]);
        }
        Ok(Recipe {
            program,
            args,
            // They would all ask for the autoscaler's own port.
            env: vec![("CHAT__METRICS__PORT".to_owned(), "0".to_owned())],
        })
    }
}

/// What happened to a worker.
#[derive(Debug)]
pub struct Event {
    worker: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Ready,
    Ended(std::io::Result<ExitStatus>),
}

struct Worker {
    pid: Option<u32>,
    started: Instant,
    ready: bool,
    /// Closed to retire it.
    stdin: Option<ChildStdin>,
    /// When it is killed.
    deadline: Option<Instant>,
    kill: CancellationToken,
}

pub struct Pool {
    recipe: Recipe,
    grace: Duration,
    workers: BTreeMap<u64, Worker>,
    next: u64,
    events: mpsc::UnboundedReceiver<Event>,
    sender: mpsc::UnboundedSender<Event>,
    /// Crashes at once, in a row.
    crashes: u32,
    last_crash: Option<Instant>,
    /// No start before, after a crash.
    not_before: Option<Instant>,
}

impl Pool {
    /// Starts nobody yet. `grace`: how long a worker may take to finish before it is killed.
    pub fn new(recipe: Recipe, grace: Duration) -> Pool {
        let (sender, events) = mpsc::unbounded_channel();
        Pool {
            recipe,
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

    /// Workers that are not on their way out.
    pub fn active(&self) -> usize {
        self.workers
            .values()
            .filter(|worker| worker.deadline.is_none())
            .count()
    }

    /// All processes.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Starts or retires workers until `target` are active. After a crash one is tried at a time, and not before its
    /// pause is over: call it again.
    ///
    /// # Errors
    /// When workers cannot be started, again and again.
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
                // Whether this one stays is seen before the next one is started.
                self.not_before = Some(Instant::now() + AT_ONCE);
                break;
            }
        }
        self.retire(active.saturating_sub(target));
        Ok(())
    }

    /// Someone who was started after the last crash and is still there.
    fn stays(&self, worker: &Worker) -> bool {
        let later = self.last_crash.is_none_or(|crash| worker.started > crash);
        worker.ready && later && worker.started.elapsed() >= AT_ONCE
    }

    /// Asks the newest workers to finish.
    fn retire(&mut self, count: usize) {
        let deadline = Instant::now() + self.grace;
        let newest = self.workers.iter_mut().rev();
        for (id, worker) in newest.filter(|(_, w)| w.deadline.is_none()).take(count) {
            tracing::info!(worker = id, pid = worker.pid, "worker is asked to finish");
            worker.stdin = None;
            worker.deadline = Some(deadline);
        }
    }

    /// Whether there is one more now.
    fn start(&mut self) -> Result<bool> {
        let id = self.next;
        self.next += 1;
        match spawn(&self.recipe) {
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
                let program = self.recipe.program.display();
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

    /// What happens next to a worker. Never resolves without workers. Cancel-safe.
    pub async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // The pool holds a sender itself.
            None => std::future::pending().await,
        }
    }

    /// # Errors
    /// When workers crash at once, again and again, or for a reason that will not change.
    pub fn handle(&mut self, event: Event) -> Result<()> {
        let id = event.worker;
        match event.what {
            What::Ready => {
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
            What::Ended(status) => {
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
                if status.is_ok_and(|status| status.code() == Some(USELESS)) {
                    return Err(Error::new(
                        Code::Internal,
                        "a worker does not accept its settings; its complaint stands above",
                    ));
                }
                if worker.started.elapsed() >= AT_ONCE {
                    self.crashes = 0;
                    self.not_before = None;
                    tracing::warn!(worker = id, pid = worker.pid, "worker ended: {how}");
                    return Ok(());
                }
                self.crashed(id, &how)
            }
        }
    }

    /// Kills those that did not finish in time.
    pub fn kill_late(&mut self) {
        let now = Instant::now();
        for (id, worker) in &self.workers {
            if worker.deadline.is_some_and(|end| end <= now) && !worker.kill.is_cancelled() {
                tracing::warn!(
                    worker = id,
                    pid = worker.pid,
                    grace_ms = self.grace.as_millis() as u64,
                    "worker did not finish in time and is killed; what it held goes back to the queue"
                );
                worker.kill.cancel();
            }
        }
    }

    /// Retires everyone and waits for the last one's end.
    pub async fn stop(&mut self) {
        self.retire(usize::MAX);
        while !self.workers.is_empty() {
            let next = self.workers.values().filter_map(|w| w.deadline).min();
            let end = next.unwrap_or_else(Instant::now);
            match timeout_at(end, self.event()).await {
                Ok(event) => {
                    // A crash now is an end like any other.
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

fn spawn(recipe: &Recipe) -> std::io::Result<(Child, Option<ChildStdin>)> {
    let mut child = Command::new(&recipe.program)
        .args(&recipe.args)
        .envs(recipe.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take();
    Ok((child, stdin))
}

/// Reports that a worker is ready (it says so in its first line), and its end.
async fn watch(
    worker: u64,
    mut child: Child,
    kill: CancellationToken,
    events: mpsc::UnboundedSender<Event>,
) {
    let tell = |what| {
        // Nobody listens when the pool is gone.
        let _ = events.send(Event { worker, what });
    };
    let said = child.stdout.take();
    let read = async {
        if let Some(said) = said {
            first_line(said, || tell(What::Ready)).await;
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
    tell(What::Ended(ended));
}

/// Reads to the end, so that the writer never waits for a reader.
async fn first_line(said: impl AsyncRead + Unpin, ready: impl Fn()) {
    let mut lines = BufReader::new(said).lines();
    let mut first = true;
    while let Ok(Some(_)) = lines.next_line().await {
        if std::mem::take(&mut first) {
            ready();
        }
    }
}
