//! The metrics of this process together with those of others, in one valid document of Prometheus's text format: the
//! help and type of a family are there once, and its series follow them.

use std::{collections::BTreeMap, fmt::Write, sync::OnceLock};

use futures_util::future::BoxFuture;

/// The metrics of another process, and the label that distinguishes its series.
pub struct Labelled {
    pub name: &'static str,
    pub value: String,
    /// Prometheus's text format.
    pub text: String,
}

type Others = Box<dyn Fn() -> BoxFuture<'static, Vec<Labelled>> + Send + Sync>;

static OTHERS: OnceLock<Others> = OnceLock::new();

/// Adds the metrics of other processes to every answer. The first call counts; `others` must have a deadline.
pub fn include(others: impl Fn() -> BoxFuture<'static, Vec<Labelled>> + Send + Sync + 'static) {
    let _ = OTHERS.set(Box::new(others));
}

/// `own` with the metrics of the other processes.
pub(super) async fn with_others(own: impl FnOnce() -> String) -> String {
    let Some(others) = OTHERS.get() else {
        return own();
    };
    let others = others().await;
    // After the others, so that it counts those that failed.
    merge(&own(), &others)
}

#[derive(Default)]
struct Family<'a> {
    help: &'a str,
    kind: &'a str,
    series: String,
}

fn merge(own: &str, others: &[Labelled]) -> String {
    let mut families = BTreeMap::new();
    add(&mut families, own, None);
    for other in others {
        let label = format!("{}=\"{}\"", other.name, escaped(&other.value));
        add(&mut families, &other.text, Some(&label));
    }
    let mut merged = String::with_capacity(own.len() * (others.len() + 1));
    for Family { help, kind, series } in families.values() {
        for line in [help, kind] {
            if !line.is_empty() {
                merged.push_str(line);
                merged.push('\n');
            }
        }
        merged.push_str(series);
    }
    merged
}

/// Adds the families of a text in which a family's series follow its `# TYPE`.
fn add<'a>(families: &mut BTreeMap<&'a str, Family<'a>>, text: &'a str, label: Option<&str>) {
    let mut current = "";
    for line in text.lines() {
        let described = line
            .strip_prefix("# HELP ")
            .or_else(|| line.strip_prefix("# TYPE "));
        if let Some(described) = described {
            current = described.split(' ').next().unwrap_or_default();
            let family: &mut Family = families.entry(current).or_default();
            let place = if line.starts_with("# HELP ") {
                &mut family.help
            } else {
                &mut family.kind
            };
            if place.is_empty() {
                *place = line;
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            let series = &mut families.entry(current).or_default().series;
            let name = line.find(['{', ' ']).unwrap_or(line.len());
            let (name, rest) = line.split_at(name);
            // Writing to a `String` cannot fail.
            let _ = match (label, rest.strip_prefix('{')) {
                (None, _) => writeln!(series, "{line}"),
                (Some(label), None) => writeln!(series, "{name}{{{label}}}{rest}"),
                (Some(label), Some(rest)) if rest.starts_with('}') => {
                    writeln!(series, "{name}{{{label}{rest}")
                }
                (Some(label), Some(rest)) => writeln!(series, "{name}{{{label},{rest}"),
            };
        }
    }
}

/// A label's value, escaped as the format says.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_merged_and_series_labelled() {
        let own = "# HELP a Counts.\n# TYPE a counter\na 1\n\
                   # HELP c Own.\n# TYPE c gauge\nc{x=\"{ \\\"} \"} 3\n";
        let other = "# HELP a Counts.\n# TYPE a counter\na 2\n\
                     # HELP b Others'.\n# TYPE b histogram\nb_bucket{le=\"+Inf\"} 4\nb_sum 5.5\n\
                     # HELP c Own.\n# TYPE c gauge\nc{} 6\n";
        let others = ["1", "2"].map(|value| Labelled {
            name: "worker",
            value: value.to_owned(),
            text: other.to_owned(),
        });
        let expected = "\
# HELP a Counts.
# TYPE a counter
a 1
a{worker=\"1\"} 2
a{worker=\"2\"} 2
# HELP b Others'.
# TYPE b histogram
b_bucket{worker=\"1\",le=\"+Inf\"} 4
b_sum{worker=\"1\"} 5.5
b_bucket{worker=\"2\",le=\"+Inf\"} 4
b_sum{worker=\"2\"} 5.5
# HELP c Own.
# TYPE c gauge
c{x=\"{ \\\"} \"} 3
c{worker=\"1\"} 6
c{worker=\"2\"} 6
";
        assert_eq!(merge(own, &others), expected);
        assert_eq!(merge(own, &[]), own);
    }
}
