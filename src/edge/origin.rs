//! The `Origin` check: an exact allow-list, applied to every handshake as OWASP recommends.

use poem::{
    Request,
    http::{header, uri::Scheme},
};

use crate::error::{Error, Result};

/// Accepts a request without `Origin` (not a browser), from the same host, or from a listed origin.
///
/// # Errors
/// `forbidden`, naming the setting that would allow the origin.
pub fn check(allowed: &[String], request: &Request) -> Result<()> {
    let Some(origin) = request.headers().get(header::ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or("");
    let host = request.header(header::HOST).unwrap_or("");
    if is_allowed(allowed, origin, host, is_secure(request)) {
        return Ok(());
    }
    Err(Error::forbidden(format!(
        "the origin {origin:?} is not allowed; add it to edge.allowed_origins"
    )))
}

/// Whether the connection to this edge is TLS.
pub fn is_secure(request: &Request) -> bool {
    *request.scheme() == Scheme::HTTPS
}

/// `origin` and `host` are the values of the request's headers `Origin` and `Host`. On a TLS connection (`secure`) the
/// same host's page must have been loaded over https. On a plain one it may have been, by way of a proxy.
pub fn is_allowed(allowed: &[String], origin: &str, host: &str, secure: bool) -> bool {
    let same = origin.split_once("://").is_some_and(|(scheme, authority)| {
        !host.is_empty()
            && authority.eq_ignore_ascii_case(host)
            && (!secure || scheme.eq_ignore_ascii_case("https"))
    });
    same || allowed.iter().any(|a| a == "*" || a == origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_host_and_the_list() {
        let list = vec!["https://app.example".to_owned()];
        for secure in [false, true] {
            let good = |origin, host| is_allowed(&list, origin, host, secure);
            assert!(good("https://app.example", "chat.example"));
            assert!(good("https://localhost:3000", "localhost:3000"));
            assert_eq!(good("http://localhost:3000", "localhost:3000"), !secure);
            assert!(!good("https://app.example.evil", "chat.example"));
            assert!(!good("null", "chat.example"));
            assert!(!good("http://", ""));
            assert!(is_allowed(
                &["*".to_owned()],
                "https://any.example",
                "x",
                secure
            ));
        }
    }
}
