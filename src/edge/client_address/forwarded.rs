//! Parses `X-Forwarded-For` and `Forwarded` (RFC 7239): the addresses that a request passed through.

use std::{
    iter::Peekable,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::Chars,
};

use poem::http::HeaderMap;

use crate::config::ForwardedHeader;

/// The hops, starting with the client; `None` for a hop without a valid address. Repeated headers form one list.
pub fn hops(header: ForwardedHeader, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let name = match header {
        ForwardedHeader::XForwardedFor => "x-forwarded-for",
        ForwardedHeader::Forwarded => "forwarded",
    };
    let mut hops = Vec::new();
    for line in headers.get_all(name) {
        // In a malformed line the client may control where elements begin, so the whole line counts as one unknown hop.
        let Ok(line) = line.to_str() else {
            hops.push(None);
            continue;
        };
        match header {
            ForwardedHeader::XForwardedFor => hops.extend(x_forwarded_for(line)),
            ForwardedHeader::Forwarded => match forwarded(line) {
                Some(elements) => hops.extend(elements),
                None => hops.push(None),
            },
        }
    }
    hops
}

/// Empty list elements are ignored (RFC 9110, section 5.6.1).
fn x_forwarded_for(line: &str) -> impl Iterator<Item = Option<IpAddr>> {
    line.split(',')
        .map(str::trim)
        .filter(|element| !element.is_empty())
        .map(address)
}

/// Parses an address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`,
/// `[2001:db8::1]:80`. `unknown` and `_hidden` (RFC 7239, section 6) yield `None`.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (IpAddr::V6(host.parse::<Ipv6Addr>().ok()?), port)
        }
        None => {
            let (host, _) = text.split_once(':')?;
            (
                IpAddr::V4(host.parse::<Ipv4Addr>().ok()?),
                &text[host.len()..],
            )
        }
    };
    match port.strip_prefix(':') {
        None => port.is_empty().then_some(host),
        // A port number, or an obfuscated port such as `_x`.
        Some(port) => {
            let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            (!port.is_empty() && port.bytes().all(letters)).then_some(host)
        }
    }
}

/// The elements of one line; `None` if the line is malformed.
fn forwarded(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut rest = line.chars().peekable();
    let mut elements = Vec::new();
    loop {
        let (mut pairs, mut hop, mut named) = (0, None, false);
        loop {
            skip_blanks(&mut rest);
            if matches!(rest.peek(), None | Some(',' | ';')) {
                // An empty pair or element.
            } else {
                let (name, value) = pair(&mut rest)?;
                pairs += 1;
                if name.eq_ignore_ascii_case("for") {
                    if named {
                        return None;
                    }
                    named = true;
                    hop = address(&value);
                }
            }
            skip_blanks(&mut rest);
            match rest.peek() {
                Some(';') => rest.next(),
                None | Some(',') => break,
                // A value must be followed by a separator.
                Some(_) => return None,
            };
        }
        if pairs > 0 {
            elements.push(hop);
        }
        if rest.next().is_none() {
            return Some(elements);
        }
    }
}

fn skip_blanks(rest: &mut Peekable<Chars>) {
    while rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
}

/// `token "=" ( token / quoted-string )`. An address with colons must be quoted, but some proxies do not do so.
fn pair(rest: &mut Peekable<Chars>) -> Option<(String, String)> {
    let name = word(rest, |c| c.is_ascii_alphanumeric() || "-_".contains(c));
    rest.next_if_eq(&'=')?;
    let value = match rest.next_if_eq(&'"') {
        Some(_) => quoted(rest)?,
        None => word(rest, |c| c.is_ascii_graphic() && !",;=\"\\".contains(c)),
    };
    (!name.is_empty()).then_some((name, value))
}

fn word(rest: &mut Peekable<Chars>, of: impl Fn(char) -> bool) -> String {
    let mut word = String::new();
    while let Some(c) = rest.next_if(|c| of(*c)) {
        word.push(c);
    }
    word
}

/// The rest of a quoted string (RFC 9110, section 5.6.4).
fn quoted(rest: &mut Peekable<Chars>) -> Option<String> {
    let mut text = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(text),
            '\\' => text.push(rest.next()?),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(hops: impl IntoIterator<Item = Option<IpAddr>>) -> Vec<String> {
        let hops = hops.into_iter();
        hops.map(|hop| hop.map_or("-".to_owned(), |hop| hop.to_string()))
            .collect()
    }

    #[test]
    fn addresses_with_and_without_ports() {
        for (text, found) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:8080", Some("192.0.2.1")),
            ("192.0.2.1:_port", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("[2001:db8::1]80", None),
            ("[192.0.2.1]", None),
            ("192.0.2.1:", None),
            ("192.0.2", None),
            ("192.0.2.1:80:80", None),
            ("unknown", None),
            ("_hidden", None),
            ("", None),
            ("::1%eth0", None),
        ] {
            assert_eq!(
                address(text),
                found.map(|text| text.parse().unwrap()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_list_in_order_with_what_is_no_address() {
        let list = x_forwarded_for("203.0.113.9 ,, unknown,[2001:db8::1]:80,");
        assert_eq!(shown(list), ["203.0.113.9", "-", "2001:db8::1"]);
    }

    #[test]
    fn the_examples_of_rfc_7239() {
        for (line, hops) in [
            ("for=\"_gazonk\"", vec!["-"]),
            (
                "For=\"[2001:db8:cafe::17]:4711\"",
                vec!["2001:db8:cafe::17"],
            ),
            (
                "for=192.0.2.60;proto=http;by=203.0.113.43",
                vec!["192.0.2.60"],
            ),
            (
                "for=192.0.2.43, for=198.51.100.17",
                vec!["192.0.2.43", "198.51.100.17"],
            ),
            (
                "for=192.0.2.43,for=\"[2001:db8:cafe::17]\",for=unknown",
                vec!["192.0.2.43", "2001:db8:cafe::17", "-"],
            ),
            ("for=_hidden, for=_SEVKISEK", vec!["-", "-"]),
        ] {
            assert_eq!(shown(forwarded(line).unwrap()), hops, "{line}");
        }
    }

    #[test]
    fn elements_without_for_count_and_quotes_hide_nothing() {
        for (line, hops) in [
            ("proto=http, for=192.0.2.1", vec!["-", "192.0.2.1"]),
            ("by=\"a, for=192.0.2.9\";for=192.0.2.1", vec!["192.0.2.1"]),
            ("for=\"192.0.2.1:80\"", vec!["192.0.2.1"]),
            ("for=\"\\192.0.2.1\"", vec!["192.0.2.1"]),
            ("for=2001:db8::1", vec!["2001:db8::1"]),
            (", ;for=192.0.2.1;,", vec!["192.0.2.1"]),
            ("", vec![]),
        ] {
            assert_eq!(shown(forwarded(line).unwrap()), hops, "{line}");
        }
        for broken in [
            "for=\"192.0.2.1",
            "for=\"192.0.2.1\\",
            "x=\", for=\"[2001:db8::1]\"",
            "for=192.0.2.1;for=192.0.2.2",
            "for",
            "=192.0.2.1",
            "for =192.0.2.1",
            "for=192.0.2.1 192.0.2.2",
        ] {
            assert_eq!(forwarded(broken), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_harm(line: String) {
            let _ = forwarded(&line);
            prop_assert!(x_forwarded_for(&line).count() <= line.len());
        }
    }
}
