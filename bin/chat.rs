//! The command line. Each subcommand is one call into a library.

mod benchmarks;
mod data;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use chat::{
    admin::{
        QueueTools,
        doctor::{self, Status},
    },
    app,
    autoscale::{
        self, WorkerCommand,
        simulate::{self, Simulate},
    },
    config::{Config, Role, Source, Sources},
    error::{Code, Error, Result},
    output,
    protocol::raw,
    queue::Selection,
    telemetry,
};
use clap::{Args, CommandFactory, Parser, Subcommand};
use uuid::Uuid;

use self::benchmarks::Benchmark;

/// Version, commit and compiler of this program, found by `build.rs`.
const BUILD: telemetry::Build = telemetry::Build {
    version: env!("CARGO_PKG_VERSION"),
    commit: env!("CHAT_COMMIT"),
    rustc: env!("CHAT_RUSTC"),
};

/// Returns the memory of a burst or of a password hash (19 MiB each) to the system; glibc's allocator keeps it for each
/// thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc returns memory a second after it was freed, but only when something else is freed: on an idle server that
/// may be hours after a burst. This thread makes it check every second.
#[allow(unsafe_code, reason = "the allocator's C interface")]
fn return_free_memory() {
    let collect = || loop {
        thread::sleep(Duration::from_secs(1));
        // SAFETY: `mi_collect` has no preconditions; any thread may call it at any time.
        unsafe { libmimalloc_sys::mi_collect(false) };
    };
    // Without the thread memory is returned later; nothing else depends on it.
    let _ = thread::Builder::new().name("memory".into()).spawn(collect);
}

/// A chat backend: one process on a laptop; edges and workers over RabbitMQ, PostgreSQL and Redis in production.
#[derive(Parser)]
#[command(name = "chat", version, propagate_version = true)]
struct Cli {
    /// A settings file (TOML). Its keys are those of config.toml, which holds every default.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Edge and worker in one process, with its data in one directory; needs no other servers.
    Standalone {
        /// The data directory; created if missing.
        #[arg(long, default_value = "./data", value_name = "DIR")]
        data: PathBuf,
        #[command(flatten)]
        listen: Listen,
    },
    /// Serves clients: REST, WebSocket. Publishes to RabbitMQ, reads PostgreSQL, listens to Redis.
    Edge {
        #[command(flatten)]
        listen: Listen,
    },
    /// Stores what edges accepted, and publishes it to them. Any number may run.
    Worker {
        /// Its roles, of messages, notify, deliver and maintenance; all of them if left out [worker.jobs].
        #[arg(long, value_name = "KIND,…")]
        jobs: Option<String>,
        /// Shuts down gracefully when standard input ends; `chat autoscale` starts its workers with it.
        #[arg(long, hide = true)]
        stop_with_stdin: bool,
    },
    /// Keeps as many workers on this machine as the queue needs, down to none.
    Autoscale {
        /// Workers that always run; 0 is allowed [autoscale.min].
        #[arg(long)]
        min: Option<u32>,
        /// Most workers [autoscale.max].
        #[arg(long)]
        max: Option<u32>,
        /// The roles of its workers, whose backlog it follows: each set of roles is a pool with its own leader
        /// [worker.jobs].
        #[arg(long, value_name = "KIND,…")]
        jobs: Option<String>,
        /// Starts no workers; prints its samples and decisions (and exports them as metrics).
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        simulate: Simulate,
    },
    /// Brings the PostgreSQL schema up to date; safe while the previous version still runs.
    Migrate(data::Migrate),
    /// Copies a standalone server's data into one file, while it runs.
    Backup(data::Backup),
    /// Puts a backup into the data directory of a standalone server, which must not be running.
    Restore(data::Restore),
    /// Shows the queues: their depths and their dead letters.
    Queue {
        /// The data directory of a standalone server, instead of the cluster's queue.
        #[arg(long, global = true, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Prints JSON.
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        what: Queue,
    },
    /// Notifications.
    Notify {
        #[command(subcommand)]
        what: Notify,
    },
    /// Checks every server and setting, and says what to do.
    Doctor {
        /// Checks the data directory of a standalone server instead of the cluster's servers.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Loads a running server and judges what comes back: exit 1 if anything was lost, repeated or out of order.
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        #[command(flatten)]
        load: Box<bench::load::Load>,
        #[command(subcommand)]
        benchmark: Option<Benchmark>,
    },
    /// Prints the settings in effect with where each came from, secrets hidden.
    Config {
        /// Only check them: exit 2 with every problem.
        #[arg(long)]
        check: bool,
    },
    /// Prints the OpenAPI specification of the REST API.
    Openapi,
    /// Prints the AsyncAPI specification of the sockets.
    Asyncapi,
    /// Prints the completions of a shell: `chat completions bash >/etc/bash_completion.d/chat`.
    Completions { shell: clap_complete::Shell },
    /// Writes the manual pages, one file per command.
    Man {
        /// The directory; created if missing.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Subcommand)]
enum Notify {
    /// Prints notifications rendered with the templates in use: an e-mail's subject and text with the text messages, or
    /// its HTML.
    Preview {
        /// Prints the HTML, for a browser: `chat notify preview --html >mail.html`.
        #[arg(long)]
        html: bool,
    },
}

#[derive(Subcommand)]
enum Queue {
    /// The depth of each queue: batches in the partitions, tasks in the others.
    List,
    /// Dead letters: commands that failed for good, with their reason.
    Dead {
        #[command(subcommand)]
        what: Dead,
    },
}

#[derive(Subcommand)]
enum Dead {
    /// Lists them, oldest first.
    List {
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Prints one with its payload.
    Show { id: Uuid },
    /// Puts them into their queue again and deletes them here.
    Replay(Which),
    /// Deletes them.
    Purge(Which),
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The id that `list` shows.
    id: Option<Uuid>,
    /// All of them.
    #[arg(long)]
    all: bool,
}

impl From<Which> for Selection {
    fn from(which: Which) -> Self {
        which.id.map_or(Selection::All, Selection::One)
    }
}

#[derive(Args)]
struct Listen {
    /// The address to serve on [edge.host].
    #[arg(long)]
    host: Option<String>,
    /// The port to serve on; 0 picks a free one [edge.port].
    #[arg(long)]
    port: Option<u16>,
}

fn main() -> ExitCode {
    // On wrong usage clap exits with 2.
    let cli = Cli::parse();
    let (role, listen) = match &cli.command {
        Command::Standalone { listen, .. } => (Role::Standalone, Some(listen)),
        Command::Edge { listen } => (Role::Edge, Some(listen)),
        Command::Worker { .. } => (Role::Worker, None),
        Command::Openapi => {
            output::line(chat::edge::api::spec().trim_end());
            return ExitCode::SUCCESS;
        }
        Command::Asyncapi => {
            output::line(chat::protocol::asyncapi::spec().trim_end());
            return ExitCode::SUCCESS;
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "chat", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end());
            return ExitCode::SUCCESS;
        }
        Command::Man { directory } => {
            let pages = std::fs::create_dir_all(directory)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
            return match pages {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    output::note(format_args!(
                        "cannot write to {}: {error}",
                        directory.display()
                    ));
                    ExitCode::FAILURE
                }
            };
        }
        Command::Config { .. } | Command::Doctor { .. } => (Role::Check, None),
        _ => (Role::Tool, None),
    };
    let mut sources = Sources::from_process().with_file(cli.config.clone());
    if let Command::Autoscale { min, max, .. } = &cli.command {
        for (key, flag, value) in [
            ("autoscale.min", "--min", min),
            ("autoscale.max", "--max", max),
        ] {
            if let Some(value) = value {
                sources = sources.with_flag(key, value.to_string(), flag);
            }
        }
    }
    if let Command::Worker { jobs, .. } | Command::Autoscale { jobs, .. } = &cli.command
        && let Some(jobs) = jobs
    {
        sources = sources.with_flag("worker.jobs", jobs, "--jobs");
    }
    if let Some(listen) = listen {
        if let Some(host) = &listen.host {
            sources = sources.with_flag("edge.host", host, "--host");
        }
        if let Some(port) = listen.port {
            sources = sources.with_flag("edge.port", port.to_string(), "--port");
        }
    }
    let mut config = match Config::load(&sources, role) {
        Ok(config) => config,
        Err(problems) => {
            output::note(problems);
            return ExitCode::from(2);
        }
    };
    if let Command::Notify {
        what: Notify::Preview { html },
    } = &cli.command
    {
        let (templates, segments) = (&config.notify.templates, config.notify.sms.segments);
        let preview = chat::notify::template::preview(templates, *html, segments);
        output::line(preview.trim_end());
        return ExitCode::SUCCESS;
    }
    if let Command::Config { check } = cli.command {
        if !check {
            output::line(config.effective().trim_end());
        } else if config.auth.secret.is_empty() {
            output::line(
                "the settings are valid; `chat edge` also needs auth.secret (CHAT__AUTH__SECRET)",
            );
        } else {
            output::line("the settings are valid");
        }
        return ExitCode::SUCCESS;
    }
    if matches!(role, Role::Tool | Role::Check) && !matches!(cli.command, Command::Autoscale { .. })
    {
        be_quiet(&mut config);
    }
    // Fails only where a log is set up already, which it is not.
    let _log = telemetry::init(&config.log);
    let _ = rustls::crypto::ring::default_provider().install_default();
    telemetry::built_from(BUILD);
    if !matches!(role, Role::Tool | Role::Check) {
        return_free_memory();
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command, cli.config, config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(error.for_operator());
            match error.code {
                // A setting, an argument, or a file that one names.
                Code::Invalid => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// The log of a command whose result is on standard output: warnings, unless `log.filter` is set, and no notices of
/// PostgreSQL.
fn be_quiet(config: &mut Config) {
    if let Some(Source::Default) = config.source("log.filter") {
        config.log.filter = "warn".to_owned();
    }
    config.log.filter.push_str(",sqlx::postgres::notice=off");
}

async fn run(command: Command, file: Option<PathBuf>, config: Config) -> Result<()> {
    let shutdown = app::shutdown_on_signal().map_err(Error::internal)?;
    if let Command::Standalone { .. }
    | Command::Edge { .. }
    | Command::Worker { .. }
    | Command::Autoscale { .. } = &command
    {
        let serves = matches!(command, Command::Standalone { .. } | Command::Edge { .. });
        // There it loads the certificate again.
        if !(serves && config.edge.tls.is_on()) {
            app::ignore_hangup().map_err(Error::internal)?;
        }
    }
    match command {
        Command::Standalone { data, .. } => {
            let listener = app::listen(&config).await?;
            let ready = say_ready(&config);
            app::standalone(config, &data, listener, shutdown, ready).await
        }
        Command::Edge { .. } => {
            let listener = app::listen(&config).await?;
            let ready = say_ready(&config);
            app::edge(config, listener, shutdown, ready).await
        }
        Command::Worker {
            stop_with_stdin, ..
        } => {
            if stop_with_stdin {
                app::serve_parent(shutdown.clone());
            }
            let ready = Box::new(|_| output::announce("chat worker is ready"));
            app::worker(config, shutdown, ready).await
        }
        Command::Autoscale {
            dry_run,
            jobs,
            simulate,
            ..
        } => {
            if let Some(day) = &simulate.simulate {
                let rules = autoscale::rules(&config.autoscale, config.queue.partitions.into());
                return simulate::run(day, &simulate, &rules);
            }
            let worker = WorkerCommand::this_program(file.as_deref(), jobs.as_deref())?;
            let ready = Box::new(|_| output::announce("chat autoscale is ready"));
            app::autoscale(config, worker, dry_run, shutdown, ready).await
        }
        Command::Migrate(arguments) => data::migrate(&config, arguments, shutdown).await,
        Command::Backup(arguments) => data::backup(arguments, shutdown).await,
        Command::Restore(arguments) => data::restore(arguments, shutdown).await,
        Command::Queue { data, json, what } => {
            let tools = QueueTools::open(&config, data.as_deref()).await?;
            queue(&tools, json, what).await
        }
        Command::Doctor { data, json } => diagnose(&config, data.as_deref(), json).await,
        Command::Bench { load, benchmark } => {
            let result = match benchmark {
                Some(benchmark) => benchmarks::run(benchmark, &config, shutdown).await,
                None => benchmarks::load(&load, shutdown).await,
            };
            result.map_err(benchmarks::convert)
        }
        Command::Config { .. }
        | Command::Notify { .. }
        | Command::Openapi
        | Command::Asyncapi
        | Command::Completions { .. }
        | Command::Man { .. } => Ok(()),
    }
}

async fn queue(tools: &QueueTools, json: bool, what: Queue) -> Result<()> {
    match what {
        Queue::List => {
            let depths = tools.depths().await?;
            if json {
                output::line(raw(&depths));
            } else {
                output::line(format_args!(
                    "{:<32} {:>8} {:>9}",
                    "queue", "waiting", "consumers"
                ));
                for depth in depths {
                    output::line(format_args!(
                        "{:<32} {:>8} {:>9}",
                        depth.queue, depth.ready, depth.consumers
                    ));
                }
            }
        }
        Queue::Dead {
            what: Dead::List { limit },
        } => {
            let letters = tools.list(limit).await?;
            if json {
                output::line(raw(&letters));
            } else if letters.is_empty() {
                output::line("no dead letters");
            }
            for letter in letters.iter().filter(|_| !json) {
                output::line(format_args!(
                    "{}  {}  {}",
                    letter.id, letter.at, letter.reason
                ));
            }
        }
        Queue::Dead {
            what: Dead::Show { id },
        } => output::line(format_args!(
            "{:#}",
            serde_json::json!(tools.show(id).await?)
        )),
        Queue::Dead {
            what: Dead::Replay(which),
        } => output::line(format_args!(
            "{} put into their queue again",
            tools.replay(which.into()).await?
        )),
        Queue::Dead {
            what: Dead::Purge(which),
        } => output::line(format_args!("{} deleted", tools.purge(which.into()).await?)),
    }
    Ok(())
}

async fn diagnose(config: &Config, data: Option<&Path>, json: bool) -> Result<()> {
    let report = match data {
        Some(data) => doctor::check_standalone(config, data).await?,
        None => doctor::check(config).await?,
    };
    if json {
        output::line(raw(&report));
    }
    for finding in report.findings.iter().filter(|_| !json) {
        let status = finding.status.as_str();
        let line = format!("{status:<8} {:<24} {}", finding.check, finding.text);
        match &finding.advice {
            Some(advice) => output::line(format_args!("{line} -> {advice}")),
            None => output::line(line),
        }
    }
    match report.count(Status::Problem) {
        0 => Ok(()),
        problems => Err(Error::conflict(format!(
            "{problems} of {} checks found a problem",
            report.findings.len()
        ))),
    }
}

/// Prints the address of the edge once it serves clients.
fn say_ready(config: &Config) -> app::Ready {
    let scheme = if config.edge.tls.is_on() {
        "https"
    } else {
        "http"
    };
    Box::new(move |address| {
        if let Some(address) = address {
            output::announce(format_args!("chat is ready on {scheme}://{address}"));
        }
    })
}
