//! All settings, checked.

use super::{
    problem::Source,
    read::Shown,
    sections::{
        Auth, Autoscale, Database, Edge, Limits, Log, Metrics, Notify, Queue, Redis, Rooms,
        SocketIo, Start, Worker,
    },
};

/// The command that uses the settings. It decides which of them must be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Edge and worker in one process: nothing must be set.
    Standalone,
    /// Needs `auth.secret`.
    Edge,
    /// Nothing must be set.
    Worker,
    /// Other commands: nothing must be set.
    Tool,
    /// Commands that check the settings: as `Tool`, and the files of `edge.tls` are read.
    Check,
}

/// All settings, checked. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connections of clients.
    pub edge: Edge,
    /// Values of the Engine.IO handshake.
    pub socketio: SocketIo,
    /// RabbitMQ, and batches of commands.
    pub queue: Queue,
    /// PostgreSQL.
    pub database: Database,
    /// Redis.
    pub redis: Redis,
    /// Workers.
    pub worker: Worker,
    /// Notifications.
    pub notify: Notify,
    /// The number of workers.
    pub autoscale: Autoscale,
    /// Starting up.
    pub start: Start,
    /// Rules of rooms.
    pub rooms: Rooms,
    /// Accounts and tokens.
    pub auth: Auth,
    /// Rate limits.
    pub limits: Limits,
    /// The log on standard error.
    pub log: Log,
    /// Prometheus metrics.
    pub metrics: Metrics,
    pub(super) shown: Vec<Shown>,
}

impl Config {
    /// The source of the value of `key` (`"edge.port"`); `None` if there is no such key.
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.shown
            .iter()
            .find(|shown| shown.key == key)
            .map(|shown| &shown.source)
    }

    /// The settings in effect as TOML, each with its source as a comment. Secrets are `"***"`, passwords in URLs `***`.
    pub fn effective(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for Shown { key, value, source } in &self.shown {
            let (table, name) = key.split_once('.').unwrap_or(("", key));
            if table != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                text += &format!("{gap}[{table}]\n");
                section = table;
            }
            let line = format!("{name} = {value}");
            text += &format!("{line:<48} # {source}\n");
        }
        text
    }
}
