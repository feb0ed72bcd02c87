//! Properties of the parsers for input from clients and proxies; see [`crate::fuzz`].

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::FutureExt;
use poem::http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    api,
    auth::{Identity, access::AccessTokens},
    client_address::{Proxies, forwarded, proxy_protocol},
    credentials,
    server::host as http_host,
    transport::{
        plain,
        polling::SEPARATOR,
        socketio::packet::{Message, Packet},
        websocket::{Broken, Received, WebSocket},
    },
};
use crate::{
    config::ForwardedHeader,
    model::{Timestamp, UserId},
    protocol::{self, Request},
};

/// The longest message in [`frames`].
const MAX_MESSAGE: usize = 4096;
/// Maximum length of an error message, in bytes: it must not repeat the request.
const MAX_ERROR: usize = 900;

/// A peer that sends these bytes, at most `step` at once, and accepts everything written to it.
struct Feed<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl AsyncRead for Feed<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context,
        into: &mut ReadBuf,
    ) -> Poll<io::Result<()>> {
        let length = self.step.min(into.remaining()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(length);
        into.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Feed<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn received(bytes: &[u8], step: usize) -> (Vec<Received>, Broken) {
    let mut socket = WebSocket::new(Feed { bytes, step }, MAX_MESSAGE);
    let mut context = Context::from_waker(Waker::noop());
    let mut all = Vec::new();
    loop {
        match socket.poll_receive(&mut context) {
            Poll::Ready(Ok(one)) => all.push(one),
            Poll::Ready(Err(broken)) => return (all, broken),
            Poll::Pending => panic!("it waits for a peer that is always there"),
        }
        assert!(all.len() <= bytes.len(), "something out of nothing");
    }
}

/// RFC 6455 frames: the result does not depend on how the bytes are split, and no message exceeds the limit.
pub fn frames(input: &[u8]) {
    let whole = received(input, usize::MAX);
    let mut length = 0;
    for one in &whole.0 {
        if let Received::Text(text) = one {
            assert!(text.len() <= MAX_MESSAGE);
            length += text.len();
        }
    }
    assert!(length <= input.len());
    assert_eq!(whole, received(input, 1));
}

/// Engine.IO and Socket.IO packets: a parsed event that is written again parses to the same event.
pub fn engineio(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    for packet in text.split(SEPARATOR) {
        let Ok(Packet::Message(message)) = Packet::parse(packet) else {
            continue;
        };
        let Ok(Message::Event(namespace, event)) = Message::parse(message) else {
            continue;
        };
        assert!(event.attachments <= 10 && namespace.starts_with('/'));
        let data = event.data.map(|data| data.get());
        let name = serde_json::to_string(&event.name).expect("a text");
        let ack = event.ack.map_or_else(String::new, |ack| ack.to_string());
        let rest = data.map_or_else(String::new, |data| format!(",{data}"));
        let again = format!("2{namespace},{ack}[{name}{rest}]");
        match Message::parse(&again) {
            Ok(Message::Event(n, e)) => {
                assert_eq!((n, e.ack, e.name), (namespace, event.ack, event.name));
                assert_eq!(e.data.map(|data| data.get()), data);
            }
            other => panic!("{again} was read as {other:?}"),
        }
    }
}

/// `/ws` frames: an error does not repeat the frame, and accepted fields are not longer than the frame.
pub fn requests(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match plain::parse(text).1 {
        Ok(Request::SendMessage(send)) => {
            assert!(send.body.len() + send.client_msg_id.len() <= text.len());
            if protocol::check_body(&send.body, MAX_MESSAGE).is_ok() {
                assert!((1..=MAX_MESSAGE).contains(&send.body.len()) && !send.body.contains('\0'));
            }
        }
        Ok(Request::React(react)) => {
            if protocol::check_reaction(&react.emoji, true).is_ok() {
                assert!(protocol::check_reaction(&react.emoji, false).is_ok());
            }
        }
        Ok(_) => {}
        Err(error) => assert!(error.message.len() <= MAX_ERROR, "{}", error.message),
    }
}

/// A cursor that is written and parsed again is the same.
pub fn cursors(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(position) = api::notifications::delivery_log::parse_cursor(&text) {
        let (at, message) = (position.at.millis(), position.message.simple());
        let again = format!("{at}_{message}_{}", position.channel);
        let read = api::notifications::delivery_log::parse_cursor(&again);
        assert_eq!(read.expect("it was made of a position"), position);
    }
}

/// A provider's form.
pub fn form(input: &[u8]) -> BTreeMap<String, String> {
    api::callbacks::form(input)
}

/// Forwarded headers have no more hops than elements, and those of an untrusted peer are ignored.
pub fn forwarded(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(64) {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            continue;
        };
        for name in ["x-forwarded-for", "forwarded"] {
            headers.append(HeaderName::from_static(name), value.clone());
        }
    }
    let elements = input.split(|byte| b",\n".contains(byte)).count();
    for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
        assert!(forwarded::hops(header, &headers).len() <= elements);
    }
    let peer = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
    assert_eq!(Proxies::none().client(peer, &headers), peer);
}

/// A PROXY header is read completely, and no byte after it.
pub fn proxy(input: &[u8]) {
    let mut stream = input;
    let read = proxy_protocol::read(&mut stream).now_or_never();
    let read = read.expect("the bytes are there, or their end is");
    let taken = input.len() - stream.len();
    if read.is_ok() {
        let length = usize::from(u16::from_be_bytes([input[14], input[15]]));
        assert_eq!(taken, 16 + length);
    }
}

/// A request's target and `Host`: an accepted request has one host and a path.
pub fn host(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let target = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let mut request = hyper::Request::builder().uri(target);
    for line in lines.take(3) {
        request = request.header("host", line);
    }
    let Ok(request) = request.body(()) else {
        return;
    };
    let (mut head, ()) = request.into_parts();
    if http_host::check(&mut head).is_ok() {
        assert!(head.uri.authority().is_none());
        assert_eq!(head.headers.get_all("host").iter().count(), 1);
    }
}

static TOKENS: LazyLock<AccessTokens> = LazyLock::new(|| {
    AccessTokens::new(
        &b"a secret of at least thirty-two bytes".as_slice().into(),
        Duration::from_secs(900),
    )
});

/// Only a signed token is accepted, and no modification of it.
pub fn jwt(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    assert!(TOKENS.verify(&text).is_err());
    if let Some(token) = credentials::bearer(&text) {
        assert!(text.ends_with(token));
    }
    let who = Identity {
        user: UserId::max(),
        login: UserId::nil(),
    };
    let token = TOKENS.sign(who, Timestamp::now()).expect("it is signed");
    assert_eq!(TOKENS.verify(&token).expect("ours"), who);
    // The input as modifications: positions and bytes, alternating.
    let mut forged = token.clone().into_bytes();
    for change in input.chunks_exact(2) {
        let place = usize::from(change[0]) * forged.len() / 256;
        forged[place] = change[1];
    }
    if forged != token.as_bytes() {
        assert!(TOKENS.verify(&String::from_utf8_lossy(&forged)).is_err());
    }
}
