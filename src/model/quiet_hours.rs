//! A user's quiet hours: a daily period of local time, as instants of UTC. Pure functions; the current time and the
//! time zone are parameters.
//!
//! A day on which clocks change has one period, too. If a local time occurs twice (clocks go back), the period
//! begins at its first occurrence and ends at its last one; a local time that is skipped (clocks go forward) means the
//! instant of the change.

use chrono::{DateTime, LocalResult, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};
use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A daily period, across midnight if `to` is before `from`. Equal times mean the whole day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietHours {
    #[serde(with = "minutes")]
    pub from: NaiveTime,
    #[serde(with = "minutes")]
    pub to: NaiveTime,
}

impl QuietHours {
    /// The end of the quiet hours that include `now`; `None` outside of them. It is after `now` and outside the quiet
    /// hours, unless they last the whole day: then it is the next beginning.
    pub fn until(self, zone: Tz, now: Timestamp) -> Option<Timestamp> {
        let time = now.datetime();
        let today = time.with_timezone(&zone).date_naive();
        // A period begins at most a day before, or two where a zone skipped a day.
        let periods = (-2..=3).filter_map(|day| {
            let first = today.checked_add_signed(TimeDelta::days(day))?;
            let last = if self.from < self.to {
                first
            } else {
                first.succ_opt()?
            };
            let begin = instant(zone, first.and_time(self.from), Occurrence::First);
            Some((
                begin,
                instant(zone, last.and_time(self.to), Occurrence::Last),
            ))
        });
        let mut end = None;
        for (begin, until) in periods {
            match end {
                None if begin <= time && time < until => end = Some(until),
                // The periods of two days may meet or overlap if clocks go back between them.
                Some(reached) if self.from != self.to && begin <= reached => {
                    end = Some(reached.max(until));
                }
                _ => {}
            }
        }
        end.map(Timestamp::from)
    }
}

/// Which instant of a repeated local time is meant.
#[derive(Clone, Copy)]
enum Occurrence {
    First,
    Last,
}

/// The instant of a local time; of a skipped one, the instant of the change.
fn instant(zone: Tz, local: NaiveDateTime, occurrence: Occurrence) -> DateTime<Utc> {
    let found = match (zone.from_local_datetime(&local), occurrence) {
        (LocalResult::Single(time) | LocalResult::Ambiguous(time, _), Occurrence::First) => {
            Some(time)
        }
        (LocalResult::Single(time) | LocalResult::Ambiguous(_, time), Occurrence::Last) => {
            Some(time)
        }
        (LocalResult::None, _) => GapInfo::new(&local, &zone).and_then(|gap| gap.end),
    };
    found.map_or_else(|| local.and_utc(), |time| time.to_utc())
}

/// Serialises a time of day as `HH:MM`.
mod minutes {
    use chrono::NaiveTime;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(time: &NaiveTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&time.format("%H:%M"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NaiveTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        NaiveTime::parse_from_str(&text, "%H:%M")
            .map_err(|_| D::Error::custom("must be a time of day such as \"22:30\""))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc().into()
    }

    fn hours(from: &str, to: &str) -> QuietHours {
        let json = format!("{{\"from\":\"{from}\",\"to\":\"{to}\"}}");
        serde_json::from_str(&json).unwrap()
    }

    fn until(from: &str, to: &str, zone: &str, now: &str) -> Option<Timestamp> {
        hours(from, to).until(zone.parse().unwrap(), at(now))
    }

    #[test]
    fn quiet_hours_end_in_the_users_own_time() {
        let berlin = |now| until("22:00", "07:00", "Europe/Berlin", now);
        // 23:30 in Berlin, in summer.
        let morning = Some(at("2026-07-02T05:00:00Z"));
        assert_eq!(berlin("2026-07-01T21:30:00Z"), morning);
        assert_eq!(berlin("2026-07-02T04:59:59Z"), morning);
        assert_eq!(berlin("2026-07-02T05:00:00Z"), None);
        assert_eq!(berlin("2026-07-01T19:59:00Z"), None);
        assert_eq!(berlin("2026-07-01T20:00:00Z"), morning);

        let noon = |now| until("12:00", "13:00", "America/New_York", now);
        assert_eq!(
            noon("2026-01-05T17:30:00Z"),
            Some(at("2026-01-05T18:00:00Z"))
        );
        assert_eq!(noon("2026-01-05T18:00:00Z"), None);
        // The whole day: until the period begins again.
        let always = until("09:00", "09:00", "UTC", "2026-01-05T09:00:00Z");
        assert_eq!(always, Some(at("2026-01-06T09:00:00Z")));
    }

    #[test]
    fn quiet_hours_end_once_when_clocks_change() {
        for (from, to, zone, now, end) in [
            // Berlin, 25 October 2026: 03:00 CEST (01:00Z) becomes 02:00 CET. 02:30 is 00:30Z and 01:30Z.
            (
                "22:00",
                "02:30",
                "Europe/Berlin",
                "2026-10-24T21:00:00Z",
                "2026-10-25T01:30:00Z",
            ),
            (
                "22:00",
                "02:30",
                "Europe/Berlin",
                "2026-10-25T00:29:59Z",
                "2026-10-25T01:30:00Z",
            ),
            (
                "22:00",
                "02:30",
                "Europe/Berlin",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:30:00Z",
            ),
            (
                "22:00",
                "02:30",
                "Europe/Berlin",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
            ),
            (
                "22:00",
                "02:30",
                "Europe/Berlin",
                "2026-10-25T01:29:59Z",
                "2026-10-25T01:30:00Z",
            ),
            (
                "22:00",
                "02:30",
                "Europe/Berlin",
                "2026-10-25T01:30:00Z",
                "",
            ),
            (
                "22:00",
                "03:00",
                "Europe/Berlin",
                "2026-10-25T00:59:00Z",
                "2026-10-25T02:00:00Z",
            ),
            (
                "22:00",
                "07:00",
                "Europe/Berlin",
                "2026-10-24T23:00:00Z",
                "2026-10-25T06:00:00Z",
            ),
            // The period begins in the repeated hour, and lies in it.
            (
                "02:30",
                "07:00",
                "Europe/Berlin",
                "2026-10-25T00:29:00Z",
                "",
            ),
            (
                "02:30",
                "07:00",
                "Europe/Berlin",
                "2026-10-25T00:30:00Z",
                "2026-10-25T06:00:00Z",
            ),
            (
                "02:30",
                "07:00",
                "Europe/Berlin",
                "2026-10-25T01:10:00Z",
                "2026-10-25T06:00:00Z",
            ),
            (
                "02:10",
                "02:20",
                "Europe/Berlin",
                "2026-10-25T00:15:00Z",
                "2026-10-25T01:20:00Z",
            ),
            // All but twenty minutes of the day: those do not exist as a pause when the hour repeats.
            (
                "02:30",
                "02:10",
                "Europe/Berlin",
                "2026-10-24T22:00:00Z",
                "2026-10-26T01:10:00Z",
            ),
            // Berlin, 29 March 2026: 02:00 CET (01:00Z) becomes 03:00 CEST.
            (
                "22:00",
                "02:30",
                "Europe/Berlin",
                "2026-03-28T23:00:00Z",
                "2026-03-29T01:00:00Z",
            ),
            (
                "22:00",
                "02:30",
                "Europe/Berlin",
                "2026-03-29T00:59:59Z",
                "2026-03-29T01:00:00Z",
            ),
            (
                "22:00",
                "02:30",
                "Europe/Berlin",
                "2026-03-29T01:00:00Z",
                "",
            ),
            (
                "02:30",
                "07:00",
                "Europe/Berlin",
                "2026-03-29T00:59:59Z",
                "",
            ),
            (
                "02:30",
                "07:00",
                "Europe/Berlin",
                "2026-03-29T01:00:00Z",
                "2026-03-29T05:00:00Z",
            ),
            (
                "02:10",
                "02:50",
                "Europe/Berlin",
                "2026-03-29T01:00:00Z",
                "",
            ),
            // New York, 1 November 2026: 02:00 EDT (06:00Z) becomes 01:00 EST; 8 March: 02:00 EST (07:00Z) to 03:00.
            (
                "23:00",
                "01:30",
                "America/New_York",
                "2026-11-01T05:45:00Z",
                "2026-11-01T06:30:00Z",
            ),
            (
                "23:00",
                "01:30",
                "America/New_York",
                "2026-11-01T06:30:00Z",
                "",
            ),
            (
                "23:00",
                "02:15",
                "America/New_York",
                "2026-03-08T06:00:00Z",
                "2026-03-08T07:00:00Z",
            ),
            // Lord Howe goes back by half an hour, at 02:00 (15:00Z): 01:45 is 14:45Z and 15:15Z.
            (
                "22:00",
                "01:45",
                "Australia/Lord_Howe",
                "2026-04-04T14:50:00Z",
                "2026-04-04T15:15:00Z",
            ),
            (
                "22:00",
                "01:45",
                "Australia/Lord_Howe",
                "2026-04-04T15:15:00Z",
                "",
            ),
            // Sao Paulo skipped midnight (2018-11-04, 03:00Z), and Samoa a whole day (2011-12-30, until 10:00Z).
            (
                "22:00",
                "00:00",
                "America/Sao_Paulo",
                "2018-11-04T02:00:00Z",
                "2018-11-04T03:00:00Z",
            ),
            (
                "00:00",
                "06:00",
                "America/Sao_Paulo",
                "2018-11-04T03:00:00Z",
                "2018-11-04T08:00:00Z",
            ),
            (
                "22:00",
                "07:00",
                "Pacific/Apia",
                "2011-12-30T09:30:00Z",
                "2011-12-30T17:00:00Z",
            ),
            // No clocks change here.
            (
                "22:00",
                "02:30",
                "Asia/Kathmandu",
                "2026-10-24T20:00:00Z",
                "2026-10-24T20:45:00Z",
            ),
        ] {
            let found = until(from, to, zone, now);
            let expected = (!end.is_empty()).then(|| at(end));
            assert_eq!(found, expected, "{from} to {to}, {zone}, {now}");
        }
    }

    proptest! {
        /// In every zone and on every day, the end is after now and is not quiet itself, so that a delivery waits once.
        #[test]
        fn the_end_is_after_now_and_not_quiet(
            zone in proptest::sample::select(chrono_tz::TZ_VARIANTS.as_slice()),
            from in 0_u32..1440,
            length in 1_u32..1440,
            // Near a change of the clocks more often than not.
            day in prop_oneof![
                Just("2026-03-29T01:00:00Z"), Just("2026-10-25T01:00:00Z"), Just("2026-11-01T06:00:00Z"),
                Just("2026-03-08T07:00:00Z"), Just("2026-04-04T15:00:00Z"), Just("2026-04-05T03:00:00Z"),
                Just("2026-07-01T12:00:00Z"), Just("2011-12-30T10:00:00Z"), Just("2018-11-04T03:00:00Z"),
            ],
            minutes in -3000_i64..3000,
        ) {
            let time = |minute: u32| NaiveTime::from_num_seconds_from_midnight_opt(minute % 1440 * 60, 0).unwrap();
            let quiet = QuietHours { from: time(from), to: time(from + length) };
            let now = Timestamp::from_millis(at(day).millis() + minutes * 60_000 + 1);
            if let Some(end) = quiet.until(zone, now) {
                prop_assert!(end > now);
                prop_assert_eq!(quiet.until(zone, end), None);
                let longest = 1000 * 60 * 60 * 75;
                prop_assert!(end.millis() - now.millis() <= longest);
            }
        }
    }
}
