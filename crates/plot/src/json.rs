//! Charts described in JSON.

use serde::Deserialize;

use crate::{draw, series::Panel};

/// Draws a chart from its description in JSON: `{"title", "x", "panels": [{"y", "series": [{"name", "points": [[x, y]]}]}]}`.
/// An optional `places` lists the categories 0, 1, 2 … of an x axis that is not numeric.
///
/// # Errors
/// Input that is not such a description.
pub fn from_json(input: impl std::io::Read) -> Result<String, serde_json::Error> {
    #[derive(Deserialize)]
    struct Chart {
        title: String,
        x: String,
        #[serde(rename = "places")]
        categories: Option<Vec<String>>,
        panels: Vec<Panel>,
    }
    let Chart {
        title,
        x,
        categories,
        panels,
    } = serde_json::from_reader(input)?;
    Ok(match categories {
        Some(categories) => {
            let categories: Vec<&str> = categories.iter().map(String::as_str).collect();
            draw::chart(&title, &x, &panels, Some(&categories))
        }
        None => draw::chart(&title, &x, &panels, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_becomes_a_chart() {
        let panels = r#""panels":[{"y":"µs","series":[{"name":"edge","points":[[0,3],[1,5]]}]}]"#;
        let numeric = format!(r#"{{"title":"t","x":"rooms",{panels}}}"#);
        assert!(from_json(numeric.as_bytes()).unwrap().contains("<polyline"));
        let named = format!(r#"{{"title":"t","x":"rooms","places":["one","many"],{panels}}}"#);
        assert!(from_json(named.as_bytes()).unwrap().contains("\nmany\n"));
        assert!(from_json("{}".as_bytes()).is_err());
    }
}
