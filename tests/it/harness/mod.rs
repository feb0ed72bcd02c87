//! What the end-to-end tests stand on: deployments made of real processes, a REST client and a WebSocket client.
//! They speak the outside contract only and know nothing of the crate's inside, so that they judge it as a client would.
//!
//! Nothing here sleeps for a guess: everything waits for a condition, with a deadline.
#![allow(
    dead_code,
    reason = "a tool box: a tool may be waiting for its first test"
)]

pub mod deployment;
pub mod engineio;
pub mod jwt;
pub mod load;
pub mod node;
pub mod process;
pub mod provider;
pub mod raw;
pub mod rest;
pub mod smtp;
pub mod socket;

use std::{future::Future, time::Duration};

pub use deployment::{Chat, Kind, User};
pub use rest::Rest;
pub use socket::Socket;
use tokio::time::MissedTickBehavior;

/// How long anything may take before a test gives up on it. Generous: a loaded machine is no failure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Makes two tests of each function that takes a [`Kind`]: on one process, and on a cluster.
macro_rules! both_ways {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            use crate::harness::Kind;

            #[tokio::test]
            async fn standalone() {
                super::$name(Kind::Standalone).await;
            }

            #[tokio::test]
            async fn cluster() {
                super::$name(Kind::Cluster).await;
            }
        }
    )+};
}
pub(crate) use both_ways;

/// Asks again and again until there is an answer. For conditions that only asking can show, such as a REST answer; a
/// socket's events are waited for with [`Socket::until`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let asking = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        // A question that takes longer than the pause must leave the others in this process some time, too.
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pause.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    match tokio::time::timeout(DEADLINE, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("waited {DEADLINE:?} in vain: {what}"),
    }
}

/// One of the servers' addresses.
pub fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run the tests with scripts/test, or: eval \"$(scripts/services env)\"")
    })
}
