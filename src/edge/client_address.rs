//! The address a request comes from, for limits and log lines. The server puts it into each request's extensions;
//! nothing else reads the connection's address or a forwarding header.

use std::net::{IpAddr, Ipv6Addr};

use poem::Request;

/// The address of the client that sent a request: the peer of the connection, or what a trusted proxy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// The client's address; `None` where the connection has none (tests without a socket).
pub fn of(request: &Request) -> Option<IpAddr> {
    match request.extensions().get::<ClientAddress>() {
        Some(ClientAddress(address)) => Some(*address),
        None => request
            .remote_addr()
            .as_socket_addr()
            .map(|address| address.ip()),
    }
}

/// What limits count as one address: an IPv4 address, or the /64 that an IPv6 customer has (RFC 6177). An IPv4-mapped
/// IPv6 address counts as its IPv4 address.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let of = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1").to_string(), "10.0.0.1");
    }
}
