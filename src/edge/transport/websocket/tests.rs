//! Tests against tungstenite as the client, over streams that pass a few bytes at a time, and with frames that clients
//! must not send.

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{
            CloseFrame, Role,
            frame::{
                Frame as OtherFrame,
                coding::{Data, OpCode},
            },
        },
    },
};

use super::*;

const MAX: usize = 100_000;

/// A server socket, and a client at the other end of a pipe with a buffer of `room` bytes.
async fn pair(room: usize) -> (WebSocket<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (ours, theirs) = duplex(room);
    let client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    (WebSocket::new(ours, MAX), client)
}

#[expect(clippy::ptr_arg, reason = "items are rendered by what they are")]
fn render(text: &String) -> Utf8Bytes {
    text.as_str().into()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("nothing came in time")
}

/// A client's frame: masked, with any first byte.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame_into(&mut bytes, 0, payload);
    bytes[0] = first;
    bytes[1] |= 0x80;
    let head = bytes.len() - payload.len();
    let mask = [7, 0, 255, 42];
    for (at, byte) in bytes[head..].iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    bytes.splice(head..head, mask);
    bytes
}

/// The messages that the server receives from these bytes.
async fn received_from(bytes: &[u8]) -> Vec<Result<Received, Broken>> {
    let (ours, mut theirs) = duplex(MAX * 2);
    let mut socket = WebSocket::new(ours, MAX);
    theirs.write_all(bytes).await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut all = Vec::new();
    loop {
        let received = soon(socket.receive()).await;
        let end = received.is_err();
        all.push(received);
        if end {
            return all;
        }
    }
}

#[tokio::test]
async fn every_length_survives_both_ways_in_pieces() {
    for room in [1, 7, 1000, 1 << 20] {
        let lengths: &[usize] = match room {
            1 => &[0, 1, 125, 126, 300],
            _ => &[0, 1, 125, 126, 4000, 8192, 65_535, 65_536, MAX],
        };
        let (mut ours, mut client) = pair(room).await;
        let echo = tokio::spawn(async move {
            while let Ok(Received::Text(text)) = ours.receive().await {
                let mut items = VecDeque::from([text.as_str().to_owned(), "and".to_owned()]);
                ours.write(&mut items, render).await.unwrap();
            }
        });
        for length in lengths {
            let text: String = "aé€🦀".chars().cycle().take(length / 3).collect();
            soon(client.send(Message::text(&text))).await.unwrap();
            for expected in [text.as_str(), "and"] {
                let back = soon(client.next()).await.unwrap().unwrap();
                assert!(back == Message::text(expected), "{length} through {room}");
            }
        }
        drop(client);
        soon(echo).await.unwrap();
    }
}

#[tokio::test]
async fn fragments_are_one_message_and_pings_between_them_are_answered() {
    let (mut ours, mut client) = pair(1 << 16).await;
    let part = |text: &'static str, code, last| {
        Message::Frame(OtherFrame::message(
            text.as_bytes(),
            OpCode::Data(code),
            last,
        ))
    };
    client.feed(part("one ", Data::Text, false)).await.unwrap();
    client.feed(Message::Ping("?".into())).await.unwrap();
    client
        .feed(part("two ", Data::Continue, false))
        .await
        .unwrap();
    client
        .feed(part("three", Data::Continue, true))
        .await
        .unwrap();
    client.feed(Message::binary(&b"\0"[..])).await.unwrap();
    client.flush().await.unwrap();
    let mut all = Vec::new();
    while !matches!(all.last(), Some(Received::Binary)) {
        all.push(soon(ours.receive()).await.unwrap());
    }
    all.retain(|received| *received != Received::Nothing);
    assert_eq!(
        all,
        [Received::Text("one two three".into()), Received::Binary]
    );
    assert_eq!(
        soon(client.next()).await.unwrap().unwrap(),
        Message::Pong("?".into())
    );
}

#[tokio::test]
async fn unread_pongs_take_no_memory() {
    let (ours, mut theirs) = duplex(64);
    let mut socket = WebSocket::new(ours, MAX);
    for number in 0..100u8 {
        theirs
            .write_all(&masked(0x89, &[number; 40]))
            .await
            .unwrap();
        assert_eq!(soon(socket.receive()).await, Ok(Received::Nothing));
    }
    assert!(socket.unsent.len() <= 42, "{}", socket.unsent.len());
    drop(tokio::spawn(async move { socket.receive().await }));
    let mut answers = Vec::new();
    while !answers.ends_with(&[99; 40]) {
        assert_ne!(soon(theirs.read_buf(&mut answers)).await.unwrap(), 0);
    }
    assert!(answers.len() < 5 * 42, "the last one counts");
}

#[tokio::test]
async fn pings_of_ours_wait_behind_a_write_one_at_a_time_and_never_inside_a_frame() {
    let (mut ours, mut client) = pair(100).await;
    let mut items = VecDeque::from(["x".repeat(1000)]);
    assert!(ours.write(&mut items, render).now_or_never().is_none());
    let before = ours.sent();
    assert!(before > 0 && ours.has_unsent());
    for _ in 0..1000 {
        ours.ping();
        assert!(ours.receive().now_or_never().is_none());
    }
    assert!(ours.unsent.len() < 1010, "{}", ours.unsent.len());
    assert_eq!(ours.sent(), before, "nothing was read");
    drop(tokio::spawn(async move { ours.receive().await }));
    let text = soon(client.next()).await.unwrap().unwrap();
    assert_eq!(text, Message::text("x".repeat(1000)));
    let ping = soon(client.next()).await.unwrap().unwrap();
    assert_eq!(ping, Message::Ping("".into()));
    assert!(client.next().now_or_never().is_none(), "one is enough");
}

#[tokio::test]
async fn either_side_can_close_the_connection() {
    let (mut ours, mut client) = pair(1 << 16).await;
    let goodbye = CloseFrame {
        code: 4000.into(),
        reason: "enough".into(),
    };
    client.close(Some(goodbye)).await.unwrap();
    assert_eq!(soon(ours.receive()).await, Err(Broken::Gone));
    let answer = soon(client.next()).await.unwrap().unwrap();
    assert!(matches!(answer, Message::Close(Some(frame)) if frame.code == 4000.into()));

    let (mut ours, mut client) = pair(1 << 16).await;
    client
        .send(Message::text("not read any more"))
        .await
        .unwrap();
    let closing = tokio::spawn(async move { ours.close(1012, &"ü".repeat(100)).await });
    let goodbye = soon(client.next()).await.unwrap().unwrap();
    let Message::Close(Some(frame)) = goodbye else {
        panic!("{goodbye:?}");
    };
    assert_eq!(frame.code, 1012.into());
    assert_eq!(frame.reason.as_str(), "ü".repeat(61));
    assert!(soon(client.next()).await.is_none(), "one goodbye is enough");
    soon(closing).await.unwrap();
}

#[tokio::test]
async fn a_write_that_is_given_up_leaves_no_half_frame() {
    let (mut ours, mut client) = pair(100).await;
    let mut items: VecDeque<String> = (0..200).map(|n| format!("{n:0>400}")).collect();
    assert!(ours.write(&mut items, render).now_or_never().is_none());
    let left = items.len();
    assert!(left > 0);
    let closing = tokio::spawn(async move { ours.close(4008, "slow").await });
    let mut whole = 0;
    loop {
        match soon(client.next()).await.unwrap().unwrap() {
            Message::Text(text) => assert_eq!(text.as_str(), format!("{whole:0>400}")),
            Message::Close(Some(frame)) => break assert_eq!(frame.code, 4008.into()),
            other => panic!("{other:?}"),
        }
        whole += 1;
    }
    assert_eq!(whole, 200 - left);
    drop(client);
    soon(closing).await.unwrap();
}

#[tokio::test]
async fn an_idle_socket_holds_no_buffer() {
    let (mut ours, mut client) = pair(1 << 20).await;
    client.send(Message::text("x".repeat(5000))).await.unwrap();
    client.send(Message::Ping("?".into())).await.unwrap();
    soon(ours.receive()).await.unwrap();
    soon(ours.receive()).await.unwrap();
    let mut items = VecDeque::from(["y".repeat(50_000)]);
    ours.write(&mut items, render).await.unwrap();
    assert!(ours.receive().now_or_never().is_none());
    assert_eq!((ours.reading.capacity(), ours.unsent.capacity()), (0, 0));
    assert!(ours.fragments.is_none() && ours.pong.is_none());
}

#[tokio::test]
async fn forbidden_frames_end_the_connection() {
    let unmasked = b"\x81\x01a".to_vec();
    let short_close = masked(0x88, b"\x03");
    let reserved_code = masked(0x88, &1005u16.to_be_bytes());
    let bad_reason = masked(0x88, b"\x03\xe8\xff");
    let continued = masked(0x80, b"of nothing");
    let interrupted = [masked(0x01, b"a"), masked(0x81, b"b")].concat();
    let cases: [(&str, Vec<u8>); 10] = [
        ("unmasked", unmasked),
        ("reserved bit", masked(0xc1, b"a")),
        ("unknown data frame", masked(0x83, b"a")),
        ("unknown control frame", masked(0x8b, b"a")),
        ("fragmented ping", masked(0x09, b"a")),
        ("long ping", masked(0x89, &[0; 126])),
        ("close of one byte", short_close),
        ("close with a reserved code", reserved_code),
        ("continuation of nothing", continued),
        ("message within a message", interrupted),
    ];
    for (name, bytes) in cases {
        let last = received_from(&bytes).await.pop().unwrap();
        assert_eq!(last, Err(Broken::Protocol), "{name}");
    }
    for not_text in [masked(0x81, b"\xff"), bad_reason] {
        assert_eq!(received_from(&not_text).await, [Err(Broken::NotUtf8)]);
    }
    assert_eq!(received_from(b"\x81").await, [Err(Broken::Gone)]);
    assert_eq!(received_from(&masked(0x88, b"")).await, [Err(Broken::Gone)]);
}

#[tokio::test]
async fn oversized_messages_end_the_connection_before_they_are_read() {
    let head = |length: u64| [&[0x81, 0xff][..], &length.to_be_bytes()].concat();
    for length in [MAX as u64 + 1, u64::MAX] {
        assert_eq!(
            received_from(&head(length)).await,
            [Err(Broken::TooLong(MAX))]
        );
    }
    let half = vec![b'x'; MAX / 2 + 1];
    let both = [masked(0x01, &half), masked(0x80, &half)].concat();
    let expected = [Ok(Received::Nothing), Err(Broken::TooLong(MAX))];
    assert_eq!(received_from(&both).await, expected);
}
