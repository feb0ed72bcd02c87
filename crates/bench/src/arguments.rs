//! Parsers of command line arguments.

use std::time::Duration;

/// The units of durations, in milliseconds: the same as in the server's settings.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("d", 24 * 60 * 60 * 1000),
];

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let read = || {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
        let millis = number.parse::<u64>().ok()?.checked_mul(*millis)?;
        (millis > 0).then_some(Duration::from_millis(millis))
    };
    read().ok_or_else(|| "a whole number above 0 and one of ms, s, m, h, d".to_owned())
}

/// `NAME=PID`.
pub(crate) fn process(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').ok_or("NAME=PID")?;
    Ok((name.to_owned(), pid.parse().map_err(|_| "PID is a number")?))
}

pub(crate) fn positive(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|n: &f64| n.is_normal() && *n > 0.0);
    number.ok_or_else(|| "a number above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2 m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        for bad in [
            "",
            "0s",
            "5",
            "s",
            "-1s",
            "1.5s",
            "1w",
            "99999999999999999999s",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_process_has_a_name_and_a_number() {
        assert_eq!(process("edge=17"), Ok(("edge".to_owned(), 17)));
        assert!(process("edge").is_err() && process("edge=x").is_err());
    }
}
