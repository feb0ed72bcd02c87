//! Shared by providers with an HTTP API: one request, a bounded response, and the meaning of its status.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, StatusCode, header::HeaderMap, redirect};

use super::{SendReport, SendResult};
use crate::{
    error::{Error, Result},
    model::Timestamp,
};

/// Maximum bytes read of a response.
const MAX_ANSWER: usize = 16 * 1024;
/// Maximum characters of it in the delivery log.
const MAX_SHOWN: usize = 200;

/// A client with a timeout that follows no redirects, since those would turn a POST into a GET.
pub fn client(timeout: Duration) -> Result<Client> {
    // `main` sets it; tests and embedding programs may not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .timeout(timeout)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("chat/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(Error::internal)
}

/// A provider's response.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

/// Makes one request; `Err` is the classification if there was no response.
pub async fn ask(request: RequestBuilder) -> std::result::Result<Reply, SendReport> {
    let response = request.send().await.map_err(|error| failed(&error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = match read(response).await {
        Ok(body) => body,
        // The status suffices: the body only explains failures.
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

/// A request that was never transmitted was certainly not sent; any other may have been.
fn failed(error: &reqwest::Error) -> SendReport {
    let (verdict, said) = if error.is_connect() || error.is_builder() {
        (
            SendResult::NotSent { after: None },
            "the provider could not be reached",
        )
    } else if error.is_timeout() {
        (
            SendResult::Unknown { after: None },
            "the provider did not answer in time",
        )
    } else {
        (
            SendResult::Unknown { after: None },
            "the connection to the provider broke",
        )
    };
    tracing::debug!(%error, "provider request failed");
    SendReport {
        verdict,
        said: said.to_owned(),
    }
}

impl Reply {
    /// The classification of statuses that mean the same for every provider; `None` for provider-specific ones.
    pub fn common(&self) -> Option<SendResult> {
        let after = self.retry_after();
        match self.status.as_u16() {
            // Providers do not answer with HTML: a proxy did, and it may have forwarded the request.
            200..=299 if self.is_page() => Some(SendResult::Unknown { after }),
            // From a proxy as well, which did not forward the request.
            300..=399 => Some(SendResult::NotSent { after }),
            401 | 403 => Some(SendResult::Locked),
            408 => Some(SendResult::Unknown { after }),
            // Rejected before it was processed.
            429 => Some(SendResult::NotSent { after }),
            500..=599 => Some(SendResult::Unknown { after }),
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

    /// `Retry-After` (RFC 9110 section 10.2.3: seconds or a date), or else `X-RateLimit-Reset` (Unix time in seconds).
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

    /// The status and the beginning of `said`, on one line.
    pub fn shown(&self, said: &str) -> String {
        let words: Vec<&str> = said.split_whitespace().collect();
        let short: String = words.join(" ").chars().take(MAX_SHOWN).collect();
        if short.is_empty() {
            self.status.to_string()
        } else {
            format!("{}: {short}", self.status)
        }
    }

    pub fn answer(&self, verdict: SendResult, said: &str) -> SendReport {
        SendReport {
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
    fn retry_after_is_read_in_three_formats() {
        let after = |headers: &[_]| match reply(429, headers).common() {
            Some(SendResult::NotSent { after }) => after,
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
    fn statuses_map_to_results() {
        assert_eq!(reply(401, &[]).common(), Some(SendResult::Locked));
        assert_eq!(
            reply(503, &[]).common(),
            Some(SendResult::Unknown { after: None })
        );
        assert_eq!(reply(400, &[]).common(), None);
        let page = reply(200, &[("content-type", "text/html; charset=utf-8")]);
        assert_eq!(page.common(), Some(SendResult::Unknown { after: None }));
        assert_eq!(reply(202, &[]).common(), None);
        let away = reply(302, &[]).common();
        assert_eq!(away, Some(SendResult::NotSent { after: None }));
        let html = reply(502, &[]).shown("<html>\n  <body>Bad   gateway");
        assert_eq!(html, "502 Bad Gateway: <html> <body>Bad gateway");
    }
}
