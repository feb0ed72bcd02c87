//! Every documented setting has an effect: each key of `config.toml` is a field of its section, and code outside
//! `src/config` reads that field.

use super::{Source, rust_files, words};

/// Names under which code outside `src/config` holds a section, besides the section's own name. They count in files whose path
/// or code names the section or its struct.
const RECEIVERS: [&str; 2] = ["settings", "config"];

#[test]
fn every_setting_is_read_by_code_that_uses_it() {
    let sections = rust_files("src/config")
        .into_iter()
        .find(|file| file.path.ends_with("sections.rs"))
        .expect("the sections' structs are there");
    let code: Vec<String> = rust_files("src")
        .iter()
        .chain(&rust_files("bin"))
        .filter(|file| !file.path.starts_with("src/config"))
        .map(|file| {
            let code = without_whitespace_around_dots(&file.product());
            format!("{}\n{code}", file.path.display())
        })
        .collect();
    let mut missing = Vec::new();
    for (section, key) in keys() {
        let name = section.rsplit('.').next().unwrap_or_default();
        // The fields hold durations; the keys say their unit.
        let field = key.strip_suffix("_ms").unwrap_or(&key);
        if !fields_of(&sections, &section).contains(&field.to_owned()) {
            missing.push(format!("{section}.{key} is no field of its section"));
        }
        let is_read = code.iter().any(|code| {
            reads(code, name, field)
                || (words(code).any(|word| word.eq_ignore_ascii_case(name))
                    && RECEIVERS
                        .iter()
                        .any(|receiver| reads(code, receiver, field)))
        });
        if !is_read {
            missing.push(format!("{section}.{key} is not used outside src/config"));
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

#[test]
fn a_read_is_recognised() {
    let code = without_whitespace_around_dots("let a = config\n    .worker\n    .id.clone();");
    assert!(reads(&code, "worker", "id"));
    assert!(!reads(&code, "worker", "i"));
    assert!(!reads(&code, "orker", "id"));
    assert!(!reads("worker.id()", "worker", "id"), "a method");
}

/// Each key of `config.toml` with its section: `("notify.email", "from")`.
fn keys() -> Vec<(String, String)> {
    let file = chat::config::DEFAULTS;
    let table: toml::Table = file.parse().expect("config.toml is TOML");
    let mut keys = Vec::new();
    let mut tables = vec![(String::new(), &table)];
    while let Some((section, table)) = tables.pop() {
        for (name, value) in table {
            match value {
                toml::Value::Table(inner) => {
                    let path = format!("{section}.{name}");
                    tables.push((path.trim_start_matches('.').to_owned(), inner));
                }
                _ => keys.push((section.clone(), name.clone())),
            }
        }
    }
    assert!(keys.len() > 50, "only {} keys", keys.len());
    keys
}

/// The fields of the struct whose documentation is `/// `[section]``.
fn fields_of(sections: &Source, section: &str) -> Vec<String> {
    let marker = format!("/// `[{section}]`\n#[derive(");
    let (_, rest) = sections
        .text
        .split_once(&marker)
        .unwrap_or_else(|| panic!("no struct for [{section}]"));
    let body = rest.split("\n}\n").next().unwrap_or_default();
    body.lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": "))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Whether `code` has `receiver.field` as whole words, and not as a call.
fn reads(code: &str, receiver: &str, field: &str) -> bool {
    let path = format!("{receiver}.{field}");
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(&path).any(|(at, _)| {
        let after = code[at + path.len()..].chars().next();
        !is_word(code[..at].chars().next_back()) && !is_word(after) && after != Some('(')
    })
}

fn without_whitespace_around_dots(code: &str) -> String {
    let parts: Vec<&str> = code.split('.').map(str::trim).collect();
    parts.join(".")
}
