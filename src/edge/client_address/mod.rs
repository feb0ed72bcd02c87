//! The client address of a request, for limits and log lines. The server stores it in the request's extensions; no
//! other code reads the peer address or a forwarding header.
//!
//! Proxies pass it on in a request header (`forwarded.rs`) or at the beginning of the connection (`proxy_protocol.rs`).
//! Only proxies in `edge.trusted_proxies` are believed.

pub mod forwarded;
pub mod proxy_protocol;

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use poem::{Request, http::HeaderMap};

use crate::config::{self, ForwardedHeader};

/// The client address of a request: the connection's peer, or the address that a trusted proxy passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// The client address; `None` if the connection has none (tests without a socket).
pub fn of(request: &Request) -> Option<IpAddr> {
    match request.extensions().get::<ClientAddress>() {
        Some(ClientAddress(address)) => Some(*address),
        None => request
            .remote_addr()
            .as_socket_addr()
            .map(|address| address.ip()),
    }
}

/// The trusted proxies, and how they pass on client addresses.
#[derive(Debug, Clone)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    header: ForwardedHeader,
    /// Connections from trusted proxies begin with a PROXY protocol header.
    pub proxy_protocol: bool,
}

impl Proxies {
    pub fn new(edge: &config::Edge) -> Self {
        Proxies {
            trusted: edge.trusted_proxies.clone(),
            header: edge.forwarded,
            proxy_protocol: edge.proxy_protocol,
        }
    }

    /// Trusts no proxy.
    pub fn none() -> Self {
        Proxies {
            trusted: Vec::new(),
            header: ForwardedHeader::XForwardedFor,
            proxy_protocol: false,
        }
    }

    /// Whether `address` is a trusted proxy.
    pub fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted
            .iter()
            .any(|network| network.contains(&address))
    }

    /// The client address: `peer`, or the address that trusted proxies passed on. Each proxy appends its peer's
    /// address, so the list is read from the right, and only past hops that are trusted themselves. At a malformed hop
    /// the last trusted hop counts as the client.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trust(client) {
            return client;
        }
        for hop in forwarded::hops(self.header, headers).into_iter().rev() {
            let Some(hop) = hop else { break };
            client = hop.to_canonical();
            if !self.trust(client) {
                break;
            }
        }
        client
    }
}

/// The unit that limits count as one address: an IPv4 address, or the /64 prefix of an IPv6 customer (RFC 6177). An
/// IPv4-mapped IPv6 address counts as its IPv4 address.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies(header: ForwardedHeader) -> Proxies {
        Proxies {
            trusted: ["10.0.0.0/8", "2001:db8:1::/48", "127.0.0.1/32"]
                .map(|network| network.parse().unwrap())
                .to_vec(),
            header,
            proxy_protocol: false,
        }
    }

    fn client(header: ForwardedHeader, peer: &str, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let peer = peer.parse().unwrap();
        proxies(header).client(peer, &headers).to_string()
    }

    #[test]
    fn only_entries_added_by_trusted_proxies_count() {
        let xff = |peer, lines: &[&str]| {
            let lines: Vec<_> = lines
                .iter()
                .map(|line| ("x-forwarded-for", *line))
                .collect();
            client(ForwardedHeader::XForwardedFor, peer, &lines)
        };
        // A peer that is not a trusted proxy is the client, whatever its headers contain.
        assert_eq!(xff("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(xff("::ffff:192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        // The entry added by the proxy counts; entries that the client sent are further left.
        assert_eq!(xff("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(xff("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(xff("10.0.0.1", &["1.1.1.1, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            xff("10.0.0.1", &["1.1.1.1", "198.51.100.1"]),
            "198.51.100.1"
        );
        // Several proxies.
        assert_eq!(
            xff(
                "10.0.0.1",
                &["1.1.1.1, 198.51.100.1, 10.1.1.1", "2001:db8:1::7"]
            ),
            "198.51.100.1"
        );
        assert_eq!(xff("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        // No entries, or malformed ones.
        assert_eq!(xff("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(xff("10.0.0.1", &["198.51.100.1, nonsense"]), "10.0.0.1");
        assert_eq!(
            xff("10.0.0.1", &["1.1.1.1, nonsense, 10.0.0.2"]),
            "10.0.0.2"
        );
        assert_eq!(xff("10.0.0.1", &["::ffff:198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn the_other_header_is_not_read() {
        let both = [
            ("forwarded", "for=198.51.100.1"),
            ("x-forwarded-for", "203.0.113.1"),
        ];
        assert_eq!(
            client(ForwardedHeader::XForwardedFor, "10.0.0.1", &both),
            "203.0.113.1"
        );
        assert_eq!(
            client(ForwardedHeader::Forwarded, "10.0.0.1", &both),
            "198.51.100.1"
        );
        assert_eq!(
            client(ForwardedHeader::Forwarded, "10.0.0.1", &both[1..]),
            "10.0.0.1"
        );
        assert_eq!(
            client(ForwardedHeader::Forwarded, "192.0.2.1", &both),
            "192.0.2.1"
        );
    }

    proptest! {
        /// A client cannot change its address by text before the entry that its proxy adds, on the same or on separate
        /// lines.
        #[test]
        fn a_client_cannot_claim_another_address(
            written in proptest::collection::vec("[ -~]{0,40}", 0..4),
            same_line: bool,
        ) {
            for (header, name, added) in [
                (ForwardedHeader::XForwardedFor, "x-forwarded-for", "198.51.100.1"),
                (ForwardedHeader::XForwardedFor, "x-forwarded-for", "2001:db8:2::1"),
                (ForwardedHeader::Forwarded, "forwarded", "for=198.51.100.1;proto=https"),
                (ForwardedHeader::Forwarded, "forwarded", "for=\"[2001:db8:2::1]:80\";by=\"_x\""),
            ] {
                let mut lines = written.clone();
                match lines.last_mut().filter(|_| same_line) {
                    Some(last) => *last = format!("{last}, {added}"),
                    None => lines.push(added.to_owned()),
                }
                let lines: Vec<_> = lines.iter().map(|line| (name, line.as_str())).collect();
                let found = client(header, "10.0.0.1", &lines);
                prop_assert!(
                    ["198.51.100.1", "2001:db8:2::1", "10.0.0.1"].contains(&found.as_str()),
                    "{found}"
                );
            }
        }
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let of = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1").to_string(), "10.0.0.1");
    }
}
