//! Line charts as SVG text: for the reports of `chat bench`, for the documents.
//!
//! A chart carries no font and no script, and follows the reader's light or dark scheme. It knows nothing of what it
//! draws: numbers in, text out. A point that is not finite is a gap in its line.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Deserialize;

use crate::error::{Error, Result};

const WIDTH: u32 = 960;
const TITLE: i32 = 44;
/// What a panel needs above its lines for its caption and its legend.
const CAPTION: i32 = 26;
const BOTTOM: i32 = 48;
/// Numbers beside the lines, names below them.
const LEFT: i32 = 56;
const PLACES: i32 = 24;
/// plotters divides by 1.24 what it is told: 12.9 px.
const TEXT: f64 = 16.0;

const PAPER: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);
const INK: RGBColor = RGBColor(0x24, 0x29, 0x2F);
const GRID: RGBColor = RGBColor(0xD8, 0xDE, 0xE4);

/// Lines that can be told apart on white and on black, by people who see fewer colours, too.
const LINES: [RGBColor; 6] = [
    RGBColor(0x2F, 0x81, 0xD6),
    RGBColor(0xE0, 0x7B, 0x22),
    RGBColor(0x1F, 0x9D, 0x72),
    RGBColor(0xC0, 0x5C, 0xA8),
    RGBColor(0x7A, 0x82, 0x8C),
    RGBColor(0xC9, 0x4F, 0x4F),
];

/// The colours above for a reader who prefers dark. The attributes name the light ones.
const STYLE: &str = "<style>svg.plot{max-width:100%;height:auto}@media (prefers-color-scheme:dark){\
     svg.plot [fill=\"#FFFFFF\"]{fill:#0D1117}svg.plot [fill=\"#24292F\"]{fill:#E6EDF3}\
     svg.plot [stroke=\"#24292F\"]{stroke:#8B949E}svg.plot [stroke=\"#D8DEE4\"]{stroke:#30363D}}</style>";

/// One named line.
#[derive(Clone, Debug, Deserialize)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
        Series {
            name: name.into(),
            points,
        }
    }

    /// A value that holds until the next one: a number of workers, not a rate.
    pub fn steps(name: impl Into<String>, points: &[(f64, f64)]) -> Series {
        let mut stepped = Vec::with_capacity(points.len() * 2);
        for (index, &(x, y)) in points.iter().enumerate() {
            if let Some(&(_, before)) = index.checked_sub(1).and_then(|at| points.get(at))
                && before != y
            {
                stepped.push((x, before));
            }
            stepped.push((x, y));
        }
        Series::new(name, stepped)
    }
}

/// Lines that share both axes; charts may have several, one below the other.
#[derive(Clone, Debug, Deserialize)]
pub struct Panel {
    #[serde(rename = "y")]
    pub y_label: String,
    pub series: Vec<Series>,
}

impl Panel {
    pub fn new(y_label: impl Into<String>, series: Vec<Series>) -> Panel {
        Panel {
            y_label: y_label.into(),
            series,
        }
    }
}

/// A chart as a script describes it: `{"title", "x", "panels": [{"y", "series": [{"name", "points": [[x, y]]}]}]}`, with
/// `places`, the names of 0, 1, 2 … on the x axis, where it is no number.
///
/// # Errors
/// `invalid`, where it is not that.
pub fn from_json(input: impl std::io::Read) -> Result<String> {
    #[derive(Deserialize)]
    struct Chart {
        title: String,
        x: String,
        places: Option<Vec<String>>,
        panels: Vec<Panel>,
    }
    let chart: Chart = serde_json::from_reader(input)
        .map_err(|e| Error::field("standard input", e.to_string()))?;
    let Chart {
        title,
        x,
        places,
        panels,
    } = chart;
    Ok(match places {
        Some(places) => {
            let places: Vec<&str> = places.iter().map(String::as_str).collect();
            over(&title, &x, &places, &panels)
        }
        None => stacked(&title, &x, &panels),
    })
}

/// One panel over a numeric axis, for example time.
pub fn lines(title: &str, x_label: &str, y_label: &str, series: &[Series]) -> String {
    stacked(title, x_label, &[Panel::new(y_label, series.to_vec())])
}

/// Panels one below the other over the same numeric axis.
pub fn stacked(title: &str, x_label: &str, panels: &[Panel]) -> String {
    draw(title, x_label, panels, None)
}

/// Panels over named places: a point's x is the index of its place.
pub fn over(title: &str, x_label: &str, places: &[&str], panels: &[Panel]) -> String {
    draw(title, x_label, panels, Some(places))
}

fn draw(title: &str, x_label: &str, panels: &[Panel], places: Option<&[&str]>) -> String {
    let each = if panels.len() > 1 { 190 } else { 340 };
    let count = i32::try_from(panels.len()).unwrap_or(0);
    let height = TITLE + each * count + BOTTOM;
    let size = (WIDTH, height.unsigned_abs());
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        // A picture in memory has nothing to fail at.
        let _: Drawn = compose(&root, each, title, x_label, panels, places);
    }
    dress(&svg, title)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn compose(
    root: &Area<'_>,
    each: i32,
    title: &str,
    x_label: &str,
    panels: &[Panel],
    places: Option<&[&str]>,
) -> Drawn {
    root.fill(&PAPER)?;
    write(root, title, (20, 26), 22.0, HPos::Left)?;
    let (width, height) = pixels(root);
    let x = match places {
        Some(places) => Axis::named(places),
        None => Axis::numeric(
            panels
                .iter()
                .flat_map(|panel| &panel.series)
                .flat_map(|one| &one.points)
                .map(|at| at.0),
            10,
            false,
        ),
    };
    let (_, below) = root.split_vertically(TITLE);
    for (index, panel) in panels.iter().enumerate() {
        let last = index + 1 == panels.len();
        let names = if last { PLACES } else { 0 };
        let top = each * i32::try_from(index).unwrap_or(0);
        let area = below.clone().shrink((0, top), (width, each + names));
        paint(&area, panel, &x, last)?;
    }
    let middle = ((width + LEFT) / 2, height - 14);
    write(root, x_label, middle, TEXT, HPos::Center)?;
    root.present()
}

/// One panel: what it shows, in which colour, and the lines.
fn paint(area: &Area<'_>, panel: &Panel, x: &Axis, with_places: bool) -> Drawn {
    let points = panel
        .series
        .iter()
        .flat_map(|one| &one.points)
        .map(|at| at.1);
    let y = Axis::numeric(points, 5, true);
    write(area, &panel.y_label, (20, 13), TEXT, HPos::Left)?;
    legend(area, panel)?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(CAPTION)
        .margin_right(24)
        .margin_left(8)
        .y_label_area_size(LEFT)
        .x_label_area_size(if with_places { PLACES } else { 6 })
        .build_cartesian_2d(x.clone(), y.clone())?;
    let text = ("sans-serif", 14).into_font().color(&INK);
    let x_text = |value: &f64| {
        if with_places {
            x.name(*value)
        } else {
            String::new()
        }
    };
    let y_text = |value: &f64| y.name(*value);
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(GRID)
        .label_style(text)
        .x_label_formatter(&x_text)
        .y_label_formatter(&y_text)
        .draw()?;
    for (index, one) in panel.series.iter().enumerate() {
        let style = LINES[index % LINES.len()].stroke_width(2);
        for piece in one
            .points
            .split(|at| !at.0.is_finite() || !at.1.is_finite())
        {
            match piece {
                [] => {}
                [alone] => {
                    chart.draw_series([Circle::new(*alone, 2, style.filled())])?;
                }
                many => {
                    chart.draw_series(LineSeries::new(many.iter().copied(), style))?;
                }
            }
        }
    }
    Ok(())
}

/// Names and colours in one row at the right end of the caption.
fn legend(area: &Area<'_>, panel: &Panel) -> Drawn {
    if panel.series.len() == 1 && panel.series[0].name == panel.y_label {
        return Ok(());
    }
    let mut right = pixels(area).0 - 24;
    for (index, one) in panel.series.iter().enumerate().rev() {
        // Without the reader's font its width is a guess: sans-serif letters are about half as wide as high.
        let letters = i32::try_from(one.name.chars().count()).unwrap_or(0);
        let text = right - letters * 7;
        let left = text - 8;
        write(area, &one.name, (text, 13), TEXT, HPos::Left)?;
        let style = LINES[index % LINES.len()].stroke_width(3);
        area.draw(&PathElement::new([(left - 18, 13), (left, 13)], style))?;
        right = left - 34;
    }
    Ok(())
}

fn pixels(area: &Area<'_>) -> (i32, i32) {
    let (width, height) = area.dim_in_pixel();
    (width.cast_signed(), height.cast_signed())
}

fn write(area: &Area<'_>, text: &str, at: (i32, i32), size: f64, side: HPos) -> Drawn {
    let style = ("sans-serif", size)
        .into_font()
        .color(&INK)
        .pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
}

/// An axis's ends, its ticks and their names.
#[derive(Clone)]
struct Axis {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    names: Option<Vec<String>>,
}

impl Axis {
    /// Round ticks around the values. `from_zero`: zero is in view, and there is room above the highest.
    fn numeric(values: impl Iterator<Item = f64>, wanted: u32, from_zero: bool) -> Axis {
        let (mut from, mut to) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        if from > to {
            (from, to) = (0.0, 1.0);
        }
        if from_zero {
            from = from.min(0.0);
            to = to.max(0.0) * 1.05;
        }
        if to <= from {
            to = from + 1.0;
        }
        let step = round_step((to - from) / f64::from(wanted));
        let first = (from / step).ceil();
        let ticks = (0..)
            .map(|nth| (first + f64::from(nth)) * step)
            .take_while(|tick| *tick <= to + step * 1e-9)
            .collect();
        Axis {
            from,
            to,
            ticks,
            names: None,
        }
    }

    fn named(places: &[&str]) -> Axis {
        let count = u32::try_from(places.len()).unwrap_or(u32::MAX).max(1);
        Axis {
            from: -0.25,
            to: f64::from(count) - 0.75,
            ticks: (0..count).map(f64::from).collect(),
            names: Some(places.iter().map(|&place| place.to_owned()).collect()),
        }
    }

    fn name(&self, tick: f64) -> String {
        match &self.names {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some(names) => names
                .get(tick.round() as usize)
                .cloned()
                .unwrap_or_default(),
            None => short(tick),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    #[allow(clippy::cast_possible_truncation)]
    fn map(&self, value: &f64, (left, right): (i32, i32)) -> i32 {
        let share = (value - self.from) / (self.to - self.from);
        left + (f64::from(right - left) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least * (1.0 - 1e-9))
        .unwrap_or(power * 10.0)
}

/// A number for people: 0.25, 40, 1500, 20k, 1.5M.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        large if large >= 1e6 => (value / 1e6, "M"),
        large if large >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = format!("{value:.3}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", if digits == "-0" { "0" } else { digits })
}

/// The picture's name for those who do not see it, and its dark colours.
fn dress(svg: &str, title: &str) -> String {
    let name = title
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;");
    match svg
        .split_once("<svg ")
        .and_then(|(_, rest)| rest.split_once('>'))
    {
        Some((attributes, content)) => {
            format!(
                "<svg class=\"plot\" role=\"img\" aria-label=\"{name}\" {attributes}>\n{STYLE}{content}"
            )
        }
        None => svg.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(svg: &str, what: &str) -> usize {
        svg.matches(what).count()
    }

    #[test]
    fn every_panel_and_every_line_is_there() {
        let line = |name: &str| Series::new(name, vec![(0.0, 1.0), (1.0, 4.0), (2.0, 2.0)]);
        let panels = [
            Panel::new("messages", vec![line("in"), line("out")]),
            Panel::new("workers", vec![line("workers")]),
        ];
        let svg = stacked("A <burst>", "seconds", &panels);
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        // Three lines, and two colours that are explained; a panel with one line of its own name needs none.
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
    fn what_is_not_a_number_is_a_gap() {
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
        // Nothing at all is a chart, too.
        assert!(lines("t", "x", "y", &[]).ends_with("</svg>\n"));
    }

    #[test]
    fn places_have_their_names() {
        let series = Series::new("edge", vec![(0.0, 3.0), (1.0, 5.0)]);
        let svg = over(
            "t",
            "rooms",
            &["1", "100,000"],
            &[Panel::new("µs", vec![series])],
        );
        assert!(svg.contains("\n100,000\n"), "{svg}");
    }

    #[test]
    fn ticks_are_round() {
        let ticks = |values: [f64; 2]| Axis::numeric(values.into_iter(), 5, true).ticks;
        assert_eq!(ticks([0.0, 9.0]), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks([3.0, 4321.0]), [0.0, 1000.0, 2000.0, 3000.0, 4000.0]);
        assert_eq!(
            ticks([0.0, 0.0]),
            [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
        );
        let named = [0.25, 40.0, 1500.0, 20_000.0, 1.5e6, -0.0].map(short);
        assert_eq!(named, ["0.25", "40", "1500", "20k", "1.5M", "0"]);
    }

    #[test]
    fn steps_turn_at_right_angles() {
        let steps = Series::steps("w", &[(0.0, 1.0), (1.0, 1.0), (2.0, 3.0)]);
        let points = [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (2.0, 3.0)];
        assert_eq!(steps.points, points);
    }
}
