//! Settings that are valid, but contradict each other or the way in which servers are reached.

use std::{collections::BTreeSet, net::IpAddr};

use super::finding::Finding;
use crate::config::{Config, Source};

const PUBLIC_URL: &str = "edge.public_url";
const ORIGINS: &str = "edge.allowed_origins";
/// A random secret of 32 bytes has more different characters than this.
const FEW_CHARACTERS: usize = 10;

/// The secret of an edge.
pub fn secret(config: &Config) -> Finding {
    let check = "auth.secret";
    let secret = &config.auth.secret;
    if secret.is_empty() {
        return Finding::problem(
            check,
            "is empty: every edge needs the same one",
            "`openssl rand -base64 48` makes one, CHAT__AUTH__SECRET sets it",
        );
    }
    let different = secret.iter().map(|secret| {
        let characters: BTreeSet<char> = secret.expose().chars().collect();
        characters.len()
    });
    let fewest = different.min().unwrap_or_default();
    if fewest < FEW_CHARACTERS {
        return Finding::warning(
            check,
            format!("has only {fewest} different characters: it can be guessed"),
            "`openssl rand -base64 48` makes a better one; docs/operations.md has the steps to replace it",
        );
    }
    match secret.iter().count() {
        1 => Finding::ok(check, "is set"),
        count => Finding::ok(check, format!("has {count} secrets; the first one signs")),
    }
}

/// How clients reach the edges.
pub fn reached(config: &Config) -> Vec<Finding> {
    let edge = &config.edge;
    let url = edge.public_url.as_deref();
    let mut findings = Vec::new();
    let is_local = |host: &str| {
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    match url {
        None if config.notify.enabled() => findings.push(Finding::warning(
            PUBLIC_URL,
            "is not set: notifications have no links, and no reports of providers arrive",
            "set it to the address that clients use, on edges and workers",
        )),
        None => findings.push(Finding::ok(PUBLIC_URL, "is not set")),
        Some(url) => {
            let plain = url.strip_prefix("http://");
            let host = |rest: &str| rest.split(['/', '?']).next().unwrap_or_default().to_owned();
            let host = plain.map(host).unwrap_or_default();
            let name = match host.rsplit_once(':') {
                Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name.to_owned(),
                _ => host,
            };
            if plain.is_some() && !is_local(&name) {
                findings.push(Finding::warning(
                    PUBLIC_URL,
                    format!("{url} is not encrypted: passwords and tokens can be read on the way"),
                    "use TLS, at the edge or at a proxy, and https:// here",
                ));
            } else if plain.is_none() && is_local(&edge.host) && edge.trusted_proxies.is_empty() {
                findings.push(Finding::warning(
                    PUBLIC_URL,
                    format!(
                        "{url} leads to a proxy on this machine (edge.host is {}), which is not trusted: all clients share one address and its limits",
                        edge.host
                    ),
                    "add the proxy to edge.trusted_proxies, such as 127.0.0.1",
                ));
            } else {
                findings.push(Finding::ok(PUBLIC_URL, url));
            }
        }
    }
    if edge.allowed_origins.iter().any(|origin| origin == "*") {
        findings.push(Finding::warning(
            ORIGINS,
            "every web page may connect",
            "list the origins of your pages",
        ));
    }
    if edge
        .trusted_proxies
        .iter()
        .any(|network| network.prefix_len() == 0)
    {
        findings.push(Finding::problem(
            "edge.trusted_proxies",
            "trusts every peer: clients choose the address that limits count",
            "list only the proxies' own addresses",
        ));
    }
    if config.metrics.public {
        findings.push(Finding::warning(
            "metrics.public",
            "every client can read /metrics",
            "use metrics.port instead, and keep that port private",
        ));
    }
    if let Some(Source::Default) = config.source("queue.url")
        && edge.host == "0.0.0.0"
    {
        findings.push(Finding::warning(
            "queue.url",
            "is the default, with the password guest",
            "set AMQP_URL to a user of this deployment",
        ));
    }
    findings
}
