//! This machine: open files, and the directory of a standalone server with its disk.

use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::finding::{Finding, in_time};
use crate::{app, config::Config, data_dir, sqlite};

const GIB: u64 = 1 << 30;
/// A warning below this much free space.
const LITTLE: u64 = GIB;
/// And below this share of the disk, in percent.
const LITTLE_PERCENT: u64 = 5;

/// Whether `edge.max_connections` connections fit into the limit of open files.
pub fn open_files(config: &Config) -> Option<Finding> {
    let check = "open files";
    let limit = app::raise_open_files()?;
    let wanted = app::wanted_files(config);
    let text = format!("{limit} allowed, edge.max_connections needs {wanted}");
    Some(if limit >= wanted {
        Finding::ok(check, text)
    } else {
        Finding::problem(
            check,
            text,
            "raise `ulimit -n` (LimitNOFILE in systemd), or lower edge.max_connections",
        )
    })
}

/// The data directory: writable, with space, and its database complete. A running server is not disturbed.
pub async fn standalone(data: &Path) -> Vec<Finding> {
    let file = data.join(data_dir::DATABASE);
    let mut findings = vec![database(&file).await];
    if data.is_dir() {
        findings.push(writable(data));
        findings.extend(space(data));
    }
    findings
}

async fn database(file: &Path) -> Finding {
    let check = "database";
    let shown = file.display();
    let advice = "check --data; `chat standalone --data DIR` creates a new one, and a damaged one is restored from a backup";
    if !file.exists() {
        return Finding::problem(check, format!("there is no file {shown}"), advice);
    }
    // A large file takes long: it is read to its end.
    match sqlite::quick_check(file).await {
        Ok(version) => Finding::ok(
            check,
            format!("{shown} is complete (PRAGMA quick_check, SQLite {version})"),
        ),
        Err(error) => Finding::problem(check, error.for_operator(), advice),
    }
}

fn writable(data: &Path) -> Finding {
    let check = "data directory";
    let shown = data.display();
    match access(data, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::ok(check, format!("{shown} is writable")),
        Err(error) => Finding::problem(
            check,
            format!("{shown} cannot be written: {error}"),
            "run as its owner, or mount its file system for writing",
        ),
    }
}

fn space(data: &Path) -> Option<Finding> {
    let found = statvfs(data).ok()?;
    let size = found.f_blocks.saturating_mul(found.f_frsize);
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    Some(judge_space(free, size))
}

fn judge_space(free: u64, size: u64) -> Finding {
    let check = "disk";
    let percent = free.saturating_mul(100).checked_div(size).unwrap_or(100);
    let text = format!("{} MiB free, {percent} %", free >> 20);
    let advice = "free some: without space every write is answered `busy`";
    if free >> 20 == 0 {
        Finding::problem(check, text, advice)
    } else if free < LITTLE || percent < LITTLE_PERCENT {
        Finding::warning(check, text, advice)
    } else {
        Finding::ok(check, text)
    }
}

/// The secret of a standalone server.
pub fn secret(config: &Config, data: &Path) -> Finding {
    let check = "auth.secret";
    match data_dir::existing_secret(data) {
        _ if !config.auth.secret.is_empty() => super::settings::secret(config),
        Ok(Some(_)) => Finding::ok(check, format!("is in {}", data.display())),
        Ok(None) => Finding::ok(check, "will be created at the first start"),
        Err(error) => Finding::problem(
            check,
            error.for_operator(),
            "restore the file, or delete it: all users then log in again",
        ),
    }
}

/// Whether the address that an edge would listen on exists here.
pub async fn listen(config: &Config) -> Finding {
    let check = "edge.host";
    let host = config.edge.host.as_str();
    let bound = in_time(tokio::net::TcpListener::bind((host, 0)));
    match bound.await {
        Ok(_) => Finding::ok(check, format!("{host} is an address of this machine")),
        Err(error) => Finding::problem(
            check,
            format!("{host}: {error}"),
            "use an address of this machine, or 0.0.0.0 for all",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn little_space_is_warned_of() {
        let status = |free, size| judge_space(free, size).status;
        assert_eq!(status(500 * GIB, 1000 * GIB), Status::Ok);
        assert_eq!(status(40 * GIB, 1000 * GIB), Status::Warning);
        assert_eq!(status(GIB / 2, GIB), Status::Warning);
        assert_eq!(status(1000, GIB), Status::Problem);
        assert_eq!(status(GIB, 0), Status::Ok);
    }
}
