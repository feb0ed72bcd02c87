//! A REST client whose failures contain the request and the response.

use reqwest::{Method, header};
use serde_json::Value;

/// A server's URL with the credentials to use.
#[derive(Clone)]
pub struct Rest {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// A response, not checked yet.
#[derive(Debug)]
pub struct RestResponse {
    pub status: u16,
    pub headers: header::HeaderMap,
    pub text: String,
    asked: String,
}

impl Rest {
    pub fn new(http: reqwest::Client, base: &str) -> Self {
        Rest {
            http,
            base: base.to_owned(),
            token: None,
        }
    }

    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    pub async fn get(&self, path: &str) -> RestResponse {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> RestResponse {
        self.json(Method::POST, path, body).await
    }

    pub async fn put(&self, path: &str, body: Value) -> RestResponse {
        self.json(Method::PUT, path, body).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> RestResponse {
        self.json(Method::PATCH, path, body).await
    }

    pub async fn delete(&self, path: &str) -> RestResponse {
        self.send(Method::DELETE, path, None).await
    }

    async fn json(&self, method: Method, path: &str, body: Value) -> RestResponse {
        let body = body.to_string().into_bytes();
        self.send(method, path, Some(("application/json", body)))
            .await
    }

    /// Sends any request; `body` is a content type and bytes.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> RestResponse {
        let asked = format!("{method} {path}");
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some((content_type, body)) = body {
            request = request
                .header(header::CONTENT_TYPE, content_type)
                .body(body);
        }
        let answered = async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>(RestResponse {
                status: answer.status().as_u16(),
                headers: answer.headers().clone(),
                text: answer.text().await?,
                asked: asked.clone(),
            })
        };
        answered
            .await
            .unwrap_or_else(|error| panic!("{asked} got no answer: {error:?}"))
    }
}

impl RestResponse {
    /// The body; the response must have this status.
    #[track_caller]
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(
            self.status,
            status,
            "{} answered {}",
            self.asked,
            self.short()
        );
        if self.text.is_empty() {
            return Value::Null;
        }
        self.json()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|_| panic!("{} answered {:?}", self.asked, self.short()))
    }

    /// The beginning of the body, for failures.
    fn short(&self) -> &str {
        &self.text[..self.text.floor_char_boundary(500)]
    }

    /// Asserts that the response is a problem (RFC 9457) as our contract defines it: media type, code, a message, a
    /// request id.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(
            self.status,
            status,
            "{} answered {}",
            self.asked,
            self.short()
        );
        let content_type = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok());
        assert_eq!(
            content_type,
            Some("application/problem+json"),
            "{}",
            self.asked
        );
        let body = self.json();
        assert_eq!(body["code"], code, "{} answered {body}", self.asked);
        assert_eq!(body["status"], status, "{} answered {body}", self.asked);
        for field in ["title", "detail", "requestId"] {
            let text = body[field].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{}: no {field} in {body}", self.asked);
        }
        body
    }
}
