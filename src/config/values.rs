//! Checks of single values. An error continues the sentence "*value* …".

use std::net::IpAddr;

use ipnet::IpNet;

use super::secret::split_url;

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address.to_canonical()),
        Err(_) => text
            .parse::<IpNet>()
            .map_err(|_| "is neither an IP address nor a network")?,
    };
    if network.prefix_len() == 0 {
        return Err("is every address, so that anyone could claim any address".into());
    }
    if network != network.trunc() {
        return Err(format!("has bits beyond its prefix; {}?", network.trunc()));
    }
    // Peers and hops are compared in their IPv4 form.
    match network {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
            Err("is an IPv4 network written as IPv6; write it as IPv4".into())
        }
        network => Ok(network),
    }
}

pub(super) fn host(text: &str) -> Result<String, String> {
    let name_letters = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.chars().all(name_letters)) {
        Ok(text.to_owned())
    } else {
        Err("is neither an IP address nor a host name".into())
    }
}

pub(super) fn public_url(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let url = split_url(text)?;
    match url.scheme {
        "http" | "https" if url.host.is_empty() => Err("has no host".into()),
        "http" | "https" if url.has_user || url.tail.contains(['?', '#']) => {
            Err("has more than a path".into())
        }
        "http" | "https" => Ok(Some(text.trim_end_matches('/').to_owned())),
        _ => Err("does not begin with http:// or https://".into()),
    }
}

/// A URL that a token is appended to.
pub(super) fn reset_url(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let url = split_url(text)?;
    match url.scheme {
        "http" | "https" if url.host.is_empty() => Err("has no host".into()),
        "http" | "https" if url.has_user => Err("has a user name".into()),
        "http" | "https" => Ok(Some(text.to_owned())),
        _ => Err("does not begin with http:// or https://".into()),
    }
}

/// An origin as a browser sends it (RFC 6454, section 6.2): anything else would never match.
pub(super) fn origin(text: &str) -> Result<(), String> {
    if text == "*" {
        return Ok(());
    }
    let url = split_url(text)?;
    if url.host.is_empty() {
        Err("has no host".into())
    } else if url.has_user || !url.tail.is_empty() {
        Err("has more than scheme, host and port (a slash at the end counts)".into())
    } else if text.contains('*') {
        Err("has a *, which stands for every origin only when it is alone".into())
    } else if text.contains(|c: char| c.is_ascii_uppercase()) {
        Err("has a capital letter, which browsers never send".into())
    } else if matches!(
        (url.scheme, url.port),
        ("http", Some(80)) | ("https", Some(443))
    ) {
        Err("names the default port, which browsers leave out".into())
    } else {
        Ok(())
    }
}

pub(super) fn name(text: &str) -> Result<String, String> {
    match text
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || "_.-".contains(*c)))
    {
        Some(c) => Err(format!("has {c:?} in it")),
        None if text.is_empty() => Err("is empty".into()),
        None if text.len() > 64 => Err(format!("has {} characters", text.len())),
        None => Ok(text.to_owned()),
    }
}

pub(super) fn base_url(text: &str) -> Result<String, String> {
    public_url(text)?.ok_or_else(|| "is empty".into())
}

pub(super) fn sender(text: &str) -> Result<String, String> {
    let parsed = text.parse::<lettre::message::Mailbox>();
    match parsed {
        _ if text.is_empty() => Ok(String::new()),
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("is not an e-mail address".into()),
    }
}

/// `+` and 1 to 15 digits, none of them leading zeros (E.164).
pub(super) fn number_prefix(text: &str) -> Result<(), String> {
    let good = text.strip_prefix('+').is_some_and(|digits| {
        (1..=15).contains(&digits.len())
            && !digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    if good {
        Ok(())
    } else {
        Err("does not begin a number in international form".into())
    }
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // The filter takes any other word for a module, of which everything is logged, and of the rest nothing.
    let is_level = |part: &str| LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level));
    let mut parts = text.split(',').map(str::trim);
    if let Some(word) =
        parts.find(|part| !(part.is_empty() || part.contains(['=', '[']) || is_level(part)))
    {
        return Err(format!("has {word:?}, which is no level"));
    }
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("is no filter: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_the_log_filter_is_a_level() {
        for good in ["info", "WARN", "off", "warn,chat=debug"] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for bad in ["infoo", "warn,chat", "chat"] {
            let error = log_filter(bad).unwrap_err();
            assert!(error.contains("which is no level"), "{error}");
        }
    }
}
