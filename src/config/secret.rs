//! Values that must not be shown, and just enough knowledge of URLs to hide their passwords.
//! Nothing here may write a secret except `expose()`, which the reader of a diff can search for.

use std::fmt;

/// A secret text. `Debug` and `Display` show `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `value` from here on.
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The secret itself: for signing and connecting, never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is no secret at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "***")
    }
}

/// Secrets of which the first is used and all are accepted, so that one can be replaced by another while nodes with
/// either run. Formatted as `***`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets(Vec<Secret>);

impl Secrets {
    /// Leaves out empty ones.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        Secrets(secrets.into_iter().filter(|one| !one.is_empty()).collect())
    }

    /// Whether there is no secret at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter()
    }
}

/// The URL of a server, password included. `Debug` and `Display` show it with the password masked,
/// so it can stand in a log line as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Takes any text; the settings check it before.
    pub fn new(url: impl Into<String>) -> Self {
        SecretUrl(url.into())
    }

    /// The whole URL: for connecting, never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// The addresses of one server's nodes, at least one. Formatted with the passwords masked.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrls(Vec<SecretUrl>);

impl SecretUrls {
    /// `None` for an empty list.
    pub fn new(urls: Vec<SecretUrl>) -> Option<Self> {
        (!urls.is_empty()).then_some(SecretUrls(urls))
    }

    /// The whole URLs: for connecting, never for a message.
    pub fn expose(&self) -> Vec<String> {
        self.0.iter().map(|url| url.expose().to_owned()).collect()
    }
}

impl fmt::Debug for SecretUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SecretUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, url) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{url}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", mask(&self.0))
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", mask(&self.0))
    }
}

/// Replaces what may be a password in a URL by `***`; other text stays as it is.
///
/// Up to the *last* `@`, and in the query wherever a parameter's name sounds secret: a badly written URL
/// rather loses its host than shows a piece of its password.
pub(super) fn mask(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (rest, query) = match rest.rsplit_once('@') {
        // A '?' before the last '@' may be part of a password, so it does not begin a query yet.
        Some((user, tail)) => {
            let user = match user.split_once(':') {
                Some((name, _password)) => format!("{name}:***"),
                None => user.to_owned(),
            };
            let (host, query) = split_query(tail);
            (format!("{user}@{host}"), query)
        }
        None => {
            let (host, query) = split_query(rest);
            (host.to_owned(), query)
        }
    };
    let Some(query) = query else {
        return format!("{scheme}://{rest}");
    };
    let query: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if sounds_secret(name) => format!("{name}=***"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{scheme}://{rest}?{}", query.join("&"))
}

fn split_query(text: &str) -> (&str, Option<&str>) {
    match text.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (text, None),
    }
}

fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "pwd", "secret", "token", "key"]
        .iter()
        .any(|word| name.contains(word))
}

/// The pieces of `scheme://user@host:port/tail` (RFC 3986 section 3).
pub(super) struct UrlParts<'a> {
    pub scheme: &'a str,
    pub has_user: bool,
    /// Without the brackets of an IPv6 address. May be empty.
    pub host: &'a str,
    pub port: Option<u16>,
    /// Path, query and fragment, beginning with `/`, `?` or `#`; or empty.
    pub tail: &'a str,
}

/// Splits a URL; the error names the problem without repeating any part of the URL.
pub(super) fn split_url(url: &str) -> Result<UrlParts<'_>, &'static str> {
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has a space or line break in it");
    }
    let (scheme, rest) = url
        .split_once("://")
        .ok_or("is no URL, since :// is missing")?;
    let mut letters = scheme.chars();
    if !letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        || !letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return Err("does not begin with the name of a scheme");
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, address) = match authority.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, authority),
    };
    let (host, port) = match address.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']').ok_or("has a [ without ]")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("has no IPv6 address between [ and ]");
            }
            (
                host,
                if after.is_empty() {
                    None
                } else {
                    Some(after.strip_prefix(':').unwrap_or(after))
                },
            )
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        Some(port) => Some(port.parse().map_err(
            |_| "has no number from 0 to 65535 as its port (in a password, write / ? # @ : as %2F %3F %23 %40 %3A)",
        )?),
        None => None,
    };
    Ok(UrlParts {
        scheme,
        has_user: user.is_some(),
        host,
        port,
        tail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_wherever_they_stand() {
        for (url, shown) in [
            (
                "amqp://guest:guest@h:5672/%2f",
                "amqp://guest:***@h:5672/%2f",
            ),
            ("redis://:s3cret@h/0", "redis://:***@h/0"),
            (
                "postgres://chat@h/db?sslmode=require",
                "postgres://chat@h/db?sslmode=require",
            ),
            (
                "postgres://h/db?user=u&password=s3cret",
                "postgres://h/db?user=u&password=***",
            ),
            ("postgres://u:s3/cr?e:t@@h/db", "postgres://u:***@h/db"),
            ("plain text", "plain text"),
        ] {
            assert_eq!(SecretUrl::new(url).to_string(), shown);
            assert_eq!(format!("{:?}", SecretUrl::new(url)), shown);
        }
    }

    #[test]
    fn a_url_is_taken_to_pieces() {
        let parts = split_url("amqps://u:p@[::1]:5671/vh").unwrap();
        assert_eq!(
            (parts.scheme, parts.host, parts.port, parts.tail),
            ("amqps", "::1", Some(5671), "/vh")
        );
        assert!(parts.has_user);
        for wrong in [
            "",
            "host:5672",
            "amqp://h:x/",
            "amqp://u:a/b@h",
            "1://h",
            "amqp://[::1",
            "amqp://[1.2]",
            "a://b c",
        ] {
            assert!(split_url(wrong).is_err(), "{wrong}");
        }
    }
}
