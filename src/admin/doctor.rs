//! `chat doctor`: checks every server and setting. The checks run at the same time, each within a few seconds; they
//! create and change nothing. One file per subject; a check is a function that returns [`Finding`]s and is called in
//! [`check`] or [`check_standalone`].

mod amqp;
mod files;
mod finding;
mod management;
mod postgres;
mod providers;
mod rabbit;
mod redis;
mod settings;

use std::{path::Path, time::Duration};

use serde::Serialize;

pub use self::finding::{Finding, Status};
use crate::{
    config::Config,
    error::{Error, Result},
};

/// The findings of all checks.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The most serious one of the findings.
    pub status: Status,
    pub findings: Vec<Finding>,
}

impl Report {
    fn of(findings: impl IntoIterator<Item = Finding>) -> Report {
        let findings: Vec<Finding> = findings.into_iter().collect();
        let worst = findings.iter().map(|finding| finding.status).max();
        Report {
            status: worst.unwrap_or(Status::Ok),
            findings,
        }
    }

    pub fn count(&self, status: Status) -> usize {
        let counted = self.findings.iter().filter(|found| found.status == status);
        counted.count()
    }
}

/// Checks every server and setting that a cluster depends on.
///
/// # Errors
/// If no HTTP client can be made.
pub async fn check(config: &Config) -> Result<Report> {
    let http = client()?;
    let (postgres, redis, rabbit, management, email, sms, listen) = tokio::join!(
        postgres::check(config),
        redis::check(config),
        rabbit::check(config),
        management::check(config, &http),
        providers::email(config, &http),
        providers::sms(config, &http),
        files::listen(config),
    );
    let mut findings = [postgres, redis, rabbit, management, vec![email, sms]].concat();
    findings.push(settings::secret(config));
    findings.extend(settings::reached(config));
    findings.push(listen);
    findings.extend(files::open_files(config));
    Ok(Report::of(findings))
}

/// Checks what a standalone server needs. It may be running.
///
/// # Errors
/// If no HTTP client can be made.
pub async fn check_standalone(config: &Config, data: &Path) -> Result<Report> {
    let http = client()?;
    let (mut findings, email, sms, listen) = tokio::join!(
        files::standalone(data),
        providers::email(config, &http),
        providers::sms(config, &http),
        files::listen(config),
    );
    findings.extend([email, sms]);
    findings.push(files::secret(config, data));
    findings.extend(settings::reached(config));
    findings.push(listen);
    findings.extend(files::open_files(config));
    Ok(Report::of(findings))
}

/// Follows no redirects: credentials must not reach another host.
fn client() -> Result<reqwest::Client> {
    // `main` sets it; tests and embedding programs may not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("chat/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(Error::internal)
}
