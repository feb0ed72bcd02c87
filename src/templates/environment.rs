//! The template engine with the built-in templates.

use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, Value};
use serde::Serialize;

/// The built-in templates, by file name.
pub(super) const BUILT_IN: [(&str, &str); 11] = [
    ("digest.subject", include_str!("digest.subject")),
    ("digest.txt", include_str!("digest.txt")),
    ("digest.html", include_str!("digest.html")),
    ("digest.sms", include_str!("digest.sms")),
    ("code.subject", include_str!("code.subject")),
    ("code.txt", include_str!("code.txt")),
    ("code.html", include_str!("code.html")),
    ("code.sms", include_str!("code.sms")),
    ("reset.subject", include_str!("reset.subject")),
    ("reset.txt", include_str!("reset.txt")),
    ("reset.html", include_str!("reset.html")),
];

pub(super) fn render(
    environment: &Environment<'static>,
    name: &str,
    values: &impl Serialize,
) -> Result<String, Error> {
    environment.get_template(name)?.render(values)
}

pub(super) fn built_in() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_debug(true);
    environment.set_auto_escape_callback(|name| {
        if name.ends_with(".html") {
            AutoEscape::Html
        } else {
            AutoEscape::None
        }
    });
    environment.set_formatter(|out, state, value| {
        match state.auto_escape() {
            // minijinja's own escaping also replaces slashes, which makes links hard to read.
            AutoEscape::Html if !value.is_safe() => Ok(out.write_str(&escape(&value.to_string()))?),
            _ => Ok(write!(out, "{value}")?),
        }
    });
    environment.add_filter("lines_br", lines_br);
    for (name, text) in BUILT_IN {
        environment
            .add_template(name, text)
            .expect("every built-in template compiles: the unit tests render them all");
    }
    environment
}

/// Escapes text for HTML and keeps its line breaks.
fn lines_br(text: &str) -> Value {
    Value::from_safe_string(escape(text).replace('\n', "<br>"))
}

/// Escapes text for HTML, also inside an attribute.
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
