//! Checks the sources of all crates: imports go down only, files of a folder do not import each other in a circle,
//! every module documents its purpose, nothing unfinished is left.

mod rust;

mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
};

use self::rust::{
    crate_paths, module_paths, numbered, without_comments_and_strings, without_tests, words,
};
use crate::support::ROOT;

/// The layers of the server crate, lowest first. A module may use those of the layers below it, not those beside it.
/// Modules of the lowest layer may use each other.
const LAYERS: &[&[&str]] = &[
    &[
        "config",
        "data_dir",
        "error",
        "model",
        "output",
        "protocol",
        "redact",
        "retry",
        "sqlite",
        "telemetry",
        "templates",
        "tls",
    ],
    &["bus", "notify", "queue", "store"],
    &["command"],
    &["autoscale", "edge", "worker"],
    &["app"],
    &["admin", "backup", "fuzz", "transfer"],
];

#[test]
fn imports_go_down_only() {
    let mut complaints = Complaints::default();
    for file in rust_files("src") {
        let Some(here) = file.module() else { continue };
        let Some(layer) = layer_of(&here) else {
            complaints.add(
                &file,
                1,
                format!("add the module `{here}` to the layers of tests/it/tidy.rs"),
            );
            continue;
        };
        for (line, used) in crate_paths(&file.product()) {
            let fine = match layer_of(&used) {
                _ if used == here => true,
                Some(below) => below < layer || (below == 0 && layer == 0),
                None => false,
            };
            if !fine {
                complaints.add(&file, line, format!("`{here}` may not use `crate::{used}`"));
            }
        }
    }
    complaints.assert_none();
}

/// The benchmarks and the charts are built without the server, and speak to it as any client.
#[test]
fn leaf_crates_do_not_use_the_server() {
    let mut complaints = Complaints::default();
    for file in rust_files("crates") {
        for (line, text) in numbered(&file.code()) {
            let is_used = text.match_indices("chat::").any(|(at, _)| {
                !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if is_used {
                complaints.add(&file, line, "a leaf crate uses the server crate");
            }
        }
    }
    for file in files("crates", "toml") {
        for (line, text) in numbered(&file.text) {
            if text.starts_with("chat.") || text.starts_with("chat ") {
                complaints.add(&file, line, "a leaf crate depends on the server crate");
            }
        }
    }
    complaints.assert_none();
}

/// Crates whose folders have no circles.
const WITHOUT_CIRCLES: &[&str] = &["src", "crates/bench/src", "crates/plot/src"];

#[test]
fn files_of_a_folder_do_not_import_each_other() {
    let found: Vec<String> = WITHOUT_CIRCLES
        .iter()
        .flat_map(|dir| circles(dir))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The circles among the files and folders of each folder. A folder's `mod.rs` only names its files and is none of
/// them.
fn circles(crate_dir: &str) -> Vec<String> {
    let files = rust_files(crate_dir);
    let modules: BTreeSet<Vec<String>> = files.iter().map(|f| f.path_in(crate_dir)).collect();
    // For each folder, which of its entries import which.
    let mut imports: BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for file in &files {
        let here = file.path_in(crate_dir);
        for used in module_paths(&file.product(), &here) {
            let shared = here.iter().zip(&used).take_while(|(a, b)| a == b).count();
            let (Some(from), Some(to)) = (here.get(shared), used.get(shared)) else {
                continue;
            };
            // Other names are items of the folder's `mod.rs`.
            if modules.contains(&used[..=shared]) {
                let folder = imports.entry(here[..shared].to_vec()).or_default();
                folder.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    let mut found = Vec::new();
    for (folder, imports) in imports {
        for start in imports.keys() {
            let mut reached = BTreeSet::new();
            let mut next: Vec<&String> = imports[start].iter().collect();
            while let Some(entry) = next.pop() {
                if reached.insert(entry) {
                    next.extend(imports.get(entry).into_iter().flatten());
                }
            }
            if reached.contains(start) {
                let folder = folder.join("/");
                found.push(format!(
                    "{crate_dir}/{folder}: `{start}` imports itself through others"
                ));
            }
        }
    }
    found
}

#[test]
fn an_edge_cannot_write_the_database() {
    let mut complaints = Complaints::default();
    for file in rust_files("src/edge") {
        for (line, text) in numbered(&file.product()) {
            if words(text).any(|word| word == "Writes") {
                complaints.add(&file, line, "an edge names `store::Writes`");
            }
        }
    }
    complaints.assert_none();
}

/// Wall clocks jump, and a decision based on one would start and stop processes needlessly.
#[test]
fn the_autoscaler_uses_no_wall_clock() {
    let mut complaints = Complaints::default();
    for file in rust_files("src/autoscale") {
        for (line, text) in numbered(&file.code()) {
            if words(text).any(|word| ["SystemTime", "Timestamp", "Utc"].contains(&word)) {
                complaints.add(&file, line, "a wall clock: use tokio's Instant");
            }
        }
    }
    complaints.assert_none();
}

#[test]
fn every_module_documents_its_purpose() {
    let mut complaints = Complaints::default();
    for file in all_rust_files() {
        if !file.text.starts_with("//! ") {
            complaints.add(
                &file,
                1,
                "the first line must be `//! …`: the purpose of the module",
            );
        }
    }
    complaints.assert_none();
}

#[test]
fn nothing_unfinished_is_left() {
    let markers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let mut complaints = Complaints::default();
    for file in all_rust_files() {
        for (line, text) in numbered(&file.text) {
            if let Some(marker) = markers
                .iter()
                .find(|marker| words(text).any(|word| word == **marker))
            {
                complaints.add(
                    &file,
                    line,
                    format!("{marker}: finish it, or open an issue"),
                );
            }
        }
    }
    complaints.assert_none();
}

/// Logs and dead letters print values with `Debug`. Types with such fields implement it with `debug_of!` or by hand.
#[test]
fn secret_and_personal_types_do_not_derive_debug() {
    let mut complaints = Complaints::default();
    for file in product_files() {
        let (mut derived, mut depth) = (false, 0);
        for (line, text) in numbered(&file.product()) {
            let text = text.trim();
            if depth == 0 {
                if text.starts_with("#[derive(") || text.starts_with("Debug,") {
                    derived = words(text).any(|word| word == "Debug");
                }
                let begins = words(text).any(|word| ["struct", "enum"].contains(&word));
                match (begins && derived, text.ends_with('{')) {
                    (true, true) => (depth, derived) = (1, false),
                    (true, false) => derived = false,
                    _ => {}
                }
                continue;
            }
            if exposes(text) {
                complaints.add(&file, line, format!("`{text}` is shown by Debug"));
            }
            depth += text.matches('{').count();
            depth = depth.saturating_sub(text.matches('}').count());
        }
    }
    complaints.assert_none();
}

/// Whether a field is secret or personal by its name, and shown by its type.
fn exposes(field: &str) -> bool {
    const NAMES: [&str; 9] = [
        "password", "token", "secret", "hash", "code", "body", "email", "phone", "address",
    ];
    const TYPES: [&str; 6] = [
        "String",
        "Option<String>",
        "Vec<u8>",
        "Option<Vec<u8>>",
        "Uuid",
        "Box<str>",
    ];
    let field = field.trim_end_matches(',');
    let Some((name, of)) = field.split_once(": ") else {
        return false;
    };
    let name = words(name).last().unwrap_or_default();
    let last = name.rsplit('_').next().unwrap_or_default();
    NAMES.contains(&last) && TYPES.contains(&of)
}

struct Source {
    /// Relative to the root of the repository.
    path: PathBuf,
    text: String,
}

impl Source {
    /// The crate's module that the file belongs to: `edge` for `src/edge/api/mod.rs`; `None` for `lib.rs`.
    fn module(&self) -> Option<String> {
        let below = self.path.strip_prefix("src").ok()?;
        let first = Path::new(below.iter().next()?).file_stem()?.to_str()?;
        (first != "lib").then(|| first.to_owned())
    }

    /// The file as a module path in its crate: `load`, `run` for `load/run.rs`, `load` for `load/mod.rs`.
    fn path_in(&self, crate_dir: &str) -> Vec<String> {
        let below = self.path.strip_prefix(crate_dir).expect("below the crate");
        let below = below.with_extension("");
        let names = below.iter().map(|name| name.to_string_lossy().into_owned());
        names
            .filter(|name| !["mod", "lib"].contains(&name.as_str()))
            .collect()
    }

    fn code(&self) -> String {
        without_comments_and_strings(&self.text)
    }

    /// The code without tests.
    fn product(&self) -> String {
        if self.path.ends_with("tests.rs") || self.path.iter().any(|part| part == "tests") {
            String::new()
        } else {
            without_tests(&self.code())
        }
    }
}

fn all_rust_files() -> Vec<Source> {
    let tests = rust_files("tests");
    product_files().into_iter().chain(tests).collect()
}

fn product_files() -> Vec<Source> {
    let dirs = ["src", "bin", "crates"];
    dirs.iter().flat_map(|dir| rust_files(dir)).collect()
}

fn rust_files(dir: &str) -> Vec<Source> {
    files(dir, "rs")
}

fn files(dir: &str, extension: &str) -> Vec<Source> {
    let root = Path::new(ROOT);
    let mut files = Vec::new();
    let mut dirs = vec![root.join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("the tree can be read") {
            let path = entry.expect("the tree can be read").path();
            if path.is_dir() && !path.ends_with("node_modules") {
                dirs.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(Source {
                    text: std::fs::read_to_string(&path).expect("sources are UTF-8"),
                    path: path.strip_prefix(root).expect("below the root").to_owned(),
                });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!files.is_empty(), "no sources in {dir}");
    files
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[derive(Default)]
struct Complaints(String);

impl Complaints {
    fn add(&mut self, file: &Source, line: usize, what: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{}:{line}: {what}", file.path.display());
    }

    #[track_caller]
    fn assert_none(self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}
