//! The `Origin` check: an exact allow-list, applied to every handshake as OWASP recommends.

use poem::{Request, http::header};

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
    if is_allowed(allowed, origin, host) {
        return Ok(());
    }
    Err(Error::forbidden(format!(
        "the origin {origin:?} is not allowed; add it to edge.allowed_origins"
    )))
}

/// `origin` and `host` are the values of the request's headers `Origin` and `Host`.
pub fn is_allowed(allowed: &[String], origin: &str, host: &str) -> bool {
    let same = origin
        .split_once("://")
        .is_some_and(|(_, authority)| !host.is_empty() && authority.eq_ignore_ascii_case(host));
    same || allowed.iter().any(|a| a == "*" || a == origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_host_and_the_list() {
        let list = vec!["https://app.example".to_owned()];
        assert!(is_allowed(&list, "https://app.example", "chat.example"));
        assert!(is_allowed(&list, "http://localhost:3000", "localhost:3000"));
        assert!(!is_allowed(
            &list,
            "https://app.example.evil",
            "chat.example"
        ));
        assert!(!is_allowed(&list, "null", "chat.example"));
        assert!(!is_allowed(&list, "http://", ""));
        assert!(is_allowed(&["*".to_owned()], "https://any.example", "x"));
    }
}
