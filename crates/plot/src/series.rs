//! The data of a chart.

use serde::Deserialize;

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

    /// A line of steps: each value holds until the next one, as for a number of workers.
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

/// Lines that share both axes. A chart has one or several panels, one below the other.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_turn_at_right_angles() {
        let steps = Series::steps("w", &[(0.0, 1.0), (1.0, 1.0), (2.0, 3.0)]);
        let points = [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (2.0, 3.0)];
        assert_eq!(steps.points, points);
    }
}
