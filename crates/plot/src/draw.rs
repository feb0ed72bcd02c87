//! Draws a chart: title, panels, legends, and the labels of the shared x axis.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::{axis::Axis, series::Panel};

const WIDTH: u32 = 960;
const TITLE: i32 = 44;
/// Height of a panel's caption and legend.
const CAPTION: i32 = 26;
const BOTTOM: i32 = 48;
/// Width of the labels of the y axis, height of those of the x axis.
const Y_LABELS: i32 = 56;
const X_LABELS: i32 = 24;
/// plotters divides font sizes by 1.24: this is 12.9 px.
const TEXT: f64 = 16.0;

const PAPER: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);
const INK: RGBColor = RGBColor(0x24, 0x29, 0x2F);
const GRID: RGBColor = RGBColor(0xD8, 0xDE, 0xE4);

/// Colours that can be distinguished on white and on black, also with colour vision deficiency.
const LINES: [RGBColor; 6] = [
    RGBColor(0x2F, 0x81, 0xD6),
    RGBColor(0xE0, 0x7B, 0x22),
    RGBColor(0x1F, 0x9D, 0x72),
    RGBColor(0xC0, 0x5C, 0xA8),
    RGBColor(0x7A, 0x82, 0x8C),
    RGBColor(0xC9, 0x4F, 0x4F),
];

/// Replaces the colours of the attributes in the dark colour scheme.
const STYLE: &str = "<style>svg.plot{max-width:100%;height:auto}@media (prefers-color-scheme:dark){\
     svg.plot [fill=\"#FFFFFF\"]{fill:#0D1117}svg.plot [fill=\"#24292F\"]{fill:#E6EDF3}\
     svg.plot [stroke=\"#24292F\"]{stroke:#8B949E}svg.plot [stroke=\"#D8DEE4\"]{stroke:#30363D}}</style>";

/// The chart as SVG. `categories` name the values 0, 1, 2 … of the x axis.
pub(crate) fn chart(
    title: &str,
    x_label: &str,
    panels: &[Panel],
    categories: Option<&[&str]>,
) -> String {
    let each = if panels.len() > 1 { 190 } else { 340 };
    let count = i32::try_from(panels.len()).unwrap_or(0);
    let height = TITLE + each * count + BOTTOM;
    let size = (WIDTH, height.unsigned_abs());
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        // Drawing to a String does not fail.
        let _: Drawn = compose(&root, each, title, x_label, panels, categories);
    }
    finish(&svg, title)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn compose(
    root: &Area<'_>,
    each: i32,
    title: &str,
    x_label: &str,
    panels: &[Panel],
    categories: Option<&[&str]>,
) -> Drawn {
    root.fill(&PAPER)?;
    write(root, title, (20, 26), 22.0, HPos::Left)?;
    let (width, height) = pixels(root);
    let x = match categories {
        Some(categories) => Axis::named(categories),
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
        let names = if last { X_LABELS } else { 0 };
        let top = each * i32::try_from(index).unwrap_or(0);
        let area = below.clone().shrink((0, top), (width, each + names));
        paint(&area, panel, &x, last)?;
    }
    let middle = ((width + Y_LABELS) / 2, height - 14);
    write(root, x_label, middle, TEXT, HPos::Center)?;
    root.present()
}

/// One panel: caption, legend, axes and lines.
fn paint(area: &Area<'_>, panel: &Panel, x: &Axis, with_labels: bool) -> Drawn {
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
        .y_label_area_size(Y_LABELS)
        .x_label_area_size(if with_labels { X_LABELS } else { 6 })
        .build_cartesian_2d(x.clone(), y.clone())?;
    let text = ("sans-serif", 14).into_font().color(&INK);
    let x_text = |value: &f64| {
        if with_labels {
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

/// The names and colours of the lines, in one row at the right end of the caption.
fn legend(area: &Area<'_>, panel: &Panel) -> Drawn {
    if panel.series.len() == 1 && panel.series[0].name == panel.y_label {
        return Ok(());
    }
    let mut right = pixels(area).0 - 24;
    for (index, one) in panel.series.iter().enumerate().rev() {
        // The reader's font is unknown: sans-serif letters are about half as wide as high.
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

/// Adds the title for screen readers, and the colours of the dark scheme.
fn finish(svg: &str, title: &str) -> String {
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
