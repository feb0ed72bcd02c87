//! Which web pages may talk to this edge (OWASP: an exact allow-list on every handshake).

use poem::{Request, http::header};

use crate::error::{Error, Result};

/// Whether the request's `Origin` is allowed: none at all (not a browser), the same host, or one of the list.
///
/// # Errors
/// `forbidden`, with the setting that would allow it.
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

/// `origin` as the browser sent it, `host` as the request named this server.
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
