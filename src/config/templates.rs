//! What notifications say: templates in Jinja's language, by minijinja. They are compiled in; a file of the same name in
//! the directory `notify.templates` takes the place of one. Every template is tried with samples when the settings are
//! read, so that a value which does not exist is found at the start and not in someone's mail.

use std::{collections::HashSet, path::Path, sync::Arc};

use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, Value};
use serde::Serialize;

use super::{Problem, Source};

const KEY: &str = "notify.templates";
/// Bytes of one file.
const MAX_FILE: u64 = 256 * 1024;

/// What stands in `templates/`, by the name of its file.
const BUILT_IN: [(&str, &str); 8] = [
    ("digest.subject", include_str!("templates/digest.subject")),
    ("digest.txt", include_str!("templates/digest.txt")),
    ("digest.html", include_str!("templates/digest.html")),
    ("digest.sms", include_str!("templates/digest.sms")),
    ("code.subject", include_str!("templates/code.subject")),
    ("code.txt", include_str!("templates/code.txt")),
    ("code.html", include_str!("templates/code.html")),
    ("code.sms", include_str!("templates/code.sms")),
];

/// One message of a digest.
#[derive(Clone, Serialize)]
pub struct Said {
    /// Empty for a direct room.
    pub room: String,
    pub sender: String,
    pub body: String,
}

debug_of!(Said {});

/// The values of the templates `digest.*`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DigestValues {
    /// All messages.
    pub count: usize,
    /// Those that are shown, by room and oldest first.
    pub messages: Vec<Said>,
    /// The number of the others.
    pub more: usize,
    /// The names of everyone who wrote, each once.
    pub senders: Vec<String>,
    pub link: String,
    pub unsubscribe: String,
}

/// The values of the templates `code.*`.
#[derive(Clone, Default, Serialize)]
pub struct CodeValues {
    pub code: String,
    /// How long it is good.
    pub minutes: u64,
}

debug_of!(CodeValues { minutes });

/// The templates in use.
#[derive(Clone)]
pub struct Templates {
    used: Arc<Environment<'static>>,
    built_in: Arc<Environment<'static>>,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Templates")
    }
}

impl Default for Templates {
    fn default() -> Self {
        let built_in = Arc::new(built_in());
        Templates {
            used: built_in.clone(),
            built_in,
        }
    }
}

impl Templates {
    /// Those of a directory, and the built-in ones for what is not there; with everything that is wrong with them.
    pub(super) fn read(dir: &Path, source: &Source) -> (Templates, Vec<Problem>) {
        let mut templates = Templates::default();
        let mut used = built_in();
        let mut problems = Vec::new();
        let problem = |source: Source, message: String, allowed: String| Problem {
            key: KEY.to_owned(),
            source,
            message,
            allowed,
        };
        let unreadable = |what: &Path, error: std::io::Error| {
            let message = format!("{} cannot be read: {error}", what.display());
            problem(
                source.clone(),
                message,
                "a directory of templates".to_owned(),
            )
        };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => return (templates, vec![unreadable(dir, error)]),
        };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            if file.starts_with('.') {
                continue;
            }
            let at = |line: Option<usize>| Source::File {
                path: path.clone(),
                line,
            };
            let Some((name, _)) = BUILT_IN.iter().find(|(name, _)| *name == file) else {
                let names = BUILT_IN.map(|(name, _)| name).join(", ");
                problems.push(problem(at(None), format!("{file} is no template"), names));
                continue;
            };
            let text = match read(&path) {
                Ok(text) => text,
                Err(error) => {
                    problems.push(unreadable(&path, error));
                    continue;
                }
            };
            let compiled = used.add_template_owned(*name, text);
            if let Err(fault) = compiled
                .map_err(Fault::of)
                .and_then(|()| check(&used, name))
            {
                problems.push(problem(at(fault.line), fault.message, fault.allowed));
            }
        }
        if problems.is_empty() {
            templates.used = Arc::new(used);
        }
        (templates, problems)
    }

    /// # Errors
    /// Where a template of the operator's fails on what it is given here: the built-in one is the answer to that.
    pub fn render(&self, name: &str, values: &impl Serialize) -> Result<String, String> {
        render(&self.used, name, values).map_err(|error| format!("{error:#}"))
    }

    /// By the compiled-in template, which does not fail: the unit tests render all of them.
    pub fn render_built_in(&self, name: &str, values: &impl Serialize) -> String {
        render(&self.built_in, name, values).unwrap_or_default()
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > MAX_FILE {
        let message = format!("it has {length} bytes, more than {MAX_FILE}");
        return Err(std::io::Error::other(message));
    }
    std::fs::read_to_string(path)
}

fn render(
    environment: &Environment<'static>,
    name: &str,
    values: &impl Serialize,
) -> Result<String, Error> {
    environment.get_template(name)?.render(values)
}

fn built_in() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_debug(true);
    environment.set_auto_escape_callback(|name| match name.ends_with(".html") {
        true => AutoEscape::Html,
        false => AutoEscape::None,
    });
    environment.set_formatter(|out, state, value| {
        match state.auto_escape() {
            // minijinja's own escape turns slashes into entities too, which makes links hard to read.
            AutoEscape::Html if !value.is_safe() => Ok(out.write_str(&escape(&value.to_string()))?),
            _ => Ok(write!(out, "{value}")?),
        }
    });
    environment.add_filter("lines_br", lines_br);
    for (name, text) in BUILT_IN {
        environment
            .add_template(name, text)
            .expect("every built-in template can be read: the unit tests render them all");
    }
    environment
}

/// Text for HTML, with its line breaks.
fn lines_br(text: &str) -> Value {
    Value::from_safe_string(escape(text).replace('\n', "<br>"))
}

/// Text that stands for itself in HTML, in an attribute as well.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// What is wrong with a template.
struct Fault {
    line: Option<usize>,
    message: String,
    allowed: String,
}

impl Fault {
    fn of(error: Error) -> Fault {
        let place = error
            .template_source()
            .zip(error.range())
            .and_then(|(source, range)| source.get(range));
        let message = match (error.kind(), place) {
            (minijinja::ErrorKind::UndefinedError, Some(place)) => {
                format!("there is no value {}", place.trim())
            }
            (kind, _) => error.detail().map_or(kind.to_string(), str::to_owned),
        };
        Fault {
            line: error.line(),
            message,
            allowed: String::new(),
        }
    }
}

/// Renders it with everything that it may be given, and looks at the names in parts that no sample reaches.
fn check(environment: &Environment<'static>, name: &str) -> Result<(), Fault> {
    let samples = match name.starts_with("code") {
        true => vec![Value::from_serialize(CodeValues::default())],
        false => digests(),
    };
    let values: Vec<String> = samples[0]
        .try_iter()
        .map(|keys| keys.map(|key| key.to_string()).collect())
        .unwrap_or_default();
    let allowed = || values.join(", ");
    let template = environment.get_template(name).map_err(Fault::of)?;
    for sample in &samples {
        template.render(sample).map_err(|error| Fault {
            allowed: allowed(),
            ..Fault::of(error)
        })?;
    }
    let known: HashSet<&str> = values.iter().map(String::as_str).collect();
    let mut used: Vec<String> = template.undeclared_variables(false).into_iter().collect();
    used.sort_unstable();
    let functions: HashSet<String> = environment
        .globals()
        .map(|(name, _)| name.to_string())
        .collect();
    let unknown = |name: &&String| !known.contains(name.as_str()) && !functions.contains(*name);
    match used.iter().find(unknown) {
        None => Ok(()),
        Some(unknown) => Err(Fault {
            line: line_of(template.source(), unknown),
            message: format!("there is no value {unknown}"),
            allowed: allowed(),
        }),
    }
}

/// The first line with this word, counted from 1.
fn line_of(source: &str, word: &str) -> Option<usize> {
    let has = |line: &str| {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|part| part == word)
    };
    source.lines().position(has).map(|at| at + 1)
}

/// One direct message, a few of two rooms, and more than are shown.
fn digests() -> Vec<Value> {
    let shown = |room: &str| Said {
        room: room.to_owned(),
        sender: "Ada".to_owned(),
        body: "one\ntwo".to_owned(),
    };
    let all = [
        (1, vec![shown("")]),
        (1, vec![shown("engines")]),
        (3, vec![shown(""), shown("engines"), shown("engines")]),
        (25, vec![shown("engines"); 20]),
    ];
    all.into_iter()
        .map(|(count, messages)| {
            Value::from_serialize(DigestValues {
                more: count - messages.len(),
                count,
                messages,
                senders: vec!["Ada".to_owned()],
                link: "https://chat.example.com".to_owned(),
                unsubscribe: "https://chat.example.com/stop".to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Problems, Role, Sources};

    #[test]
    fn every_built_in_template_can_be_rendered() {
        let environment = built_in();
        for (name, _) in BUILT_IN {
            if let Err(fault) = check(&environment, name) {
                panic!("{name}:{:?}: {}", fault.line, fault.message);
            }
        }
    }

    fn load(files: &[(&str, &str)]) -> (String, Result<Config, Problems>) {
        let dir = std::env::temp_dir().join(format!("chat-templates-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&dir).unwrap();
        for (name, text) in files {
            std::fs::write(dir.join(name), text).unwrap();
        }
        let dir = dir.to_string_lossy().into_owned();
        let sources = Sources::default().with_env([("CHAT__NOTIFY__TEMPLATES", dir.as_str())]);
        let config = Config::load(&sources, Role::Tool);
        std::fs::remove_dir_all(&dir).unwrap();
        (dir, config)
    }

    #[test]
    fn a_file_takes_the_place_of_a_template() {
        let (_, config) = load(&[("code.html", "<i>{{ code }}</i>"), (".swp", "{{")]);
        let templates = config.unwrap().notify.templates;
        let values = CodeValues {
            code: "<1>".to_owned(),
            minutes: 2,
        };
        let html = templates.render("code.html", &values).unwrap();
        assert_eq!(html, "<i>&lt;1&gt;</i>");
        let text = templates.render("code.txt", &values).unwrap();
        assert!(text.starts_with("Your code is <1>. It is good for 2 minutes."));
    }

    #[test]
    fn a_template_that_would_fail_later_is_refused_at_once() {
        let (dir, config) = load(&[
            ("digest.html", "<p>\n{{ count }}\n{{ mesages }}\n"),
            (
                "digest.txt",
                "{% for m in messages %}\n{{ m.bdy }}\n{% endfor %}",
            ),
            // Where no sample comes.
            (
                "code.sms",
                "{{ code }}\n{% if minutes > 99 %}{{ hours }}{% endif %}",
            ),
            ("code.txt", "{{ code }\n"),
            ("digest.htm", ""),
        ]);
        let problems = config.unwrap_err().to_string();
        let lines: Vec<&str> = problems.lines().collect();
        let one = |file: &str, message: &str| {
            let from = format!("[from {dir}/{file}]");
            let found = lines
                .iter()
                .any(|line| line.contains(message) && line.ends_with(&from));
            assert!(found, "{file}, {message}: {problems}");
        };
        one(
            "digest.html:3",
            "notify.templates: there is no value mesages; allowed: count",
        );
        one("digest.txt:2", "there is no value m.bdy");
        one(
            "code.sms:2",
            "there is no value hours; allowed: code, minutes",
        );
        one("code.txt:1", "notify.templates: ");
        one(
            "digest.htm",
            "digest.htm is no template; allowed: digest.subject",
        );
        assert_eq!(lines.len(), 5, "{problems}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_problem() {
        let sources = Sources::default().with_env([("CHAT__NOTIFY__TEMPLATES", "/nowhere/at/all")]);
        let problems = Config::load(&sources, Role::Tool).unwrap_err().to_string();
        assert!(
            problems.contains("/nowhere/at/all cannot be read"),
            "{problems}"
        );
    }
}
