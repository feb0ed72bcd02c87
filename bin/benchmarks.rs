//! `chat bench`: hands arguments and settings to the crate of benchmarks, prints its reports.

use bench::{
    Connections, Result,
    baseline::{
        pipeline::{Pipeline, Servers},
        serve::Serve,
    },
    connect,
    fanout::{self, Fanout},
    history::{self, History},
    idle,
    load::Load,
    scaling::{self, Scaling},
};
use chat::{
    command::partition_of,
    config::Config,
    error::{Code, Error},
    output,
    protocol::raw,
};
use clap::Subcommand;
use tokio_util::sync::CancellationToken;

#[derive(Subcommand)]
pub enum Benchmark {
    /// The cost of one delivery: many sockets in one room and a burst of messages. Prints JSON.
    Fanout(Fanout),
    /// How fast many sockets connect: opened, authenticated, in their rooms. Prints JSON.
    Connect(Connections),
    /// The memory that an idle socket costs the server, before and after a burst. Prints JSON.
    Idle(Connections),
    /// How fast recent history is read over REST. Prints JSON.
    History(History),
    /// Draws a chart: reads its description as JSON on standard input, prints SVG. For scripts/bench.
    #[command(hide = true)]
    Plot,
    /// How the number of workers follows the load: quiet, a burst, quiet, against a deployment that `chat autoscale`
    /// runs. Prints JSON; exit 1 if anything was lost, repeated or out of order.
    Scaling(Scaling),
    /// Baselines for comparison: programs that do only the unavoidable part of the work.
    #[command(alias = "bare")]
    Baseline {
        #[command(subcommand)]
        baseline: Baseline,
    },
}

#[derive(Subcommand)]
pub enum Baseline {
    /// Publishes and confirms one message at a time, consumes, stores, acknowledges. Creates queues and a table, and
    /// removes them at the end. Prints JSON.
    Pipeline(Pipeline),
    /// A server that only moves bytes, for the others of these benchmarks.
    Serve(Serve),
}

/// Runs the load and prints its report; after a signal, the report so far.
pub async fn load(load: &Load, shutdown: CancellationToken) -> Result<()> {
    let report = bench::load::run(load, partition_of, &shutdown).await?;
    output::line(format_args!("{:#}", serde_json::json!(report)));
    bench::load::write(load, &report)?;
    if shutdown.is_cancelled() {
        output::note(
            "interrupted: messages on their way count as lost, and rates are over the whole --duration",
        );
    }
    report.check()
}

/// Runs one of the other benchmarks and prints its report.
pub async fn run(benchmark: Benchmark, config: &Config, shutdown: CancellationToken) -> Result<()> {
    let report = match benchmark {
        Benchmark::Fanout(fanout) => raw(&fanout::run(&fanout).await?).to_string(),
        Benchmark::Connect(options) => raw(&connect::run(&options).await?).to_string(),
        Benchmark::Idle(options) => raw(&idle::run(&options).await?).to_string(),
        Benchmark::History(history) => raw(&history::run(&history).await?).to_string(),
        Benchmark::Plot => {
            plot::from_json(std::io::stdin()).map_err(|error| bench::Error::Argument {
                argument: "standard input",
                problem: error.to_string(),
            })?
        }
        Benchmark::Scaling(scaling) => {
            let curve = scaling::run(&scaling, partition_of).await?;
            output::line(format_args!("{:#}", serde_json::json!(curve)));
            scaling::write(&scaling, &curve)?;
            return curve.load.check();
        }
        Benchmark::Baseline {
            baseline: Baseline::Pipeline(pipeline),
        } => {
            let configured = Servers {
                amqp_url: config.queue.url.expose().remove(0),
                database_url: config.database.url.expose().remove(0),
                queue_prefix: config.queue.prefix.clone(),
            };
            let report = bench::baseline::pipeline::run(&pipeline, configured, shutdown);
            raw(&report.await?).to_string()
        }
        Benchmark::Baseline {
            baseline: Baseline::Serve(serve),
        } => return bench::baseline::serve::run(&serve).await,
    };
    output::line(report);
    Ok(())
}

/// An error of the benchmarks as one of the program: an unusable argument exits with 2, anything else with 1.
pub fn convert(error: bench::Error) -> Error {
    let code = match error {
        bench::Error::Argument { .. } => Code::Invalid,
        _ => Code::Conflict,
    };
    Error::new(code, error.chain())
}
