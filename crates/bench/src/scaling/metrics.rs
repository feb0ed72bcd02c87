//! The metrics of `chat autoscale`.

use serde::Serialize;

use crate::error::{Result, failed};

/// One reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since the intended time of the first message; negative before.
    pub at: f64,
    pub waiting: f64,
    pub oldest_seconds: f64,
    pub workers: f64,
    pub target: f64,
}

/// Reads the metrics at `url`; the sample's time is 0.
pub(super) async fn fetch(client: &reqwest::Client, url: &str) -> Result<Sample> {
    let text = async {
        let answer = client.get(url).send().await?;
        answer.error_for_status()?.text().await
    };
    let text = text
        .await
        .map_err(|error| failed("the autoscaler's metrics", error))?;
    parse(&text).ok_or_else(|| {
        failed(
            "the autoscaler's metrics",
            "they are not those of `chat autoscale`",
        )
    })
}

/// Prometheus's text format: `name value` on each line.
fn parse(text: &str) -> Option<Sample> {
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines
            .find(|(found, _)| *found == name)?
            .1
            .trim()
            .parse()
            .ok()
    };
    Some(Sample {
        at: 0.0,
        waiting: value("chat_autoscale_waiting_messages")?,
        oldest_seconds: value("chat_autoscale_oldest_seconds")?,
        workers: value("chat_autoscale_workers")?,
        target: value("chat_autoscale_target")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_by_their_full_names() {
        let text = "# TYPE chat_autoscale_workers gauge\nchat_autoscale_workers 3\nchat_autoscale_target 4\n\
             chat_autoscale_waiting_messages 120\nchat_autoscale_oldest_seconds 0.5\n";
        let sample = parse(text).unwrap();
        assert_eq!((sample.workers, sample.target), (3.0, 4.0));
        assert_eq!((sample.waiting, sample.oldest_seconds), (120.0, 0.5));
        assert_eq!(parse("chat_sockets_open 3\n"), None);
    }
}
