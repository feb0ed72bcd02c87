//! The command line. Each subcommand is one call into the library.

use std::{path::PathBuf, process::ExitCode, thread, time::Duration};

use chat::{
    admin::QueueTools,
    app,
    autoscale::{
        self, WorkerCommand,
        simulate::{self, Simulate},
    },
    bench,
    config::{Config, Role, Sources},
    error::{Code, Error, Result},
    protocol::raw,
    queue::Selection,
    telemetry,
};
use clap::{Args, Parser, Subcommand};
use uuid::Uuid;

/// Gives back what a burst or a password hash (19 MiB each) took; the system's allocator keeps it, for each thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The allocator gives free memory back a second after it was freed, but looks for it only when something else is freed:
/// after a burst, with nobody there, that may be hours later. So someone looks.
#[allow(unsafe_code, reason = "the allocator's C interface")]
fn give_back_memory() {
    let look = || loop {
        thread::sleep(Duration::from_secs(1));
        // SAFETY: it has no conditions; any thread may call it at any time.
        unsafe { libmimalloc_sys::mi_collect(false) };
    };
    // Without it, memory stays longer; nothing else changes.
    let _ = thread::Builder::new().name("memory".into()).spawn(look);
}

/// A chat backend: one process on a laptop; edges and workers over RabbitMQ, PostgreSQL and Redis in production.
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    /// A settings file (TOML). Its keys are those of config.toml, which holds every default.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Edge and worker in one process, everything in one directory, nothing else to install.
    Standalone {
        /// Where everything is kept; created if missing.
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
    /// Stores what edges accepted, and tells them. Start as many as you like.
    Worker {
        /// What it does, of messages, notify, deliver and maintenance; all of it if left out [worker.jobs].
        #[arg(long, value_name = "KIND,…")]
        jobs: Option<String>,
        /// Stops gently when standard input ends; `chat autoscale` starts its workers so.
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
        /// What its workers do, and what counts: a pool of its own, with a leader of its own [worker.jobs].
        #[arg(long, value_name = "KIND,…")]
        jobs: Option<String>,
        /// Starts nobody; prints what it sees and would do (and shows it as metrics).
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        simulate: Simulate,
    },
    /// Brings the PostgreSQL schema up to date; safe while the previous version still runs.
    Migrate,
    /// Looks into the queue: what waits, and what could not succeed.
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
        what: Option<Bench>,
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
}

#[derive(Subcommand)]
enum Notify {
    /// Prints what notifications look like with the templates in use: an e-mail's subject and text with the text messages,
    /// or its HTML.
    Preview {
        /// The HTML, for a browser: `chat notify preview --html >mail.html`.
        #[arg(long)]
        html: bool,
    },
}

#[derive(Subcommand)]
enum Queue {
    /// How much waits in each queue: batches in the partitions, jobs in the others.
    List,
    /// Commands that could not succeed, set aside with their reason.
    Dead {
        #[command(subcommand)]
        what: Dead,
    },
}

#[derive(Subcommand)]
enum Dead {
    /// The oldest first.
    List {
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// One of them, whole.
    Show { id: Uuid },
    /// Puts them into their queue again, then forgets them.
    Replay(Which),
    /// Forgets them.
    Purge(Which),
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// One, as `list` names it.
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

#[derive(Subcommand)]
enum Bench {
    /// What one delivery costs: many sockets in one room and a burst of messages. Prints JSON.
    Fanout(bench::fanout::Fanout),
    /// How fast many sockets come in: connected, authenticated, in their rooms. Prints JSON.
    Connect(bench::storm::Storm),
    /// What a socket at rest costs the server: its memory, before and after a burst. Prints JSON.
    Idle(bench::storm::Storm),
    /// How fast recent history is read over REST. Prints JSON.
    History(bench::history::History),
    /// Draws a chart: reads what is to be drawn as JSON on standard input, prints SVG. For scripts/bench.
    #[command(hide = true)]
    Plot,
    /// How the number of workers follows the load: quiet, a burst, quiet, against a deployment that `chat autoscale` runs.
    /// Prints JSON; exit 1 if anything was lost, repeated or out of order.
    Scaling(bench::scaling::Scaling),
    /// Skeletons to compare with: bare code that does only what cannot be avoided.
    Bare {
        #[command(subcommand)]
        what: Bare,
    },
}

#[derive(Subcommand)]
enum Bare {
    /// Publishes and confirms one message at a time, consumes, stores, acknowledges. Prints JSON.
    Pipeline(bench::bare::pipeline::Pipeline),
    /// A server that only moves bytes, for the others of these benchmarks.
    Serve(bench::bare::serve::Serve),
}

async fn measure(what: Bench, config: &Config) -> Result<()> {
    let report = match what {
        Bench::Fanout(fanout) => raw(&bench::fanout::run(&fanout).await?).to_string(),
        Bench::Connect(storm) => raw(&bench::storm::connect(&storm).await?).to_string(),
        Bench::Idle(storm) => raw(&bench::storm::idle(&storm).await?).to_string(),
        Bench::History(history) => raw(&bench::history::run(&history).await?).to_string(),
        Bench::Plot => chat::plot::from_json(std::io::stdin())?,
        Bench::Scaling(scaling) => {
            let report = bench::scaling::run(&scaling).await?;
            println!("{:#}", serde_json::json!(report));
            bench::scaling::write(&scaling, &report)?;
            return clean(&report.load);
        }
        Bench::Bare {
            what: Bare::Pipeline(pipeline),
        } => raw(&bench::bare::pipeline::run(&pipeline, config).await?).to_string(),
        Bench::Bare {
            what: Bare::Serve(serve),
        } => return bench::bare::serve::run(&serve).await,
    };
    println!("{report}");
    Ok(())
}

fn clean(report: &bench::load::Report) -> Result<()> {
    if report.is_clean() {
        Ok(())
    } else {
        Err(Error::conflict(
            "messages were lost, repeated or out of order",
        ))
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
    // clap itself exits with 2 on wrong usage.
    let cli = Cli::parse();
    let (role, listen) = match &cli.command {
        Command::Standalone { listen, .. } => (Role::Standalone, Some(listen)),
        Command::Edge { listen } => (Role::Edge, Some(listen)),
        Command::Worker { .. } => (Role::Worker, None),
        Command::Openapi => {
            println!("{}", chat::edge::api::spec().trim_end());
            return ExitCode::SUCCESS;
        }
        Command::Asyncapi => {
            println!("{}", chat::protocol::asyncapi::spec().trim_end());
            return ExitCode::SUCCESS;
        }
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
    let config = match Config::load(&sources, role) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(2);
        }
    };
    if let Command::Notify {
        what: Notify::Preview { html },
    } = &cli.command
    {
        let templates = &config.notify.templates;
        print!("{}", chat::notify::template::preview(templates, *html));
        return ExitCode::SUCCESS;
    }
    if let Command::Config { check } = cli.command {
        if !check {
            print!("{}", config.effective());
        }
        return ExitCode::SUCCESS;
    }
    // Only fails where a log is set up already, which nobody did.
    let _ = telemetry::init(&config.log);
    let _ = rustls::crypto::ring::default_provider().install_default();
    if role != Role::Tool {
        give_back_memory();
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command, cli.config, config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.chain());
            match error.code {
                // A setting, or a file that stands for one.
                Code::Invalid => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(command: Command, file: Option<PathBuf>, config: Config) -> Result<()> {
    let shutdown = app::shutdown_on_signal().map_err(Error::internal)?;
    match command {
        Command::Standalone { data, .. } => {
            let listener = app::listen(&config).await?;
            app::standalone(config, &data, listener, shutdown, Box::new(say_ready)).await
        }
        Command::Edge { .. } => {
            let listener = app::listen(&config).await?;
            app::edge(config, listener, shutdown, Box::new(say_ready)).await
        }
        Command::Worker {
            stop_with_stdin, ..
        } => {
            if stop_with_stdin {
                app::stop_with_stdin(shutdown.clone());
            }
            let ready = Box::new(|_| println!("chat worker is ready"));
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
            let ready = Box::new(|_| println!("chat autoscale is ready"));
            app::autoscale(config, worker, dry_run, shutdown, ready).await
        }
        Command::Migrate => {
            app::migrate(&config).await?;
            println!("the schema is up to date");
            Ok(())
        }
        Command::Queue { data, json, what } => {
            let tools = QueueTools::open(&config, data.as_deref()).await?;
            queue(&tools, json, what).await
        }
        Command::Doctor { json } => doctor(&config, json).await,
        Command::Bench {
            what: Some(what), ..
        } => measure(what, &config).await,
        Command::Bench { load, what: None } => {
            let report = bench::load::run(&load).await?;
            println!("{:#}", serde_json::json!(report));
            bench::load::write(&load, &report)?;
            clean(&report)
        }
        Command::Config { .. } | Command::Notify { .. } | Command::Openapi | Command::Asyncapi => {
            Ok(())
        }
    }
}

async fn queue(tools: &QueueTools, json: bool, what: Queue) -> Result<()> {
    match what {
        Queue::List => {
            let depths = tools.depths().await?;
            if json {
                println!("{}", raw(&depths));
            } else {
                println!("{:<32} {:>8} {:>9}", "queue", "waiting", "consumers");
                for depth in depths {
                    println!(
                        "{:<32} {:>8} {:>9}",
                        depth.queue, depth.ready, depth.consumers
                    );
                }
            }
        }
        Queue::Dead {
            what: Dead::List { limit },
        } => {
            let letters = tools.list(limit).await?;
            if json {
                println!("{}", raw(&letters));
            } else if letters.is_empty() {
                println!("no dead letters");
            }
            for letter in letters.iter().filter(|_| !json) {
                println!("{}  {}  {}", letter.id, letter.at, letter.reason);
            }
        }
        Queue::Dead {
            what: Dead::Show { id },
        } => println!("{:#}", serde_json::json!(tools.show(id).await?)),
        Queue::Dead {
            what: Dead::Replay(which),
        } => println!(
            "{} put into their queue again",
            tools.replay(which.into()).await?
        ),
        Queue::Dead {
            what: Dead::Purge(which),
        } => println!("{} forgotten", tools.purge(which.into()).await?),
    }
    Ok(())
}

async fn doctor(config: &Config, json: bool) -> Result<()> {
    let findings = chat::admin::doctor(config).await;
    if json {
        println!("{}", raw(&findings));
    }
    for finding in findings.iter().filter(|_| !json) {
        let mark = if finding.ok { "ok " } else { "BAD" };
        println!("{mark} {:<12} {}", finding.name, finding.text);
    }
    match findings.iter().filter(|finding| !finding.ok).count() {
        0 => Ok(()),
        bad => Err(Error::conflict(format!(
            "{bad} of {} need attention",
            findings.len()
        ))),
    }
}

fn say_ready(address: Option<std::net::SocketAddr>) {
    if let Some(address) = address {
        println!("chat is ready on http://{address}");
    }
}
