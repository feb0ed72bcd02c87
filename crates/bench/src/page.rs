//! The HTML page of a report: one file without scripts, with a table of figures and charts.

use std::path::Path;

use crate::error::{Error, Result};

pub(crate) struct Page<'a> {
    pub title: &'a str,
    /// The arguments of the run.
    pub run: &'a str,
    /// One sentence about what the judge found.
    pub verdict: &'a str,
    pub rows: &'a [(String, String)],
    /// SVG. Everything else is escaped.
    pub charts: &'a str,
}

impl Page<'_> {
    pub fn html(&self) -> String {
        let rows = self.rows.iter().map(|(name, value)| {
            format!(
                "<tr><td>{}</td><td>{}</td></tr>",
                escaped(name),
                escaped(value)
            )
        });
        let rows: String = rows.collect();
        let (title, run, verdict) = (
            escaped(self.title),
            escaped(self.run),
            escaped(self.verdict),
        );
        let charts = self.charts;
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
             <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\">\
             <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
             td{{padding:.1rem 1.5rem .1rem 0}}svg{{margin:1rem 0}}</style></head>\n<body><h1>{title}</h1>\
             <p>{run}</p><p><b>{verdict}</b></p><table>{rows}</table>{charts}</body></html>\n"
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Writes the file that the argument `flag` names.
pub(crate) fn save(flag: &'static str, file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|e| {
        let problem = format!("{} cannot be written: {e}", file.display());
        Error::argument(flag, problem)
    })
}
