//! The tools of the end-to-end tests: deployments of real processes, a REST client and a WebSocket client.
//! They use only the public contract and nothing from the crate's inside, as a client would.
//!
//! Tools never sleep for a guessed time: they wait for a condition, with a deadline.
#![allow(dead_code, reason = "not every tool is in use")]

pub mod deployment;
pub mod disk;
pub mod engineio;
pub mod engines;
pub mod exposition;
pub mod haproxy;
pub mod jwt;
pub mod load;
pub mod node;
pub mod outage;
pub mod own_postgres;
pub mod pgbouncer;
pub mod process;
pub mod provider;
pub mod raw;
pub mod rest;
pub mod smtp;
pub mod socket;
pub mod tls;

use std::{future::Future, time::Duration};

pub use deployment::{Chat, Kind, User};
pub use rest::Rest;
pub use socket::Socket;
use tokio::time::MissedTickBehavior;

/// The deadline of any wait. Generous: a busy machine is no failure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Makes two tests of each function that takes a [`Kind`]: standalone and cluster.
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

/// Polls until there is an answer. For conditions that must be polled, such as a REST response; for a socket's events
/// use [`Socket::until`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let asking = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        // After a poll that takes longer than the interval, other tasks of this process need time too.
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
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// The address of a server, from the environment.
pub fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run the tests with scripts/test, or: eval \"$(scripts/services env)\"")
    })
}
