//! The settings: a struct for each section, filled from layers (built-in, file, `.env`, environment, flags) in two
//! stages. `layers` finds each key's value and source; `read` and `read_sections` check it; `validate` checks
//! combinations. All problems are reported at once.
//!
//! A new key is a line in `config.toml`, a field in `sections` and a line in `read_sections`; the compiler and the
//! tests report a missing one. This module opens no connection, logs nothing, and never shows a secret.

mod layers;
mod load;
mod problem;
mod read;
mod read_sections;
mod read_servers;
mod secret;
mod sections;
mod settings;
mod sources;
#[cfg(test)]
mod tests;
mod validate;
mod values;

pub use layers::DEFAULTS;
pub use problem::{Problem, Problems, Source};
pub use read::parse_duration;
pub use secret::{Secret, SecretUrl, SecretUrls, Secrets};
pub use sections::{
    AddMembers, Auth, Autoscale, Database, Edge, EdgeTls, Email, EmailProvider, ForwardedHeader,
    Limits, Log, LogFormat, Metrics, Notify, OnAmbiguous, Page, PreparedStatements, Queue, Redis,
    Registration, Rooms, Sms, SmsProvider, SocketIo, Start, Worker, WorkerRole,
};
pub use settings::{Config, Role};
pub use sources::Sources;
