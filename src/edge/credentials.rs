//! Access tokens in requests: where they may be, and where they are refused.

use crate::error::Error;

/// The token of `Bearer <token>`; the scheme is case-insensitive (RFC 9110, section 11.1).
pub fn bearer(credentials: &str) -> Option<&str> {
    let (scheme, token) = credentials.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Rejects an access token in the URL, under one of its usual names (RFC 6750 section 2.3), since proxies and logs
/// would keep it. Other credentials in the request make no difference.
///
/// # Errors
/// `malformed`, with the permitted ways.
pub fn no_token_in(query: Option<&str>) -> Result<(), Error> {
    let pairs = query.unwrap_or("").split('&');
    let mut names = pairs.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    if names.any(|name| matches!(name, "token" | "access_token")) {
        Err(Error::malformed(
            "never put an access token in a URL: use the Authorization header; for a socket also ?ticket= (POST /v1/auth/ticket), a first `auth` frame, or Socket.IO's `auth` option",
        ))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        for good in ["Bearer abc", "bearer abc", "BEARER  abc"] {
            assert_eq!(bearer(good), Some("abc"), "{good}");
        }
        for bad in ["abc", "Basic abc", "Bearer", "Bearer ", "Bearerabc", ""] {
            assert_eq!(bearer(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_url_holds_a_token() {
        for good in [None, Some(""), Some("ticket=token"), Some("tokens=x&t=1")] {
            assert!(no_token_in(good).is_ok(), "{good:?}");
        }
        for bad in ["token=x", "ticket=x&token=", "access_token=x", "a=b&token"] {
            assert!(no_token_in(Some(bad)).is_err(), "{bad}");
        }
    }
}
