//! Validates the target and `Host` of a request (RFC 9112, section 3.2). hyper does not check them. If a proxy
//! interpreted them differently, a request could reach the handler of another host.

use hyper::{
    Version,
    header::{HOST, HeaderValue},
    http::{Uri, request::Parts, uri::PathAndQuery},
};

/// Validates `Host` and the form of the target. Afterwards the target is only a path, and `Host` is authoritative.
///
/// # Errors
/// The reason for a 400 response.
pub fn check(head: &mut Parts) -> Result<(), &'static str> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err("the request has two Host headers"),
        (None, None) if head.version >= Version::HTTP_11 => {
            return Err("the request has no Host header");
        }
        (Some(host), None) if !is_host(host.as_bytes()) => {
            return Err("the Host header is not a host name or address with an optional port");
        }
        _ => {}
    }
    let Some(authority) = head.uri.authority() else {
        return Ok(());
    };
    // In absolute form, the target's host replaces the header's (section 3.2.2).
    let path = match head.uri.scheme_str() {
        Some("http" | "https") => head.uri.path_and_query().cloned(),
        // The authority form, only used by CONNECT: this server is not a proxy.
        None => None,
        Some(_) => return Err("the request target's scheme is neither http nor https"),
    };
    if !is_host(authority.as_str().as_bytes()) {
        return Err("the request target has no host, or contains user information");
    }
    let host = HeaderValue::from_str(authority.as_str());
    head.headers.insert(
        HOST,
        host.map_err(|_| "the request target contains no host")?,
    );
    head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Ok(())
}

/// `uri-host [ ":" port ]` (RFC 3986, section 3.2.2). The host must not be empty for http (RFC 9110, section 4.2.1).
fn is_host(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("[]", port),
            _ => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port_fits = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some("") => true,
        Some(digits) => {
            digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
    };
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
    port_fits && !host.is_empty() && (host == "[]" || host.bytes().all(letter))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_with_a_port() {
        for good in [
            "chat.example",
            "localhost:3000",
            "127.0.0.1:80",
            "[::1]",
            "[2001:db8::1]:3000",
            "a:65535",
            "a:",
            "a_b",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a:b",
            "a:65536",
            "a:-1",
            "a:+1",
            "user@a",
            "a/b",
            "a?b",
            "a#b",
            "[::1",
            "::1",
            "[::1]x",
            "[::g]",
            "[]",
            "a,b:c",
            "é",
            "a:80:80",
            "[::1]:80:80",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
        assert!(!is_host(b"\xff"));
    }

    fn checked(
        version: Version,
        target: &str,
        hosts: &[&str],
    ) -> Result<(String, Option<String>), &'static str> {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        check(&mut head)?;
        let host = head
            .headers
            .get(HOST)
            .map(|host| host.to_str().unwrap().to_owned());
        Ok((head.uri.to_string(), host))
    }

    #[test]
    fn one_host_and_a_target_that_names_no_other() {
        let new = Version::HTTP_11;
        let ok = |target: &str, host: &str| Ok((target.to_owned(), Some(host.to_owned())));
        assert_eq!(checked(new, "/a?b", &["h:1"]), ok("/a?b", "h:1"));
        assert!(checked(new, "/", &[]).is_err());
        assert_eq!(
            checked(Version::HTTP_10, "/", &[]),
            Ok(("/".to_owned(), None))
        );
        for version in [new, Version::HTTP_10] {
            assert!(checked(version, "/", &["h", "h"]).is_err());
            assert!(checked(version, "/", &["h h"]).is_err());
            assert!(checked(version, "/", &[""]).is_err());
        }
        // The absolute form.
        assert_eq!(checked(new, "http://x:8/a?b", &["h"]), ok("/a?b", "x:8"));
        assert_eq!(checked(new, "https://x", &["h"]), ok("/", "x"));
        assert!(checked(new, "http://x/", &[]).is_err());
        assert!(checked(new, "ftp://x/", &["h"]).is_err());
        assert!(checked(new, "http://u@x/", &["h"]).is_err());
        assert!(checked(new, "http://x:99999/", &["h"]).is_err());
    }
}
