//! The options of a run, which `scripts/chaos` passes in the environment variable `CHAT_CHAOS`.

use std::{path::PathBuf, time::Duration};

use super::plan::Kind;

#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub seed: u64,
    /// How long faults are injected. The recovery afterwards and the judgement take longer.
    pub duration: Duration,
    pub kinds: Vec<Kind>,
    /// Operations per second, of all clients together.
    pub rate: u32,
    /// Faults per minute.
    pub faults: u32,
    pub clustered: bool,
    /// Keeps the servers' data and the processes' logs of a run that passes, too.
    pub keep: bool,
    pub log: Option<PathBuf>,
    /// The program that runs at the beginning; a rolling upgrade replaces it.
    pub upgrade_from: Option<PathBuf>,
}

impl Options {
    /// Two minutes, for `scripts/test`. Each run has another seed, which it prints.
    pub fn short(seed: u64) -> Options {
        Options {
            seed,
            duration: Duration::from_secs(120),
            kinds: Kind::ALL.to_vec(),
            rate: 40,
            faults: 17,
            clustered: false,
            keep: false,
            log: None,
            upgrade_from: None,
        }
    }

    /// Reads `--seed 7 --duration 1h`; an empty text has the defaults.
    pub fn parse(text: &str, seed: u64) -> Result<Options, String> {
        let mut options = Options::short(seed);
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word {
                "--seed" => options.seed = number(word, value()?)?,
                "--duration" => options.duration = duration(value()?)?,
                "--rate" => options.rate = number(word, value()?)?,
                "--per-minute" => options.faults = number(word, value()?)?,
                "--faults" => options.kinds = kinds(value()?)?,
                "--engines" => options.clustered = engines(value()?)?,
                "--log" => options.log = Some(value()?.into()),
                "--upgrade-from" => options.upgrade_from = Some(value()?.into()),
                "--keep" => options.keep = true,
                _ => return Err(format!("{word} is unknown")),
            }
        }
        for (name, given) in [("--rate", options.rate), ("--per-minute", options.faults)] {
            if !(1..=1000).contains(&given) {
                return Err(format!("{name} must be 1 to 1000"));
            }
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{name} {text} is not a number"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("--duration {text} is not a time such as 90s, 2m or 1h");
    let (digits, factor) = match text.chars().last() {
        Some('s') => (text.trim_end_matches('s'), 1),
        Some('m') => (text.trim_end_matches('m'), 60),
        Some('h') => (text.trim_end_matches('h'), 3600),
        _ => return Err(wrong()),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    match count.checked_mul(factor) {
        Some(seconds @ 5..=360_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("--duration must be 5s to 100h".to_owned()),
    }
}

/// Kinds or groups of kinds, separated by commas.
fn kinds(text: &str) -> Result<Vec<Kind>, String> {
    let mut found = Vec::new();
    for name in text.split(',') {
        let named = Kind::ALL.iter().filter(|kind| {
            let full = kind.name();
            let part = [full.strip_prefix(name), full.strip_suffix(name)];
            full == name
                || part[0].is_some_and(|rest| rest.starts_with('-'))
                || part[1].is_some_and(|rest| rest.ends_with('-'))
        });
        let before = found.len();
        found.extend(named.copied());
        if found.len() == before {
            let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            return Err(format!(
                "--faults {name} is unknown; there are: {}",
                known.join(", ")
            ));
        }
    }
    Ok(found)
}

fn engines(text: &str) -> Result<bool, String> {
    match text {
        "single" => Ok(false),
        "clustered" => Ok(true),
        _ => Err(format!("--engines {text} is not single or clustered")),
    }
}

#[test]
fn options_are_read() {
    let read = |text| Options::parse(text, 5);
    assert_eq!(read("").unwrap(), Options::short(5));
    let options = read("--seed 9 --duration 1h --rate 70 --keep --faults kill-edge,cut-clients");
    let options = options.unwrap();
    assert_eq!((options.seed, options.rate, options.keep), (9, 70, true));
    assert_eq!(options.duration, Duration::from_secs(3600));
    assert_eq!(options.kinds.len(), 2);
    assert_eq!(read("--faults kill,redis").unwrap().kinds.len(), 9);
    for wrong in [
        "--seed x",
        "--duration 1",
        "--duration 1s",
        "--faults none",
        "--engines two",
        "--rate 0",
        "--log",
        "7",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
