//! Validates the client's half of the WebSocket handshake (RFC 6455, section 4.2.1) and its credentials. No I/O.

use base64::{Engine, engine::general_purpose::STANDARD};
use poem::{
    Request, Response,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header},
};

use crate::error::Error;

const KEY: HeaderName = header::SEC_WEBSOCKET_KEY;
const VERSION: HeaderName = header::SEC_WEBSOCKET_VERSION;

/// Why a handshake is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum Refused {
    /// Not version 13: answered with 426 and the supported version (RFC 6455, section 4.4).
    Version,
    /// Not a valid WebSocket handshake, with the reason.
    Malformed(&'static str),
}

impl Refused {
    /// The error for the client.
    pub fn error(self) -> Error {
        Error::malformed(match self {
            Refused::Version => {
                "this is a WebSocket endpoint of version 13: send Sec-WebSocket-Version: 13"
                    .to_owned()
            }
            Refused::Malformed(wrong) => {
                format!(
                    "this is a WebSocket endpoint, and the handshake is not one of RFC 6455: {wrong}"
                )
            }
        })
    }

    /// Adds the status and headers of a rejected version to `response`, whose body holds the error: RFC 9110, section
    /// 15.5.22 requires the protocol in the answer, RFC 6455, section 4.4 the version.
    pub fn mark(self, response: &mut Response) {
        if self == Refused::Version {
            response.set_status(StatusCode::UPGRADE_REQUIRED);
            let headers = response.headers_mut();
            headers.insert(VERSION, HeaderValue::from_static("13"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        }
    }
}

/// The `Sec-WebSocket-Key` of a valid handshake.
///
/// # Errors
/// The first violated rule.
pub(in crate::edge) fn key(request: &Request) -> Result<&HeaderValue, Refused> {
    check(request.method(), request.version(), request.headers())
}

fn check<'a>(
    method: &Method,
    version: Version,
    headers: &'a HeaderMap,
) -> Result<&'a HeaderValue, Refused> {
    if method != Method::GET {
        return Err(Refused::Malformed("the method must be GET"));
    }
    if version != Version::HTTP_11 {
        return Err(Refused::Malformed("the version must be HTTP/1.1"));
    }
    if !has_token(headers, &header::UPGRADE, "websocket") {
        return Err(Refused::Malformed("send Upgrade: websocket"));
    }
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(Refused::Malformed("send Connection: Upgrade"));
    }
    let mut versions = headers.get_all(VERSION).iter();
    if versions.next().is_none_or(|version| version != "13") || versions.next().is_some() {
        return Err(Refused::Version);
    }
    let mut keys = headers.get_all(KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key) => Ok(key),
        _ => Err(Refused::Malformed(
            "send one Sec-WebSocket-Key: 16 bytes in base64",
        )),
    }
}

/// Whether the header is a list that contains this token, ignoring case (RFC 9110, section 5.6.1).
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let items = value.as_bytes().split(|byte| *byte == b',');
        items
            .map(<[u8]>::trim_ascii)
            .any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
    })
}

fn is_key(key: &HeaderValue) -> bool {
    let mut nonce = [0; 18];
    matches!(STANDARD.decode_slice(key.as_bytes(), &mut nonce), Ok(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn judge(headers: &[(&str, &str)]) -> Result<(), Refused> {
        judge_as(&Method::GET, Version::HTTP_11, headers)
    }

    fn judge_as(
        method: &Method,
        version: Version,
        headers: &[(&str, &str)],
    ) -> Result<(), Refused> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        check(method, version, &map).map(drop)
    }

    /// The valid handshake with this header replaced.
    fn with(name: &str, values: &[&str]) -> Result<(), Refused> {
        let mut headers: Vec<(&str, &str)> = GOOD.to_vec();
        headers.retain(|(known, _)| *known != name);
        headers.extend(values.iter().map(|value| (name, *value)));
        judge(&headers)
    }

    #[test]
    fn a_handshake_keeps_every_rule() {
        assert_eq!(judge(&GOOD), Ok(()));
        for good in [
            "keep-alive, Upgrade",
            "UPGRADE",
            "keep-alive,upgrade ,x",
            "\tupgrade",
        ] {
            assert_eq!(with("connection", &[good]), Ok(()), "{good}");
        }
        assert_eq!(with("connection", &["keep-alive", "upgrade"]), Ok(()));
        for good in ["WebSocket", "h2c, websocket"] {
            assert_eq!(with("upgrade", &[good]), Ok(()), "{good}");
        }
        let malformed = |judged| matches!(judged, Err(Refused::Malformed(_)));
        for bad in ["keep-alive", "upgraded", "upgrade;q=1", ""] {
            assert!(malformed(with("connection", &[bad])), "{bad}");
        }
        for bad in ["h2c", "websockets", ""] {
            assert!(malformed(with("upgrade", &[bad])), "{bad}");
        }
        for name in ["connection", "upgrade", "sec-websocket-key"] {
            assert!(malformed(with(name, &[])), "{name}");
        }
        for bad in [
            "",
            "x",
            "dGhlIHNhbXBsZSBub25j",
            "dGhlIHNhbXBsZSBub25jZTE=",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ==, x",
            "dGhl-HNhbXBsZSBub25jZQ==",
        ] {
            assert!(malformed(with("sec-websocket-key", &[bad])), "{bad}");
        }
        let key = GOOD[3].1;
        assert!(malformed(with("sec-websocket-key", &[key, key])));
        for bad in [&[][..], &["12"], &["13, 8"], &["13", "13"], &[""]] {
            assert_eq!(
                with("sec-websocket-version", bad),
                Err(Refused::Version),
                "{bad:?}"
            );
        }
        assert!(malformed(judge_as(&Method::POST, Version::HTTP_11, &GOOD)));
        assert!(malformed(judge_as(&Method::GET, Version::HTTP_10, &GOOD)));
    }
}
