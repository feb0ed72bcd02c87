//! Checks of the source tree: imports go down only, every module has a purpose comment, no leftovers.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// The layers, lowest first. A module may use lower layers, but no module of its own layer, except in the lowest one.
const LAYERS: &[&[&str]] = &[
    &[
        "config",
        "data_dir",
        "error",
        "model",
        "plot",
        "protocol",
        "redact",
        "retry",
        "sqlite",
        "telemetry",
    ],
    &["bus", "notify", "queue", "store"],
    &["job"],
    &["autoscale", "bench", "edge", "worker"],
    &["app"],
    &["admin", "fuzz"],
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
                format!("give the module `{here}` a place in the layers of tests/it/tidy.rs"),
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
                complaints.add(&file, line, "a wall clock; take tokio's Instant");
            }
        }
    }
    complaints.assert_none();
}

#[test]
fn every_module_has_a_purpose_comment() {
    let mut complaints = Complaints::default();
    for file in all_rust_files() {
        if !file.text.starts_with("//! ") {
            complaints.add(
                &file,
                1,
                "begin with a line `//! …` that states the purpose",
            );
        }
    }
    complaints.assert_none();
}

#[test]
fn no_leftovers_are_in_the_tree() {
    let markers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let macros = ["dbg!", "todo!", "unimplemented!"];
    let mut complaints = Complaints::default();
    for file in all_rust_files() {
        for (line, text) in numbered(&file.text) {
            if let Some(marker) = markers
                .iter()
                .find(|marker| words(text).any(|word| word == **marker))
            {
                complaints.add(&file, line, format!("{marker}: do it or write an issue"));
            }
        }
        for (line, text) in numbered(&file.code()) {
            if let Some(name) = macros.iter().find(|name| text.contains(**name)) {
                complaints.add(&file, line, format!("{name} is a leftover"));
            }
        }
    }
    complaints.assert_none();
}

/// Logs and dead letters print values with `Debug`. Types with such fields implement it with `debug_of!` or by hand.
#[test]
fn secret_and_personal_types_do_not_derive_debug() {
    let mut complaints = Complaints::default();
    for file in rust_files("src").into_iter().chain(rust_files("bin")) {
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

/// Whether the field's name marks it as secret or personal and its type does not redact it.
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

#[test]
fn product_code_does_not_unwrap() {
    let mut complaints = Complaints::default();
    for file in rust_files("src").into_iter().chain(rust_files("bin")) {
        for (line, text) in numbered(&file.product()) {
            if text.contains(".unwrap()") {
                complaints.add(
                    &file,
                    line,
                    "say with expect(…) why it cannot fail, or handle it",
                );
            }
        }
    }
    complaints.assert_none();
}

#[test]
fn the_source_scanner_is_correct() {
    let source = r##"
use crate::{
    bus::{self, Bus}, // crate::comment
    error::Result,
};
/* crate::comment /* nested */ crate::comment */
const A: &str = "crate::string \" crate::string"; const B: char = '"'; const C: &str = r#"crate::"raw"#;
fn f<'a>() -> crate::model::Seq { crate::job::room::apply() }
#[cfg(test)]
mod tests {
    use crate::worker::{Worker, run};
}
use crate::store;
"##;
    let used: Vec<(usize, String)> =
        crate_paths(&without_tests(&without_comments_and_strings(source)));
    let used: Vec<(usize, &str)> = used
        .iter()
        .map(|(line, name)| (*line, name.as_str()))
        .collect();
    assert_eq!(
        used,
        [
            (3, "bus"),
            (4, "error"),
            (8, "model"),
            (8, "job"),
            (13, "store")
        ]
    );
}

// ---- the tree

struct Source {
    /// Relative to the project's root.
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

    fn code(&self) -> String {
        without_comments_and_strings(&self.text)
    }

    /// The code without tests.
    fn product(&self) -> String {
        match self.path.ends_with("tests.rs") || self.path.iter().any(|part| part == "tests") {
            true => String::new(),
            false => without_tests(&self.code()),
        }
    }
}

fn all_rust_files() -> Vec<Source> {
    ["src", "bin", "tests"]
        .iter()
        .flat_map(|dir| rust_files(dir))
        .collect()
}

fn rust_files(dir: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut dirs = vec![root.join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("the tree can be read") {
            let path = entry.expect("the tree can be read").path();
            if path.is_dir() && !path.ends_with("node_modules") {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
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

// ---- a minimal Rust scanner

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, line)| (i + 1, line))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// Every module named after `crate::`, with its line, including each item of a list in braces.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    const ROOT: &str = "crate::";
    let mut found = Vec::new();
    for (at, _) in code.match_indices(ROOT) {
        let rest = at + ROOT.len();
        // `$crate::` belongs to a macro.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let starts = match code[rest..].starts_with('{') {
            true => list_items(code, rest),
            false => vec![rest],
        };
        for start in starts {
            let name = words(&code[start..]).next().unwrap_or_default();
            found.push((code[..start].matches('\n').count() + 1, name.to_owned()));
        }
    }
    found
}

/// The start of each item of the list in braces at `open`.
fn list_items(code: &str, open: usize) -> Vec<usize> {
    let (mut depth, mut expecting, mut starts) = (0, false, Vec::new());
    for (i, c) in code[open..].char_indices() {
        match c {
            '{' => {
                depth += 1;
                expecting = depth == 1;
            }
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => expecting = true,
            c if expecting && !c.is_whitespace() => {
                starts.push(open + i);
                expecting = false;
            }
            _ => {}
        }
    }
    starts
}

/// The text with comments and strings blanked; line numbers do not change.
fn without_comments_and_strings(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut code = String::with_capacity(source.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => (i..chars.len())
                .find(|&j| at(j) == '\n')
                .unwrap_or(chars.len()),
            ('/', '*') => end_of_comment(&chars, i),
            ('"', _) => end_of_string(&chars, i),
            ('r', '"' | '#') if !at(i.wrapping_sub(1)).is_alphanumeric() => {
                end_of_raw_string(&chars, i)
            }
            // A lifetime has no second quote.
            ('\'', '\\') => (i + 3..chars.len()).find(|&j| at(j) == '\'').unwrap_or(i) + 1,
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => i,
        };
        if end == i {
            code.push(at(i));
            i += 1;
        } else {
            code.extend(
                chars[i..end]
                    .iter()
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            i = end;
        }
    }
    code
}

fn end_of_comment(chars: &[char], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0);
    while i < chars.len() {
        match chars.get(i..i + 2) {
            Some(['/', '*']) => depth += 1,
            Some(['*', '/']) => depth -= 1,
            _ => {
                i += 1;
                continue;
            }
        }
        i += 2;
        if depth == 0 {
            break;
        }
    }
    i
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

/// Returns `start` if it is no raw string but a raw identifier such as `r#type`.
fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return start;
    }
    let closes = |i: &usize| {
        chars[*i] == '"'
            && chars[i + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
    };
    (open + 1..chars.len())
        .find(closes)
        .map_or(chars.len(), |i| i + 1 + hashes)
}

/// Blanks each item after `#[cfg(test)]`: up to its closing brace or its semicolon.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut product = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        product.push_str(&rest[..at]);
        let mut depth = 0;
        let end = rest[at..].char_indices().find_map(|(i, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0 && (c == '}' || c == ';')).then_some(at + i + 1)
        });
        let end = end.unwrap_or(rest.len());
        product.extend(
            rest[at..end]
                .chars()
                .map(|c| if c == '\n' { '\n' } else { ' ' }),
        );
        rest = &rest[end..];
    }
    product + rest
}
