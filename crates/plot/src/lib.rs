//! Line charts as SVG text.
//!
//! A chart contains no font and no script, and follows the reader's light or dark colour scheme. A point that is not
//! finite is a gap in its line.

mod axis;
mod draw;
mod json;
mod series;

pub use self::{
    json::from_json,
    series::{Panel, Series},
};

/// Panels one below the other over the same numeric axis, such as time.
pub fn stacked(title: &str, x_label: &str, panels: &[Panel]) -> String {
    draw::chart(title, x_label, panels, None)
}

/// Panels over categories: a point's x is the index of its category.
pub fn over(title: &str, x_label: &str, categories: &[&str], panels: &[Panel]) -> String {
    draw::chart(title, x_label, panels, Some(categories))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(title: &str, x_label: &str, y_label: &str, series: &[Series]) -> String {
        stacked(title, x_label, &[Panel::new(y_label, series.to_vec())])
    }

    fn count(svg: &str, what: &str) -> usize {
        svg.matches(what).count()
    }

    #[test]
    fn every_panel_and_line_is_drawn() {
        let line = |name: &str| Series::new(name, vec![(0.0, 1.0), (1.0, 4.0), (2.0, 2.0)]);
        let panels = [
            Panel::new("messages", vec![line("in"), line("out")]),
            Panel::new("workers", vec![line("workers")]),
        ];
        let svg = stacked("A <burst>", "seconds", &panels);
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        // Three lines, and two legend entries: a panel with one line of its own name has no legend.
        assert_eq!(count(&svg, "stroke-width=\"2\""), 3);
        assert_eq!(count(&svg, "stroke-width=\"3\""), 2);
        for text in [
            "messages",
            "workers",
            "in",
            "out",
            "seconds",
            "A &lt;burst&gt;",
        ] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text}");
        }
        assert!(!svg.contains("<burst>"));
    }

    #[test]
    fn values_that_are_not_finite_are_gaps() {
        let points = |y: [f64; 5]| (0_u8..).map(f64::from).zip(y).collect::<Vec<_>>();
        let whole = lines("t", "x", "y", &[Series::new("a", points([1.0; 5]))]);
        let broken = [1.0, 2.0, f64::NAN, 2.0, f64::INFINITY];
        let broken = lines("t", "x", "y", &[Series::new("a", points(broken))]);
        assert_eq!(
            count(
                &whole,
                "<polyline fill=\"none\" opacity=\"1\" stroke=\"#2F81D6\" stroke-width=\"2\""
            ),
            1
        );
        assert_eq!(
            count(
                &broken,
                "<polyline fill=\"none\" opacity=\"1\" stroke=\"#2F81D6\" stroke-width=\"2\""
            ),
            1
        );
        assert_eq!(count(&broken, "<circle"), 1);
        // No series at all.
        assert!(lines("t", "x", "y", &[]).ends_with("</svg>\n"));
    }

    #[test]
    fn categories_are_labelled() {
        let series = Series::new("edge", vec![(0.0, 3.0), (1.0, 5.0)]);
        let svg = over(
            "t",
            "rooms",
            &["1", "100,000"],
            &[Panel::new("µs", vec![series])],
        );
        assert!(svg.contains("\n100,000\n"), "{svg}");
    }
}
