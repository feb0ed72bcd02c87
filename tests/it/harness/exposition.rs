//! A parser for Prometheus's text format that accepts only valid documents: each family's help and type once, before its
//! series; no series twice; the parts of a histogram complete.

use std::collections::{BTreeMap, BTreeSet};

use super::{Rest, eventually};

/// The metrics of one answer.
#[derive(Debug, Default)]
pub struct Exposition {
    /// `name{label="value"}`, with the labels sorted.
    series: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

impl Exposition {
    /// # Panics
    /// If the text is not valid.
    #[track_caller]
    pub fn parse(text: &str) -> Exposition {
        let mut parsed = Exposition::default();
        let mut helped = BTreeSet::new();
        let mut family = String::new();
        assert!(text.ends_with('\n'), "no line feed at the end");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, _) = help.split_once(' ').expect("a help text");
                assert!(helped.insert(name.to_owned()), "help of {name} twice");
                family = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert_eq!(name, family, "a type without help");
                assert!(
                    ["counter", "gauge", "histogram"].contains(&kind),
                    "{name} is a {kind}"
                );
                let before = parsed.kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "type of {name} twice");
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let (name, labels) = labels(series);
                let kind = parsed.kinds.get(&family).map(String::as_str);
                let of_family = match kind {
                    Some("histogram") => ["_bucket", "_sum", "_count"]
                        .iter()
                        .any(|end| name.strip_suffix(end) == Some(&family)),
                    _ => name == family,
                };
                assert!(of_family, "{name} after the family {family}");
                let series = show(name, &labels);
                let value: f64 = value.parse().expect("a number");
                let before = parsed.series.insert(series.clone(), value);
                assert_eq!(before, None, "{series} twice");
            }
        }
        parsed
    }

    /// Reads them from a process, with `/metrics` on this address.
    pub async fn read(http: &reqwest::Client, url: &str) -> Option<Exposition> {
        let answer = Rest::new(http.clone(), url).get("/metrics").await;
        (answer.status == 200).then(|| Exposition::parse(&answer.text))
    }

    /// Of `name{label="value"}`, with the labels in alphabetical order.
    pub fn get(&self, series: &str) -> Option<f64> {
        self.series.get(series).copied()
    }

    /// The names of all series.
    pub fn series(&self) -> impl Iterator<Item = &str> {
        self.series.keys().map(String::as_str)
    }
}

/// Waits until a series has the value.
pub async fn until(http: &reqwest::Client, url: &str, series: &str, right: impl Fn(f64) -> bool) {
    eventually(&format!("{series} at {url}"), async || {
        let found = Exposition::read(http, url).await?.get(series)?;
        right(found).then_some(())
    })
    .await;
}

fn show(name: &str, labels: &BTreeMap<String, String>) -> String {
    let shown: Vec<_> = labels
        .iter()
        .map(|(label, value)| format!("{label}=\"{value}\""))
        .collect();
    if shown.is_empty() {
        return name.to_owned();
    }
    format!("{name}{{{}}}", shown.join(","))
}

/// The name and the labels of `name{label="value",…}`.
#[track_caller]
fn labels(series: &str) -> (&str, BTreeMap<String, String>) {
    let Some((name, rest)) = series.split_once('{') else {
        return (series, BTreeMap::new());
    };
    let mut rest = rest.strip_suffix('}').expect("a closing brace");
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").expect("a label");
        // No value in these tests has an escaped quotation mark.
        let (value, after) = after.split_once('"').expect("a value in quotation marks");
        let before = labels.insert(label.to_owned(), value.to_owned());
        assert_eq!(before, None, "the label {label} twice in {series}");
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    (name, labels)
}
