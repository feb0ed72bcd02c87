//! The commands of docs/operations.md are run.
//!
//! The rule: above each ```` ```sh ```` block of that file is one line, either
//!
//!     <!-- test: NAME -->            a test runs the block: it calls `guide::run("NAME", …)`
//!     <!-- not run: REASON -->       no test does, and why
//!
//! A block without such a line fails a test here, and so does a name that no test runs.

use std::{collections::BTreeSet, path::Path, process::Stdio};

use tokio::process::Command;

use crate::{
    harness::{DEADLINE, process::Ended},
    support::ROOT,
};

const GUIDE: &str = "docs/operations.md";

/// A block and the line above it.
#[derive(Debug)]
struct Block {
    line: usize,
    mark: String,
    text: String,
}

fn blocks() -> Vec<Block> {
    let guide = std::fs::read_to_string(format!("{ROOT}/{GUIDE}")).expect("the guide");
    let (mut found, mut above, mut open) = (Vec::new(), String::new(), None::<Block>);
    for (number, line) in guide.lines().enumerate() {
        match &mut open {
            Some(_) if line.trim() == "```" => found.extend(open.take()),
            Some(block) => {
                block.text.push_str(line.trim_start());
                block.text.push('\n');
            }
            None if line.trim().starts_with("```sh") => {
                open = Some(Block {
                    line: number + 1,
                    mark: std::mem::take(&mut above),
                    text: String::new(),
                });
            }
            None if line.trim().is_empty() => {}
            None => above = line.trim().to_owned(),
        }
    }
    found
}

impl Block {
    fn mark_of(&self, kind: &str) -> Option<&str> {
        let mark = self.mark.strip_prefix("<!-- ")?.strip_suffix(" -->")?;
        let value = mark.strip_prefix(kind)?.strip_prefix(": ")?;
        (!value.trim().is_empty()).then_some(value)
    }
}

/// The commands of the block of this name.
pub fn block(name: &str) -> String {
    let mut blocks = blocks().into_iter();
    let block = blocks.find(|block| block.mark_of("test") == Some(name));
    block
        .unwrap_or_else(|| panic!("{GUIDE} has no block `{name}`"))
        .text
}

/// Runs the block of this name in a directory, with `chat` being the program under test. `wrapper` is a command that
/// runs the shell, such as `setpriv`.
pub async fn run(name: &str, directory: &Path, env: &[(&str, &str)], wrapper: &[&str]) -> Ended {
    let program = Path::new(env!("CARGO_BIN_EXE_chat"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!(
        "{}:{path}",
        program.parent().expect("a directory").display()
    );
    let shell = ["bash", "-euo", "pipefail", "-c", &block(name)];
    let words: Vec<&str> = wrapper.iter().copied().chain(shell).collect();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .current_dir(directory)
        .env_clear()
        .envs(std::env::var("HOME").map(|home| ("HOME", home)))
        .env("PATH", path)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = ended
        .unwrap_or_else(|_| panic!("`{name}` did not end"))
        .expect("bash");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

#[test]
fn every_block_is_run_or_says_why_not() {
    let sources = sources(Path::new(&format!("{ROOT}/tests/it")));
    let mut names = BTreeSet::new();
    for block in blocks() {
        let at = format!("{GUIDE}:{}", block.line);
        let Some(name) = block.mark_of("test") else {
            let exempt = block.mark_of("not run");
            assert!(
                exempt.is_some(),
                "{at}: no `<!-- test: NAME -->` or `<!-- not run: REASON -->` above"
            );
            continue;
        };
        assert!(names.insert(name.to_owned()), "{at}: `{name}` twice");
        let is_run = ["run", "block"].iter().any(|call| {
            let call = format!("guide::{call}(\"{name}\"");
            sources.contains(&call)
        });
        assert!(is_run, "{at}: no test calls guide::run(\"{name}\", …)");
    }
    assert!(!names.is_empty());
}

/// The tests' sources, without spaces between a call and its first argument.
fn sources(directory: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(directory).expect("the tests") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            text.push_str(&sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).expect("UTF-8");
            let words: Vec<&str> = source.split_whitespace().collect();
            text.push_str(&words.join(" ").replace("( ", "("));
        }
    }
    text
}
