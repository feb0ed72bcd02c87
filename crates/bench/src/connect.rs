//! The connect benchmark: how fast many sockets are opened, authenticated and in their rooms.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    connections::{Connections, Setup},
    error::Result,
    measure::Latency,
    process::Meter,
};

#[derive(Debug, Serialize)]
pub struct Report {
    pub connections: u32,
    pub failed: u32,
    pub seconds: f64,
    pub per_s: f64,
    /// Of one socket: connected, authenticated, in its rooms.
    pub open_ms: Latency,
    pub cpu_us_per_connection: BTreeMap<String, f64>,
}

/// Opens all sockets and measures how long it takes.
///
/// # Errors
/// Users or rooms that cannot be created. A socket that fails is counted instead.
pub async fn run(options: &Connections) -> Result<Report> {
    let setup = Setup::new(options).await?;
    let meter = Meter::start(&options.pid)?;
    let opened = setup.open_all().await;
    let seconds = opened.elapsed.as_secs_f64();
    let connections = opened.sockets.len();
    Ok(Report {
        connections: connections as u32,
        failed: opened.failures,
        seconds,
        per_s: (connections as f64 / seconds).round(),
        open_ms: Latency::of(&opened.took),
        cpu_us_per_connection: meter.per(connections as u64)?,
    })
}
