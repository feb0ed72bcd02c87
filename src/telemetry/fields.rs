//! The fields of a line of the text log: `name=value`, with quotes around values that have spaces.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

pub struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line {
            writer,
            separator: "",
            result: Ok(()),
        };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    separator: &'static str,
    result: fmt::Result,
}

impl Line<'_> {
    fn write(&mut self, field: &Field, value: &str) {
        // Where an event of the crate `log` comes from; its target is in the line already.
        if self.result.is_err() || field.name().starts_with("log.") {
            return;
        }
        let separator = std::mem::replace(&mut self.separator, " ");
        let text = match field.name() {
            "message" => value.to_owned(),
            name => format!("{}={}", name.trim_start_matches("r#"), quoted(value)),
        };
        self.result = write!(self.writer, "{separator}{text}");
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.write(field, value),
            _ => self.write(field, &format!("{value:?}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.write(field, &format!("{value:?}"));
    }
}

/// With quotes, unless it has them or needs none.
fn quoted(value: &str) -> String {
    if value.starts_with('"') || !(value.is_empty() || value.contains([' ', '"'])) {
        value.to_owned()
    } else {
        format!("{value:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_spaces_have_quotes() {
        for (value, expected) in [
            ("1.5", "1.5"),
            ("no route", "\"no route\""),
            ("\"no route\"", "\"no route\""),
            ("role \"x\"", "\"role \\\"x\\\"\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(value), expected);
        }
    }
}
