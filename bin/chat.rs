//! The command line. Each subcommand is one call into the library.

use std::{path::PathBuf, process::ExitCode};

use chat::{
    app, bench,
    config::{Config, Role, Sources},
    error::Result,
    telemetry,
};
use clap::{Args, Parser, Subcommand};

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
    Worker,
    /// Brings the PostgreSQL schema up to date; safe while the previous version still runs.
    Migrate,
    /// Measures a running server.
    Bench {
        #[command(subcommand)]
        what: Bench,
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
enum Bench {
    /// What one delivery costs: many sockets in one room and a burst of messages. Prints JSON.
    Fanout(bench::fanout::Fanout),
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
        Command::Worker => (Role::Worker, None),
        Command::Openapi => {
            println!("{}", chat::edge::api::spec().trim_end());
            return ExitCode::SUCCESS;
        }
        Command::Asyncapi => {
            println!("{}", chat::protocol::asyncapi::spec().trim_end());
            return ExitCode::SUCCESS;
        }
        Command::Migrate | Command::Bench { .. } | Command::Config { .. } => (Role::Tool, None),
    };
    let mut sources = Sources::from_process().with_file(cli.config);
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
    if let Command::Config { check } = cli.command {
        if !check {
            print!("{}", config.effective());
        }
        return ExitCode::SUCCESS;
    }
    // Only fails where a log is set up already, which nobody did.
    let _ = telemetry::init(&config.log);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command, config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.chain());
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, config: Config) -> Result<()> {
    let shutdown = app::shutdown_on_signal().map_err(chat::error::Error::internal)?;
    match command {
        Command::Standalone { data, .. } => {
            let listener = app::listen(&config).await?;
            app::standalone(config, &data, listener, shutdown, Box::new(say_ready)).await
        }
        Command::Edge { .. } => {
            let listener = app::listen(&config).await?;
            app::edge(config, listener, shutdown, Box::new(say_ready)).await
        }
        Command::Worker => {
            let ready = Box::new(|_| println!("chat worker is ready"));
            app::worker(config, shutdown, ready).await
        }
        Command::Migrate => {
            app::migrate(&config).await?;
            println!("the schema is up to date");
            Ok(())
        }
        Command::Bench {
            what: Bench::Fanout(fanout),
        } => {
            let report = bench::fanout::run(&fanout).await?;
            println!("{}", chat::protocol::raw(&report));
            Ok(())
        }
        Command::Config { .. } | Command::Openapi | Command::Asyncapi => Ok(()),
    }
}

fn say_ready(address: Option<std::net::SocketAddr>) {
    if let Some(address) = address {
        println!("chat is ready on http://{address}");
    }
}
