//! Static documents: the browser pages and the OpenAPI document. Each is built at its first request and shared by all
//! responses; a conditional request for an unchanged document is answered with 304.

use std::{fmt::Write as _, sync::LazyLock};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use poem::{
    Endpoint, Request, Response,
    error::MethodNotAllowedError,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use sha2::{Digest, Sha256};

use crate::config::Page;

/// A minimal chat client, to try the server.
pub static CHAT: Document = Document(LazyLock::new(|| {
    Content::page(include_str!("index.html").to_owned())
}));

/// Swagger UI, 1.6 MB.
pub static API: Document = Document(LazyLock::new(|| {
    Content::page(super::service().swagger_ui_html())
}));

/// The OpenAPI document.
pub static SPECIFICATION: Document = Document(LazyLock::new(|| {
    Content::new(super::spec(), "application/json")
}));

/// The methods that a document accepts.
pub const METHODS: [&str; 2] = ["GET", "HEAD"];

/// A document that is the same for all clients.
pub struct Document(LazyLock<Content>);

struct Content {
    body: Bytes,
    kind: HeaderValue,
    tag: HeaderValue,
    /// The Content-Security-Policy of a page; other documents get the strict default.
    policy: Option<HeaderValue>,
}

impl Content {
    fn new(text: String, kind: &'static str) -> Self {
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&text));
        Content {
            tag: HeaderValue::try_from(format!("\"{digest}\""))
                .expect("base64 is good in a header"),
            body: text.into(),
            kind: HeaderValue::from_static(kind),
            policy: None,
        }
    }

    fn page(html: String) -> Self {
        let policy = HeaderValue::try_from(policy(&html)).expect("base64 is good in a header");
        Content {
            policy: Some(policy),
            ..Content::new(html, "text/html; charset=utf-8")
        }
    }
}

impl Endpoint for &'static Document {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        if !METHODS.contains(&request.method().as_str()) {
            return Err(MethodNotAllowedError.into());
        }
        let content = &*self.0;
        let known = is_known(request.headers(), &content.tag);
        let mut response = if known {
            StatusCode::NOT_MODIFIED.into()
        } else {
            Response::builder().body(content.body.clone())
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, content.tag.clone());
        // The browser may cache the document but must revalidate it each time.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(policy) = &content.policy {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
        }
        if !known {
            headers.insert(header::CONTENT_TYPE, content.kind.clone());
        }
        Ok(response)
    }
}

/// Whether `If-None-Match` matches (RFC 9110, section 13.1.2, weak comparison).
fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .any(|known| known == b"*" || known.strip_prefix(b"W/").unwrap_or(known) == tag.as_bytes())
}

/// A Content-Security-Policy that allows a page's inline scripts and styles, by digest, and requests to this server.
fn policy(html: &str) -> String {
    let mut policy = "default-src 'none'".to_owned();
    for (directive, element) in [("script-src", "script"), ("style-src", "style")] {
        let _ = write!(policy, "; {directive}");
        for text in inline(html, element) {
            let digest = STANDARD.encode(Sha256::digest(text));
            let _ = write!(policy, " 'sha256-{digest}'");
        }
    }
    policy
        + "; img-src 'self' data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
}

/// The contents of all elements of this name. Applies to our own pages only: no attribute contains `>`.
fn inline<'a>(html: &'a str, element: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{element}"), format!("</{element}>"));
    let mut texts = Vec::new();
    let mut rest = html;
    while let Some((_, element)) = rest.split_once(&open) {
        let Some((text, after)) = element
            .split_once('>')
            .and_then(|(_, inside)| inside.split_once(&close))
        else {
            break;
        };
        texts.push(text);
        rest = after;
    }
    texts
}

/// Sets the security headers of a response: no MIME sniffing, no framing, no referrer, and by default no active
/// content. An upgrade response is not displayed by browsers and needs none.
pub fn protect(response: &mut Response) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
}

/// The documents of an `edge.pages` entry, with their paths.
pub fn paths(page: Page) -> Vec<(&'static str, &'static Document)> {
    match page {
        Page::Chat => vec![("/", &CHAT)],
        Page::Api => vec![("/api", &API), ("/api/openapi.json", &SPECIFICATION)],
    }
}

#[cfg(test)]
mod tests {
    use poem::http::Method;

    use super::*;

    #[test]
    fn the_tag_is_compared_as_rfc_9110_says() {
        let tag = HeaderValue::from_static("\"abc\"");
        let known = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::IF_NONE_MATCH, HeaderValue::from_static(line));
            }
            is_known(&headers, &tag)
        };
        assert!(known(&["\"abc\""]));
        assert!(known(&["W/\"abc\""]));
        assert!(known(&["\"x\" , \"abc\""]));
        assert!(known(&["\"x\"", "\"abc\""]));
        assert!(known(&["*"]));
        for other in ["", "abc", "\"ab\"", "w/\"abc\"", "\"abc"] {
            assert!(!known(&[other]), "{other}");
        }
        assert!(!known(&[]));
    }

    #[test]
    fn inline_scripts_and_styles_are_found() {
        let html = "<style a=\"b\">x</style><scripts><script>\n1 < 2\n</script><p><script src=\"y\"></script>";
        assert_eq!(inline(html, "style"), ["x"]);
        assert_eq!(
            inline("<script>1</script>\n<script>2</script>", "script"),
            ["1", "2"]
        );
        assert!(inline("<script>never closed", "script").is_empty());
        assert!(inline("", "script").is_empty());
    }

    #[test]
    fn a_policy_names_what_is_in_the_page_and_nothing_else() {
        let policy = policy("<script>alert(1)</script>");
        // `printf 'alert(1)' | openssl dgst -sha256 -binary | base64`
        assert!(
            policy.contains("script-src 'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI=';"),
            "{policy}"
        );
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe"));
    }

    #[tokio::test]
    async fn only_reading_is_taken() {
        for method in ["GET", "HEAD", "TRACE", "BREW", "POST", "OPTIONS"] {
            let request = Request::builder()
                .method(Method::from_bytes(method.as_bytes()).unwrap())
                .finish();
            let answer = (&CHAT).call(request).await;
            assert_eq!(answer.is_ok(), METHODS.contains(&method), "{method}");
        }
    }
}
