//! Loads the templates of a directory, and checks them before they are used.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use minijinja::{Environment, Error, Value};
use serde::Serialize;

use super::{
    environment::{BUILT_IN, built_in, render},
    values::{CodeValues, DigestMessage, DigestValues, ResetValues},
};

/// Size limit of one file, in bytes.
const MAX_FILE: u64 = 256 * 1024;

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

/// A problem with the templates of a directory.
#[derive(Debug)]
pub struct Fault {
    pub place: TemplateLocation,
    pub message: String,
    /// The valid alternatives, in words; empty if the message is enough.
    pub allowed: String,
}

/// Where a problem is.
#[derive(Debug)]
pub enum TemplateLocation {
    /// In the setting that names the directory.
    Setting,
    /// In a file; `line` counts from 1.
    File { path: PathBuf, line: Option<usize> },
}

impl Templates {
    /// The templates of a directory, and the built-in ones for files that it does not have; with all problems.
    pub fn load(dir: &Path) -> (Templates, Vec<Fault>) {
        let mut templates = Templates::default();
        let mut used = built_in();
        let mut faults = Vec::new();
        let unreadable = |path: &Path, error: std::io::Error| Fault {
            place: TemplateLocation::Setting,
            message: format!("{} cannot be read: {error}", path.display()),
            allowed: "a directory of templates".to_owned(),
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
            let at = |line: Option<usize>| TemplateLocation::File {
                path: path.clone(),
                line,
            };
            let Some((name, _)) = BUILT_IN.iter().find(|(name, _)| *name == file) else {
                faults.push(Fault {
                    place: at(None),
                    message: format!("{file} is no template"),
                    allowed: BUILT_IN.map(|(name, _)| name).join(", "),
                });
                continue;
            };
            let text = match read(&path) {
                Ok(text) => text,
                Err(error) => {
                    faults.push(unreadable(&path, error));
                    continue;
                }
            };
            let compiled = used.add_template_owned(*name, text);
            if let Err(invalid) = compiled
                .map_err(Invalid::of)
                .and_then(|()| check(&used, name))
            {
                faults.push(Fault {
                    place: at(invalid.line),
                    message: invalid.message,
                    allowed: invalid.allowed,
                });
            }
        }
        if faults.is_empty() {
            templates.used = Arc::new(used);
        }
        (templates, faults)
    }

    /// # Errors
    /// If a template from the directory fails with these values; then the caller renders the built-in one.
    pub fn render(&self, name: &str, values: &impl Serialize) -> Result<String, String> {
        render(&self.used, name, values).map_err(|error| format!("{error:#}"))
    }

    /// Renders the built-in template, which does not fail: the unit tests render all of them.
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

/// Why a template cannot be used.
struct Invalid {
    line: Option<usize>,
    message: String,
    allowed: String,
}

impl Invalid {
    fn of(error: Error) -> Invalid {
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
        Invalid {
            line: error.line(),
            message,
            allowed: String::new(),
        }
    }
}

/// Renders a template with samples, and checks the names in branches that no sample reaches.
fn check(environment: &Environment<'static>, name: &str) -> Result<(), Invalid> {
    let samples = if name.starts_with("code") {
        vec![Value::from_serialize(CodeValues::default())]
    } else if name.starts_with("reset") {
        let link = ResetValues {
            link: "https://chat.example.com/reset".to_owned(),
            ..ResetValues::default()
        };
        let samples = [ResetValues::default(), link];
        samples.map(Value::from_serialize).into()
    } else {
        digests()
    };
    let values: Vec<String> = samples[0]
        .try_iter()
        .map(|keys| keys.map(|key| key.to_string()).collect())
        .unwrap_or_default();
    let allowed = || values.join(", ");
    let template = environment.get_template(name).map_err(Invalid::of)?;
    for sample in &samples {
        template.render(sample).map_err(|error| Invalid {
            allowed: allowed(),
            ..Invalid::of(error)
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
        Some(unknown) => Err(Invalid {
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

/// Samples: one direct message, one of a room, a few of both, and more than are shown.
fn digests() -> Vec<Value> {
    let shown = |room: &str| DigestMessage {
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
