//! Chaos: random faults on a whole cluster, while clients send, edit, react, join and leave, and are removed. At the end
//! every acknowledged operation is accounted for.
//!
//! `scripts/chaos` runs it at length; two minutes of it are a test.

mod client;
mod cluster;
mod engines;
mod judge;
mod nemesis;
mod node;
mod options;
mod plan;
pub mod proxy;
mod random;
mod record;
mod report;
mod run;
mod truth;

use options::Options;

/// The environment variable with the options of `scripts/chaos`.
const VARIABLE: &str = "CHAT_CHAOS";

/// The options, with a random seed if none is given.
fn options() -> Result<Options, String> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = now.expect("a time after 1970").as_secs() % 1_000_000;
    Options::parse(&text, seed)
}

/// `scripts/chaos` runs it first, to tell wrong usage from a violated property.
#[test]
fn options_are_valid() {
    if let Err(why) = options() {
        panic!("wrong usage: {why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by scripts/test after the others, and by scripts/chaos"]
async fn acknowledged_operations_survive_faults() {
    run::run(options().expect("valid options")).await;
}
