//! Sets `CHAT_COMMIT` and `CHAT_RUSTC` for `chat_build_info`. The commit is that of the environment (`CHAT_COMMIT`, for
//! builds without the repository) or, in release builds, that of git. Other builds do not read it: each commit would
//! build the program and its tests again.

use std::{path::Path, process::Command};

const UNKNOWN: &str = "unknown";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CHAT_COMMIT");
    let named = std::env::var("CHAT_COMMIT").ok();
    let named = named.filter(|commit| !commit.is_empty());
    let commit = match named {
        Some(commit) => Some(commit),
        None if std::env::var("PROFILE").as_deref() == Ok("release") => of_git(),
        None => None,
    };
    let rustc = std::env::var("RUSTC").ok();
    let rustc = rustc.and_then(|rustc| output(&rustc, &["--version"]));
    let version = |text: String| text.split(' ').nth(1).map(str::to_owned);
    let rustc = rustc.and_then(version);
    for (name, value) in [("CHAT_COMMIT", commit), ("CHAT_RUSTC", rustc)] {
        let value = value.as_deref().unwrap_or(UNKNOWN);
        println!("cargo::rustc-env={name}={value}");
    }
}

/// The commit of the repository that this package belongs to.
fn of_git() -> Option<String> {
    // Not that of a repository around an unpacked archive.
    let top = output("git", &["rev-parse", "--show-toplevel"])?;
    let workspace = Path::new("..").canonicalize().ok()?;
    if Path::new(&top).canonicalize().ok()? != workspace {
        return None;
    }
    // Changes with every commit and checkout.
    let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    let dirty = output("git", &["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|changes| !changes.is_empty());
    Some(if dirty {
        format!("{commit}-dirty")
    } else {
        commit
    })
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
