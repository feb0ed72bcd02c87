//! Second stage: checks the values. Each read checks one key and records it for `effective()`. An invalid value is
//! recorded as a problem and replaced by the default, so that all problems are reported at once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::layers::{MergedValue, Raw, list_in};
use super::problem::{Problem, Source};
use super::secret::{Secret, Secrets, mask};
use crate::templates::{self, Templates};

/// A setting in effect, as it is shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub key: &'static str,
    /// A TOML value without secrets.
    pub value: String,
    pub source: Source,
}

pub(super) struct Reader {
    pub entries: BTreeMap<String, MergedValue>,
    pub problems: Vec<Problem>,
    pub shown: Vec<Shown>,
}

/// A value and how it is shown, or the problem.
pub(super) type Parsed<T> = Result<(T, String), String>;

impl Reader {
    /// Reads a key. `parse` may use nothing but the raw value.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl Fn(&Raw) -> Parsed<T>,
    ) -> T {
        let entry = self
            .entries
            .get(key)
            .expect("every key read stands in config.toml: the unit tests read them all");
        let (value, shown) = parse(&entry.raw).unwrap_or_else(|message| {
            let source = entry.source.clone();
            self.problems.push(Problem {
                key: key.to_owned(),
                source,
                message,
                allowed: allowed.to_owned(),
            });
            parse(&entry.default).expect("every default is valid: the unit tests read them all")
        });
        self.shown.push(Shown {
            key,
            value: shown,
            source: entry.source.clone(),
        });
        value
    }

    /// A whole number in `range`; `note` adds to the range in a problem.
    pub fn number<T: TryFrom<i64>>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i64>,
        note: &str,
    ) -> T {
        let allowed = with_note(&format!("{}..={}", range.start(), range.end()), note);
        self.read(key, &allowed, |raw| {
            let number = match raw {
                Raw::Integer(number) => *number,
                Raw::Word(word) => word
                    .trim()
                    .parse()
                    .map_err(|_| format!("{} is not a number", quote(raw)))?,
                _ => return Err(format!("{} is not a number", quote(raw))),
            };
            match T::try_from(number) {
                Ok(value) if range.contains(&number) => Ok((value, number.to_string())),
                _ => Err(format!("{number} is out of range")),
            }
        })
    }

    /// A directory of templates, or none. Every problem of the templates is recorded.
    pub fn templates(&mut self, key: &'static str) -> Templates {
        let dir = self.text(key, "a directory of templates, or \"\"", |text| {
            Ok((!text.is_empty()).then(|| PathBuf::from(text)))
        });
        let Some(dir) = dir else {
            return Templates::default();
        };
        let (templates, faults) = Templates::load(&dir);
        let source = &self.entries[key].source;
        let problems = faults.into_iter().map(|fault| Problem {
            key: key.to_owned(),
            source: match fault.place {
                templates::TemplateLocation::Setting => source.clone(),
                templates::TemplateLocation::File { path, line } => Source::File { path, line },
            },
            message: fault.message,
            allowed: fault.allowed,
        });
        self.problems.extend(problems);
        templates
    }

    /// A share, from 0 to 1.
    pub fn share(&mut self, key: &'static str) -> f64 {
        self.read(key, "0..=1, such as 0.05", |raw| {
            let text = match raw {
                Raw::Integer(number) => number.to_string(),
                Raw::Fraction(text) | Raw::Word(text) => text.trim().to_owned(),
                _ => return Err(format!("{} is not a number", quote(raw))),
            };
            let share: f64 = text
                .parse()
                .map_err(|_| format!("{} is not a number", quote(raw)))?;
            if (0.0..=1.0).contains(&share) {
                Ok((share, share.to_string()))
            } else {
                Err(format!("{share} is out of range"))
            }
        })
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> bool {
        self.read(key, "true, false", |raw| {
            let value = match raw {
                Raw::Bool(value) => Some(*value),
                Raw::Word(word) => word.trim().parse().ok(),
                _ => None,
            };
            value
                .map(|value| (value, value.to_string()))
                .ok_or_else(|| format!("{} is neither true nor false", quote(raw)))
        })
    }

    /// A number and a unit, in `range`.
    pub fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Duration {
        let (from, to) = (show_duration(*range.start()), show_duration(*range.end()));
        let allowed = format!("{from}..={to}, a whole number and one of ms, s, m, h, d");
        self.read(key, &allowed, |raw| {
            let value = match raw {
                Raw::Text(text) | Raw::Word(text) => parse_duration(text.trim()),
                _ => None,
            };
            match value {
                Some(value) if range.contains(&value) => {
                    Ok((value, toml_string(&show_duration(value))))
                }
                Some(_) => Err(format!("{} is out of range", quote(raw))),
                None => Err(format!("{} is not a duration", quote(raw))),
            }
        })
    }

    /// A text that `check` converts; its error continues the sentence "*value* …".
    pub fn text<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        self.read(key, allowed, |raw| {
            let text = text_of(raw).ok_or_else(|| format!("{} is not a text", quote(raw)))?;
            let value = check(text).map_err(|wrong| format!("{} {wrong}", quote(raw)))?;
            Ok((value, toml_string(text)))
        })
    }

    /// A list of texts, each of which `check` accepts. Text from the environment is split at commas.
    pub fn list(
        &mut self,
        key: &'static str,
        allowed: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Vec<String> {
        self.read(key, allowed, |raw| {
            let items = match raw {
                Raw::List(items) => items.clone(),
                Raw::Word(word) => list_in(word).unwrap_or_else(|| {
                    let items = word
                        .split(',')
                        .map(str::trim)
                        .filter(|item| !item.is_empty());
                    items.map(|item| Raw::Text(item.to_owned())).collect()
                }),
                _ => return Err(format!("{} is not a list", quote(raw))),
            };
            let mut list = Vec::with_capacity(items.len());
            for item in &items {
                let text = text_of(item)
                    .ok_or_else(|| format!("{} in the list is not a text", quote(item)))?;
                check(text).map_err(|wrong| format!("{} {wrong}", quote(item)))?;
                list.push(text.to_owned());
            }
            let shown: Vec<String> = list.iter().map(|item| toml_string(item)).collect();
            Ok((list, format!("[{}]", shown.join(", "))))
        })
    }

    /// A secret, empty or of at least `min` bytes.
    pub fn secret(&mut self, key: &'static str, min: usize, allowed: &str) -> Secret {
        self.read(key, allowed, |raw| {
            let text =
                text_of(raw).ok_or("its value is not a text (not shown, since it is secret)")?;
            match text.len() {
                0 => Ok((Secret::new(""), toml_string(""))),
                length if length < min => Err(too_short(length)),
                _ => Ok((Secret::new(text), toml_string("***"))),
            }
        })
    }

    /// Secrets of at least `min` bytes each: one text, a list, or an environment variable that separates them by commas.
    pub fn secrets(&mut self, key: &'static str, min: usize, allowed: &str) -> Secrets {
        self.read(key, allowed, |raw| {
            let items = match raw {
                Raw::List(items) => items.clone(),
                Raw::Word(word) => list_in(word).unwrap_or_else(|| split_at_commas(word)),
                other => vec![other.clone()],
            };
            let (mut secrets, mut short) = (Vec::new(), Vec::new());
            for (i, item) in items.iter().enumerate() {
                let text = text_of(item)
                    .ok_or("its value is not a text (not shown, since it is secret)")?
                    .trim();
                if text.len() < min && !(text.is_empty() && items.len() == 1) {
                    let which = match items.len() {
                        1 => String::new(),
                        count => format!("secret {} of {count} ", i + 1),
                    };
                    short.push(format!("{which}{}", too_short(text.len())));
                }
                secrets.push(Secret::new(text));
            }
            if !short.is_empty() {
                return Err(short.join("; "));
            }
            if secrets.len() > MAX_SECRETS {
                return Err(format!("has more than {MAX_SECRETS} secrets"));
            }
            let secrets = Secrets::new(secrets);
            let shown = match secrets.iter().count() {
                0 => toml_string(""),
                1 => toml_string("***"),
                count => format!("[{}]", vec![toml_string("***"); count].join(", ")),
            };
            Ok((secrets, shown))
        })
    }

    /// Reports a problem of a key that was read before, unless it has one already.
    pub fn refuse(&mut self, key: &str, message: &str, allowed: &str) {
        if self.has_problem(key) {
            return;
        }
        let source = self.shown(key).source.clone();
        self.problems.push(Problem {
            key: key.to_owned(),
            source,
            message: message.to_owned(),
            allowed: allowed.to_owned(),
        });
    }

    /// Reports that `key` contradicts `other`, unless one of them has a problem of its own already.
    pub fn contradiction(&mut self, key: &str, other: &str, message: &str, allowed: &str) {
        if self.has_problem(other) {
            return;
        }
        let Shown {
            value: other_value,
            source: other_source,
            ..
        } = self.shown(other);
        let message = format!(
            "{} {message} {other} = {other_value} [from {other_source}]",
            self.shown(key).value
        );
        self.refuse(key, &message, allowed);
    }

    fn has_problem(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.key == key)
    }

    fn shown(&self, key: &str) -> &Shown {
        self.shown
            .iter()
            .find(|shown| shown.key == key)
            .expect("keys are compared after all have been read")
    }
}

fn too_short(bytes: usize) -> String {
    let unit = if bytes == 1 { "byte" } else { "bytes" };
    format!("has {bytes} {unit}, which is too short to be secret")
}

/// Secrets that are accepted at once; each forged token is compared with all of them.
const MAX_SECRETS: usize = 8;

fn split_at_commas(text: &str) -> Vec<Raw> {
    text.split(',')
        .map(|part| Raw::Text(part.to_owned()))
        .collect()
}

pub(super) fn text_of(raw: &Raw) -> Option<&str> {
    match raw {
        Raw::Text(text) | Raw::Word(text) => Some(text),
        _ => None,
    }
}

fn with_note(allowed: &str, note: &str) -> String {
    if note.is_empty() {
        allowed.to_owned()
    } else {
        format!("{allowed} ({note})")
    }
}

/// A value in a message: short, on one line, and with passwords masked.
fn quote(raw: &Raw) -> String {
    const MAX_CHARS: usize = 80;
    match raw {
        Raw::Text(text) | Raw::Word(text) => {
            let text = mask(text);
            let mut short: String = text.chars().take(MAX_CHARS).collect();
            if short.len() < text.len() {
                short.push('…');
            }
            format!("{short:?}")
        }
        Raw::Integer(number) => number.to_string(),
        Raw::Fraction(_) => "a number with a fraction".to_owned(),
        Raw::List(_) => "a list".to_owned(),
        Raw::Bool(_) => "a truth value".to_owned(),
        Raw::Other(what) => (*what).to_owned(),
    }
}

pub(super) fn toml_string(text: &str) -> String {
    toml::Value::from(text).to_string()
}

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    Some(Duration::from_millis(
        number.parse::<u64>().ok()?.checked_mul(*millis)?,
    ))
}

/// Formats a duration in the largest unit that needs no fraction.
fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let fits = UNITS
        .iter()
        .find(|(_, unit)| millis.is_multiple_of(u128::from(*unit)));
    let (name, unit) = fits.expect("a millisecond divides every number of milliseconds");
    format!("{}{name}", millis / u128::from(*unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, millis, shown) in [
            ("10s", 10_000, "10s"),
            ("300ms", 300, "300ms"),
            ("15m", 900_000, "15m"),
            ("30d", 2_592_000_000, "30d"),
            ("90 s", 90_000, "90s"),
            ("24h", 86_400_000, "1d"),
            ("0ms", 0, "0s"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(
                (duration, show_duration(duration).as_str()),
                (Duration::from_millis(millis), shown)
            );
        }
        for wrong in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "1 week",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
