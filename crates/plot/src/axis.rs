//! Axes with round ticks.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

/// The ends of an axis, its ticks and their labels.
#[derive(Clone)]
pub(crate) struct Axis {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    names: Option<Vec<String>>,
}

impl Axis {
    /// An axis with round ticks that covers the values. `from_zero`: it includes zero, and leaves room above the highest
    /// value.
    pub fn numeric(values: impl Iterator<Item = f64>, wanted: u32, from_zero: bool) -> Axis {
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

    pub fn named(categories: &[&str]) -> Axis {
        let count = u32::try_from(categories.len()).unwrap_or(u32::MAX).max(1);
        Axis {
            from: -0.25,
            to: f64::from(count) - 0.75,
            ticks: (0..count).map(f64::from).collect(),
            names: Some(categories.iter().map(|&name| name.to_owned()).collect()),
        }
    }

    pub fn name(&self, tick: f64) -> String {
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

/// The smallest of 1, 2 and 5 times a power of ten that is at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least * (1.0 - 1e-9))
        .unwrap_or(power * 10.0)
}

/// A number in short form: 0.25, 40, 1500, 20k, 1.5M.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
