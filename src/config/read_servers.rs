//! Reads the addresses of servers. Passwords in them are masked in what is shown.

use super::{
    layers::{Raw, list_in},
    read::{Parsed, Reader, text_of, toml_string},
    secret::{SecretUrl, SecretUrls, mask, split_url},
};

impl Reader {
    /// The URL of a server, with one of `schemes`.
    pub fn server(&mut self, key: &'static str, schemes: &[&str], host_needed: bool) -> SecretUrl {
        self.read(key, &server_allowed(schemes), |raw| {
            server_url(raw, schemes, host_needed)
        })
    }

    /// The URLs of a server's nodes, each with one of `schemes`: one text, or a list. A text is split at commas that
    /// precede a scheme, since passwords may contain commas.
    pub fn servers(
        &mut self,
        key: &'static str,
        schemes: &[&str],
        host_needed: bool,
    ) -> SecretUrls {
        let allowed = format!("{}, or a list of such URLs", server_allowed(schemes));
        self.read(key, &allowed, |raw| {
            let (urls, shown) = server_urls(raw, schemes, host_needed)?;
            let urls = SecretUrls::new(urls).ok_or("is an empty list")?;
            Ok((urls, shown))
        })
    }

    /// Like [`Reader::servers`], or `""` for none.
    pub fn servers_or_none(
        &mut self,
        key: &'static str,
        schemes: &[&str],
        host_needed: bool,
    ) -> Option<SecretUrls> {
        let one = server_allowed(schemes);
        let allowed = format!("\"\", {one}, or a list of such URLs");
        self.read(key, &allowed, |raw| match text_of(raw) {
            Some(text) if text.trim().is_empty() => Ok((None, toml_string(""))),
            _ => {
                let (urls, shown) = server_urls(raw, schemes, host_needed)?;
                Ok((SecretUrls::new(urls), shown))
            }
        })
    }

    /// Like [`Reader::servers`], but each address may be `host:port` without a scheme, and the list may be empty.
    pub fn nodes(&mut self, key: &'static str, schemes: &[&str]) -> Vec<SecretUrl> {
        let allowed = format!("[], or a list of host:port or {}", server_allowed(schemes));
        self.read(key, &allowed, |raw| {
            let items = match raw {
                Raw::List(items) => items.clone(),
                Raw::Word(text) | Raw::Text(text) if text.trim().is_empty() => Vec::new(),
                Raw::Word(text) | Raw::Text(text) => {
                    list_in(text).unwrap_or_else(|| nodes_in(text, schemes))
                }
                other => vec![other.clone()],
            };
            let (mut nodes, mut shown) = (Vec::new(), Vec::new());
            for (i, item) in items.iter().enumerate() {
                let (node, masked) = node(item, schemes).map_err(|problem| match items.len() {
                    1 => problem,
                    count => format!("entry {} of {count} {problem}", i + 1),
                })?;
                nodes.push(node);
                shown.push(masked);
            }
            Ok((nodes, format!("[{}]", shown.join(", "))))
        })
    }
}

fn server_allowed(schemes: &[&str]) -> String {
    format!("{}user:password@host:port/name", in_words(schemes))
}

/// The URLs in a text that separates them by commas.
fn urls_in(text: &str, schemes: &[&str]) -> Vec<Raw> {
    let begins = |text: &str| {
        let begins = |scheme: &&str| {
            let rest = text.trim_start().strip_prefix(scheme);
            rest.is_some_and(|rest| rest.starts_with("://"))
        };
        schemes.iter().any(begins)
    };
    let mut urls = vec![String::new()];
    for (i, part) in text.split(',').enumerate() {
        match urls.last_mut() {
            Some(last) if i == 0 => last.push_str(part),
            Some(last) if !begins(part) => {
                last.push(',');
                last.push_str(part);
            }
            _ => urls.push(part.to_owned()),
        }
    }
    urls.into_iter().map(Raw::Text).collect()
}

/// As [`urls_in`], also without schemes.
fn nodes_in(text: &str, schemes: &[&str]) -> Vec<Raw> {
    if text.contains("://") {
        return urls_in(text, schemes);
    }
    let nodes = text.split(',').map(|node| Raw::Text(node.to_owned()));
    nodes.collect()
}

/// A URL, or `host:port`.
fn node(raw: &Raw, schemes: &[&str]) -> Parsed<SecretUrl> {
    let text = match text_of(raw) {
        Some(text) if !text.contains("://") => text.trim(),
        _ => return server_url(raw, schemes, true),
    };
    let url = format!("{}://{text}", schemes[0]);
    let url = split_url(&url)?;
    if url.has_user || !url.tail.is_empty() || url.host.is_empty() || url.port.is_none() {
        return Err("is not host:port (not shown, since it may be secret)".into());
    }
    Ok((SecretUrl::new(text), toml_string(text)))
}

fn server_urls(raw: &Raw, schemes: &[&str], host_needed: bool) -> Parsed<Vec<SecretUrl>> {
    let items = match raw {
        Raw::List(items) => items.clone(),
        Raw::Word(word) => list_in(word).unwrap_or_else(|| urls_in(word, schemes)),
        Raw::Text(text) => urls_in(text, schemes),
        other => vec![other.clone()],
    };
    let (mut urls, mut shown) = (Vec::new(), Vec::new());
    for item in &items {
        let (url, masked) = server_url(item, schemes, host_needed)?;
        urls.push(url);
        shown.push(masked);
    }
    let shown = match shown.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    Ok((urls, shown))
}

fn in_words(schemes: &[&str]) -> String {
    let named: Vec<String> = schemes.iter().map(|s| format!("{s}://")).collect();
    named.join(" or ")
}

fn server_url(raw: &Raw, schemes: &[&str], host_needed: bool) -> Parsed<SecretUrl> {
    let text = text_of(raw)
        .ok_or("its value is not a text (not shown, since it may be secret)")?
        .trim();
    let url = split_url(text)?;
    if !schemes.contains(&url.scheme) {
        return Err(format!("has a scheme that is not {}", in_words(schemes)));
    }
    if host_needed && url.host.is_empty() {
        return Err("has no host".into());
    }
    Ok((SecretUrl::new(text), toml_string(&mask(text))))
}
