//! What providers with an HTTP API have in common: one request, a bounded answer, and what its status means.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, StatusCode, header::HeaderMap, redirect};

use super::{Answer, Verdict};
use crate::{
    error::{Error, Result},
    model::Timestamp,
};

/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 16 * 1024;
/// Characters of it that the ledger shows.
const MAX_SHOWN: usize = 200;

/// A client that gives up after `timeout` and follows no redirect: a POST would come back as a GET.
pub fn client(timeout: Duration) -> Result<Client> {
    // Set by `main` already; a test, or an embedding program, may not have.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("chat/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(Error::internal)
}

/// A provider's answer.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

/// Asks once; `Err` is the answer where none came.
pub async fn ask(request: RequestBuilder) -> std::result::Result<Reply, Answer> {
    let response = request.send().await.map_err(|error| failed(&error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = match read(response).await {
        Ok(body) => body,
        // The status says enough where it says no; where it says yes, the rest of the answer is not needed.
        Err(error) => format!("({})", error.without_url()),
    };
    Ok(Reply {
        status,
        headers,
        body,
    })
}

async fn read(mut response: Response) -> reqwest::Result<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() >= MAX_ANSWER {
            bytes.truncate(MAX_ANSWER);
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A request that never left was certainly not sent; of any other nobody knows.
fn failed(error: &reqwest::Error) -> Answer {
    let (verdict, said) = if error.is_connect() || error.is_builder() {
        (
            Verdict::NotSent { after: None },
            "the provider could not be reached",
        )
    } else if error.is_timeout() {
        (
            Verdict::Unknown { after: None },
            "the provider did not answer in time",
        )
    } else {
        (
            Verdict::Unknown { after: None },
            "the connection to the provider broke",
        )
    };
    tracing::debug!(%error, "provider request failed");
    Answer {
        verdict,
        said: said.to_owned(),
    }
}

impl Reply {
    /// What every provider means by these statuses; `None` where it is the provider's own matter.
    pub fn common(&self) -> Option<Verdict> {
        let after = self.retry_after();
        match self.status.as_u16() {
            // No provider answers a page: something stands between us, and nobody knows what became of the request.
            200..=299 if self.is_page() => Some(Verdict::Unknown { after }),
            // The same, and it did not pass the request on.
            300..=399 => Some(Verdict::NotSent { after }),
            401 | 403 => Some(Verdict::Locked),
            408 => Some(Verdict::Unknown { after }),
            // Refused before anything was done with it.
            429 => Some(Verdict::NotSent { after }),
            500..=599 => Some(Verdict::Unknown { after }),
            _ => None,
        }
    }

    fn is_page(&self) -> bool {
        let kind = self.headers.get("content-type");
        let said = kind.and_then(|kind| kind.to_str().ok());
        said.is_some_and(|kind| kind.starts_with("text/html")) || {
            let body = self.body.trim_start().as_bytes();
            body.first() == Some(&b'<')
        }
    }

    /// `Retry-After` (RFC 9110 section 10.2.3: seconds or a date), or else `X-RateLimit-Reset` (Unix time in
    /// seconds).
    fn retry_after(&self) -> Option<Duration> {
        let header = |name: &str| self.headers.get(name)?.to_str().ok();
        if let Some(value) = header("retry-after") {
            if let Ok(seconds) = value.trim().parse() {
                return Some(Duration::from_secs(seconds));
            }
            let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
            return until(date.timestamp_millis());
        }
        let reset: i64 = header("x-ratelimit-reset")?.trim().parse().ok()?;
        until(reset.checked_mul(1000)?)
    }

    /// The status and the beginning of what was said, on one line.
    pub fn shown(&self, said: &str) -> String {
        let words: Vec<&str> = said.split_whitespace().collect();
        let short: String = words.join(" ").chars().take(MAX_SHOWN).collect();
        if short.is_empty() {
            self.status.to_string()
        } else {
            format!("{}: {short}", self.status)
        }
    }

    pub fn answer(&self, verdict: Verdict, said: &str) -> Answer {
        Answer {
            verdict,
            said: self.shown(said),
        }
    }
}

fn until(millis: i64) -> Option<Duration> {
    let wait = millis.saturating_sub(Timestamp::now().millis());
    Some(Duration::from_millis(u64::try_from(wait).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&'static str, &str)]) -> Reply {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: map,
            body: String::new(),
        }
    }

    #[test]
    fn a_provider_says_when_to_come_back_in_three_ways() {
        let after = |headers: &[_]| match reply(429, headers).common() {
            Some(Verdict::NotSent { after }) => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        let soon = Timestamp::now().millis() / 1000 + 30;
        let reset = soon.to_string();
        let date = Timestamp::from_millis(soon * 1000).datetime().to_rfc2822();
        for headers in [
            [("x-ratelimit-reset", reset.as_str())],
            [("retry-after", &date)],
        ] {
            let wait = after(&headers).unwrap();
            assert!(
                wait > Duration::from_secs(25) && wait <= Duration::from_secs(30),
                "{wait:?}"
            );
        }
        assert_eq!(after(&[("retry-after", "soon")]), None);
        assert_eq!(after(&[("x-ratelimit-reset", "0")]), Some(Duration::ZERO));
    }

    #[test]
    fn what_a_status_means() {
        assert_eq!(reply(401, &[]).common(), Some(Verdict::Locked));
        assert_eq!(
            reply(503, &[]).common(),
            Some(Verdict::Unknown { after: None })
        );
        assert_eq!(reply(400, &[]).common(), None);
        let page = reply(200, &[("content-type", "text/html; charset=utf-8")]);
        assert_eq!(page.common(), Some(Verdict::Unknown { after: None }));
        assert_eq!(reply(202, &[]).common(), None);
        let away = reply(302, &[]).common();
        assert_eq!(away, Some(Verdict::NotSent { after: None }));
        let html = reply(502, &[]).shown("<html>\n  <body>Bad   gateway");
        assert_eq!(html, "502 Bad Gateway: <html> <body>Bad gateway");
    }
}
