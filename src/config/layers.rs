//! First stage: finds each key's value and the layer it comes from. Knows the names of the keys (those of the built-in
//! `config.toml`), not the meaning of their values.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    problem::{Problem, Source},
    sources::Sources,
};

/// The built-in `config.toml`: every key, its default and what it means.
pub const DEFAULTS: &str = include_str!("../../config.toml");

/// Variables whose names other programs agree on, and the keys they set.
const WELL_KNOWN: &[(&str, &str)] = &[
    ("AMQP_URL", "queue.url"),
    ("DATABASE_URL", "database.url"),
    ("PORT", "edge.port"),
    ("RABBITMQ_API_URL", "autoscale.api_url"),
    ("REDIS_URL", "redis.url"),
    ("RUST_LOG", "log.filter"),
    ("SENDGRID_API_KEY", "notify.email.api_key"),
    ("TWILIO_ACCOUNT_SID", "notify.sms.account_sid"),
    ("TWILIO_AUTH_TOKEN", "notify.sms.auth_token"),
];

/// A value before its meaning is known.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Raw {
    /// Text from the environment or a flag, which can stand for any type.
    Word(String),
    /// A string of a TOML file.
    Text(String),
    Integer(i64),
    /// A number with a fraction, as it is written.
    Fraction(String),
    List(Vec<Raw>),
    Bool(bool),
    /// A type that no key has: its name with an article.
    Other(&'static str),
}

/// A key's merged value, and the default that replaces an invalid one.
pub(super) struct MergedValue {
    pub raw: Raw,
    pub source: Source,
    pub default: Raw,
}

struct Setting {
    key: String,
    raw: Raw,
    source: Source,
}

const EMPTY_SECTION: Raw = Raw::Other("an empty section");

/// Merges all layers. The result has an entry for every key of `config.toml`.
pub(super) fn merge(sources: &Sources) -> (BTreeMap<String, MergedValue>, Vec<Problem>) {
    let defaults = DeTable::parse(DEFAULTS)
        .expect("the built-in config.toml is TOML: the unit tests parse it");
    let mut built_in = Vec::new();
    flatten(defaults.get_ref(), "", &mut |key, raw, _at| {
        built_in.push((key, raw))
    });
    let entries = built_in
        .into_iter()
        .map(|(key, raw)| {
            (
                key,
                MergedValue {
                    default: raw.clone(),
                    raw,
                    source: Source::Default,
                },
            )
        })
        .collect();

    let mut merge = Merge {
        entries,
        problems: Vec::new(),
    };
    let dotenv = match &sources.dotenv {
        Some(path) => merge.read_dotenv(path),
        None => Vec::new(),
    };
    let named = |vars: &[(OsString, OsString)]| {
        vars.iter()
            .find(|(name, value)| name == "CHAT_CONFIG" && !value.is_empty())
            .map(|(_, v)| PathBuf::from(v))
    };
    if let Some(path) = sources
        .file
        .clone()
        .or_else(|| named(&sources.env))
        .or_else(|| named(&dotenv))
    {
        let layer = merge.read_file(&path);
        merge.put(layer);
    }
    let layer = merge.variables(&dotenv, Source::DotEnv);
    merge.put(layer);
    let layer = merge.variables(&sources.env, Source::Env);
    merge.put(layer);
    let flags = sources.flags.iter().map(|(key, value, flag)| Setting {
        key: key.clone(),
        raw: Raw::Word(value.clone()),
        source: Source::Flag(flag.clone()),
    });
    merge.put(flags.collect());
    (merge.entries, merge.problems)
}

struct Merge {
    entries: BTreeMap<String, MergedValue>,
    problems: Vec<Problem>,
}

impl Merge {
    fn read_file(&mut self, path: &Path) -> Vec<Setting> {
        let source = |line| Source::File {
            path: path.to_owned(),
            line,
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.problem(
                    "",
                    source(None),
                    format!("the settings file cannot be read: {error}"),
                );
                return Vec::new();
            }
        };
        let line = |at: usize| Some(text[..at].matches('\n').count() + 1);
        match DeTable::parse(&text) {
            Ok(table) => {
                let mut layer = Vec::new();
                flatten(table.get_ref(), "", &mut |key, raw, at| {
                    layer.push(Setting {
                        key,
                        raw,
                        source: source(line(at)),
                    });
                });
                layer
            }
            Err(error) => {
                // The error's own Display quotes the line, which may contain a secret.
                let at = error.span().and_then(|span| line(span.start));
                self.problem(
                    "",
                    source(at),
                    format!("the settings file is not TOML: {}", error.message()),
                );
                Vec::new()
            }
        }
    }

    fn read_dotenv(&mut self, path: &Path) -> Vec<(OsString, OsString)> {
        let source = || Source::DotEnv(String::new());
        let lines = match dotenvy::from_path_iter(path) {
            Ok(lines) => lines,
            Err(error) if error.not_found() => return Vec::new(),
            Err(error) => {
                self.problem("", source(), format!("cannot be read: {error}"));
                return Vec::new();
            }
        };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut unread = text.lines().enumerate();
        let mut vars = Vec::new();
        for line in lines {
            match line {
                Ok((name, value)) => vars.push((name.into(), value.into())),
                Err(dotenvy::Error::Io(error)) => {
                    self.problem("", source(), format!("cannot be read: {error}"));
                    break;
                }
                // The error's own Display quotes the line, which may contain a secret.
                Err(error) => {
                    let bad = match &error {
                        dotenvy::Error::LineParse(text, _) => number_of(text, &mut unread),
                        _ => None,
                    };
                    let place = bad.map_or("a line".into(), |number| format!("line {number}"));
                    self.problem(
                        "",
                        source(),
                        format!("{place} is not NAME=value; quote a value that has spaces, and close every quotation mark"),
                    );
                }
            }
        }
        vars
    }

    /// The settings among the variables, in the order of their names.
    fn variables(
        &mut self,
        vars: &[(OsString, OsString)],
        source: fn(String) -> Source,
    ) -> Vec<Setting> {
        let mut layer = Vec::new();
        for (name, value) in vars {
            let Some(name) = name.to_str() else { continue };
            let key = match WELL_KNOWN.iter().find(|(known, _)| *known == name) {
                // Compose files pass an unset variable on as an empty one.
                Some(_) if value == OsStr::new("") => continue,
                Some((_, key)) => (*key).to_owned(),
                None => match name.strip_prefix("CHAT__") {
                    Some(path) => path.to_lowercase().replace("__", "."),
                    None => continue,
                },
            };
            let source = source(name.to_owned());
            match value.to_str() {
                Some(value) => layer.push(Setting {
                    key,
                    raw: Raw::Word(value.to_owned()),
                    source,
                }),
                None => self.problem(&key, source, "is not UTF-8"),
            }
        }
        layer.sort_by_key(|setting| setting.source.to_string());
        layer
    }

    /// Adds a layer over the earlier ones.
    fn put(&mut self, layer: Vec<Setting>) {
        let mut seen: BTreeMap<String, (Raw, Source)> = BTreeMap::new();
        for Setting { key, raw, source } in layer {
            let Some(entry) = self.entries.get_mut(&key) else {
                if !(raw == EMPTY_SECTION && self.is_section(&key)) {
                    self.unknown(key, source);
                }
                continue;
            };
            if let Some((earlier, by)) = seen.get(&key) {
                if *earlier != raw {
                    let message =
                        format!("{by} and {source} contradict each other; set one of them");
                    self.problem(&key, source, message);
                }
                continue;
            }
            seen.insert(key, (raw.clone(), source.clone()));
            entry.raw = raw;
            entry.source = source;
        }
    }

    fn is_section(&self, key: &str) -> bool {
        self.entries.keys().any(|known| {
            known
                .strip_prefix(key)
                .is_some_and(|rest| rest.starts_with('.'))
        })
    }

    fn unknown(&mut self, key: String, source: Source) {
        if self.is_section(&key) {
            let allowed = self.keys_of(&key);
            self.problems.push(Problem {
                key,
                source,
                message: "is a section, not a setting".into(),
                allowed,
            });
            return;
        }
        let message = match closest(&key, self.entries.keys().map(String::as_str)) {
            Some(known) => format!("there is no such setting; did you mean {known}?"),
            None => "there is no such setting".into(),
        };
        let allowed = match key.split_once('.') {
            _ if message.ends_with('?') => String::new(),
            Some((section, _)) if self.is_section(section) => self.keys_of(section),
            _ => "the keys that `chat config` prints".into(),
        };
        self.problems.push(Problem {
            key,
            source,
            message,
            allowed,
        });
    }

    fn keys_of(&self, section: &str) -> String {
        let keys: Vec<&str> = self
            .entries
            .keys()
            .filter(|key| key.starts_with(&format!("{section}.")))
            .map(String::as_str)
            .collect();
        keys.join(", ")
    }

    fn problem(&mut self, key: &str, source: Source, message: impl Into<String>) {
        self.problems.push(Problem {
            key: key.to_owned(),
            source,
            message: message.into(),
            allowed: String::new(),
        });
    }
}

/// The known key that was probably meant: one with a small edit distance, one with a missing end, or the same name in
/// another section.
fn closest<'a>(key: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::damerau_levenshtein(key, candidate);
    let only = |mut found: Vec<&'a str>| if found.len() == 1 { found.pop() } else { None };
    let name = key.rsplit('.').next();
    // A quarter of the length, so that short names do not match any other short name.
    let typo = known
        .clone()
        .min_by_key(distance)
        .filter(|found| distance(found) <= (key.len() / 4).max(1));
    typo.or_else(|| {
        only(
            known
                .clone()
                .filter(|candidate| candidate.starts_with(key))
                .collect(),
        )
    })
    .or_else(|| {
        only(
            known
                .filter(|candidate| candidate.rsplit('.').next() == name)
                .collect(),
        )
    })
}

/// The number of the next unread line that ends with the first line of `text`: a line, or its value. Lines before it
/// are read.
fn number_of<'a>(text: &str, unread: &mut impl Iterator<Item = (usize, &'a str)>) -> Option<usize> {
    let first = text.lines().next()?.trim();
    let (index, _) = unread.find(|(_, line)| line.trim_end().ends_with(first))?;
    Some(index + 1)
}

/// Calls `leaf` with each value's dotted key and byte position.
fn flatten(table: &DeTable<'_>, prefix: &str, leaf: &mut impl FnMut(String, Raw, usize)) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        match value.get_ref() {
            DeValue::Table(inner) if inner.is_empty() => {
                leaf(key, EMPTY_SECTION, name.span().start)
            }
            DeValue::Table(inner) => flatten(inner, &key, leaf),
            _ => leaf(key, raw(value), name.span().start),
        }
    }
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Integer(number),
            Err(_) => Raw::Other("a number of more than 64 bits"),
        },
        DeValue::Array(items) => Raw::List(items.iter().map(raw).collect()),
        DeValue::Float(number) => Raw::Fraction(number.as_str().replace('_', "")),
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a section"),
    }
}

/// A TOML array written where only text can stand, as in an environment variable.
pub(super) fn list_in(word: &str) -> Option<Vec<Raw>> {
    let text = format!("list = {word}");
    let table = DeTable::parse(&text).ok()?;
    match raw(table.get_ref().get("list")?) {
        Raw::List(items) => Some(items),
        _ => None,
    }
}
