//! The result of a check.

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// The program works, but not as well or as safely as it could.
    Warning,
    /// Something does not work.
    Problem,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "problem",
        }
    }
}

/// One line of the report. No text has a secret or a line feed.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The subject of the check: `PostgreSQL`, `queue.url`.
    pub check: &'static str,
    pub status: Status,
    /// The state, such as `version 15, accepts writes`.
    pub text: String,
    /// The remedy; absent if all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, text: impl Into<String>) -> Finding {
        Finding {
            check,
            status: Status::Ok,
            text: one_line(text.into()),
            advice: None,
        }
    }

    pub fn warning(
        check: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding {
            status: Status::Warning,
            advice: Some(one_line(advice.into())),
            ..Finding::ok(check, text)
        }
    }

    pub fn problem(
        check: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding {
            status: Status::Problem,
            ..Finding::warning(check, text, advice)
        }
    }
}

/// Texts of servers may have any characters.
fn one_line(text: String) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// How long one check may take.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// The answer, or what went wrong.
pub async fn in_time<T, E: ToString>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout(CHECK_WITHIN, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CHECK_WITHIN.as_secs())),
    }
}

/// Whether a version is at least `least`: `3.13.7`, `14beta1`. An unreadable one is not.
pub fn is_at_least(version: &str, least: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit());
        part[..digits.unwrap_or(part.len())].parse::<u32>().ok()
    });
    let Some(major) = parts.next().flatten() else {
        return false;
    };
    (major, parts.next().flatten().unwrap_or(0)) >= least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for new in ["3.10.0", "3.13.7", "4.0", "4", "10.1"] {
            assert!(is_at_least(new, (3, 10)), "{new}");
        }
        for old in ["3.9.29", "3.2", "2.11", "", "x"] {
            assert!(!is_at_least(old, (3, 10)), "{old}");
        }
    }
}
