//! Settings that are valid, but contradict each other or the way in which servers are reached.

use std::{collections::BTreeSet, net::IpAddr};

use lapin::uri::{AMQPAuthority, AMQPUri};

use super::finding::Finding;
use crate::config::Config;

const PUBLIC_URL: &str = "edge.public_url";
const RESET_URL: &str = "auth.reset_url";
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

fn is_local(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a URL is of `http` and leads to another machine.
fn is_plain(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else {
        return false;
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    !is_local(name)
}

/// Whether a URL of RabbitMQ has the well-known user or password and leads to another machine. Both are `guest` if they
/// are left out.
fn is_guest(url: &str) -> bool {
    url.parse::<AMQPUri>().is_ok_and(|uri| {
        let AMQPAuthority { userinfo, host, .. } = &uri.authority;
        !is_local(host) && (userinfo.username == "guest" || userinfo.password == "guest")
    })
}

/// How clients reach the edges.
pub fn reached(config: &Config) -> Vec<Finding> {
    let edge = &config.edge;
    let url = edge.public_url.as_deref();
    let mut findings = Vec::new();
    match url {
        None if config.notify.enabled() => findings.push(Finding::warning(
            PUBLIC_URL,
            "is not set: notifications have no links, and no reports of providers arrive",
            "set it to the address that clients use, on edges and workers",
        )),
        None => findings.push(Finding::ok(PUBLIC_URL, "is not set")),
        Some(url) => {
            if is_plain(url) {
                findings.push(Finding::warning(
                    PUBLIC_URL,
                    format!("{url} is not encrypted: passwords and tokens can be read on the way"),
                    "use TLS, at the edge or at a proxy, and https:// here",
                ));
            } else if !url.starts_with("http://")
                && is_local(&edge.host)
                && edge.trusted_proxies.is_empty()
            {
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
    if config.metrics.public {
        findings.push(Finding::warning(
            "metrics.public",
            "every client can read /metrics",
            "use metrics.port instead, and keep that port private",
        ));
    }
    if let Some(url) = config.auth.reset_url.as_deref().filter(|url| is_plain(url)) {
        findings.push(Finding::warning(
            RESET_URL,
            format!("{url} is not encrypted: tokens that reset passwords can be read on the way"),
            "use https:// here",
        ));
    }
    if config.queue.url.expose().iter().any(|url| is_guest(url)) {
        findings.push(Finding::warning(
            "queue.url",
            "has the user or the password guest for another host",
            "set AMQP_URL to a user of this deployment",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_urls_and_guests_matter_on_other_hosts() {
        for local in [
            "http://localhost:3000/reset",
            "http://[::1]:80/",
            "http://127.0.0.1",
            "https://a.example/",
        ] {
            assert!(!is_plain(local), "{local}");
        }
        for other in [
            "http://a.example/reset?token=",
            "http://10.0.0.1:80",
            "http://[2001:db8::1]/",
        ] {
            assert!(is_plain(other), "{other}");
        }
        for good in [
            "amqp://guest:guest@localhost:5672/%2f",
            "amqp://guest:guest@127.0.0.1",
            "amqp://chat:x@mq1",
        ] {
            assert!(!is_guest(good), "{good}");
        }
        for bad in [
            "amqp://guest:guest@mq1:5672/%2f",
            "amqp://mq1",
            "amqp://chat:guest@mq1",
        ] {
            assert!(is_guest(bad), "{bad}");
        }
    }
}
