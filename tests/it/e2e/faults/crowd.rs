//! A room of a thousand sockets of which a hundred stop reading and one reads a byte per second: they are closed and
//! can resume, the edges' memory stays bounded, and the latency of the others is not affected.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt, stream};
use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    time::interval,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};
use uuid::Uuid;

use crate::harness::{Chat, Kind, Socket, User, eventually, load::Load, process::Process};

const FAST: usize = 900;
const SLOW: usize = 100;
/// Between two messages.
const PACE: Duration = Duration::from_millis(150);
const BODY: usize = 4000;
/// Well below the server's close timeout of five seconds, counted from when the test observes the first close.
const HEARS_WITHIN: Duration = Duration::from_secs(2);
/// Far more than fits into the buffers on the way to a slow reader.
const MAX_SAID: usize = 150;

type Stream = WebSocketStream<TcpStream>;

/// Finds a field without parsing the message: this test reads hundreds of thousands.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let at = text.find(name)? + name.len();
    let rest = &text[at..];
    rest.split([',', '"', '}']).next()
}

fn seq(text: &str) -> Option<i64> {
    field(text, "\"seq\":")?.parse().ok()
}

/// Opens a socket that is live in the room, cheaper than [`Socket`].
async fn join(
    chat: &Chat,
    edge: usize,
    user: &User,
    room: Uuid,
    receive_buffer: Option<u32>,
) -> Stream {
    let url = format!("{}/ws", chat.edge(edge).url().replacen("http", "ws", 1));
    let mut request = url.into_client_request().expect("a URL");
    let token = format!("Bearer {}", user.access);
    let headers = request.headers_mut();
    headers.insert("authorization", token.parse().expect("a header"));
    let address = request.uri().authority().expect("an address").to_string();
    let socket = TcpSocket::new_v4().expect("a socket");
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).expect("a buffer size");
    }
    let address = address.parse().expect("an IP address and a port");
    let tcp = socket.connect(address).await.expect("a connection");
    let (mut stream, _) = client_async(request, tcp).await.expect("a handshake");
    let ask = json!({"id": 1, "event": "joinRoom", "data": {"room": room}}).to_string();
    stream.send(Message::text(ask)).await.expect("sent");
    while let Some(Ok(message)) = stream.next().await {
        if let Message::Text(text) = message
            && text.contains("\"ack\":1")
        {
            assert!(text.contains("\"hasMore\":false"), "{text}");
            return stream;
        }
    }
    panic!("it ended before it was in the room");
}

/// When each message was sent, and its latency for each reader.
#[derive(Default)]
struct Times {
    sent: Vec<Instant>,
    took: Vec<Vec<Duration>>,
}

/// Reads until the socket ends; asserts the order of the messages.
async fn read(mut stream: Stream, times: Arc<Mutex<Times>>) {
    let mut last = None;
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        if !text.starts_with("{\"event\":\"newMessage\"") {
            continue;
        }
        let seq = seq(&text).expect("a number");
        assert!(
            last.is_none_or(|last| seq == last + 1),
            "{seq} after {last:?}"
        );
        last = Some(seq);
        let number = field(&text, "\"clientMsgId\":\"").and_then(|n| n.parse::<usize>().ok());
        let mut times = times.lock().expect("no reader failed");
        let number = number.expect("a number");
        let took = times.sent[number].elapsed();
        times.took[number].push(took);
    }
}

/// The p50 and p99 latencies of messages `from..upto`, once every reader has received them.
async fn latency(times: &Mutex<Times>, from: usize, upto: usize) -> [Duration; 2] {
    eventually("every reader to receive every message", || async {
        let times = times.lock().expect("no reader failed");
        let missing = times.took[from..upto].iter().any(|took| took.len() < FAST);
        (!missing).then_some(())
    })
    .await;
    let times = times.lock().expect("no reader failed");
    let mut all: Vec<Duration> = times.took[from..upto].iter().flatten().copied().collect();
    all.sort_unstable();
    [all[all.len() / 2], all[all.len() * 99 / 100]]
}

/// Resident memory of all edges, in MiB.
fn memory(chat: &Chat) -> u64 {
    let of = |edge: &Process| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", edge.pid()));
        let status = status.expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("a number") / 1024
    };
    chat.edges.iter().map(of).sum()
}

async fn slow_readers_closed(chat: &Chat) -> usize {
    let mut slow = 0;
    for edge in 0..chat.edges.len() {
        let metrics = chat.rest(edge).get("/metrics").await.text;
        let mut lines = metrics.lines();
        let count = lines.find_map(|line| line.strip_prefix("chat_slow_readers_closed_total "));
        let count = count.and_then(|count| count.parse::<usize>().ok());
        slow += count.expect("a count");
    }
    slow
}

/// Sends one message every [`PACE`].
async fn talk(socket: Arc<Socket>, room: Uuid, times: Arc<Mutex<Times>>, enough: Arc<AtomicBool>) {
    let (mut ticks, body) = (interval(PACE), ".".repeat(BODY));
    while !enough.load(Ordering::Relaxed) {
        ticks.tick().await;
        let number = {
            let mut times = times.lock().expect("no reader failed");
            times.sent.push(Instant::now());
            times.took.push(Vec::new());
            times.sent.len() - 1
        };
        let data = json!({"room": room, "body": body, "clientMsgId": number.to_string()});
        let ack = socket.send("sendMessage", data).await.ack().await;
        ack.expect("accepted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_slow_readers_do_not_delay_a_room_of_a_thousand() {
    slow_readers_in_a_large_room(Kind::Standalone).await;
}

/// Half of the sockets on each of two edges.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_slow_readers_do_not_delay_a_room_on_two_edges() {
    slow_readers_in_a_large_room(Kind::Cluster).await;
}

async fn slow_readers_in_a_large_room(kind: Kind) {
    let chat = Load::plan(kind)
        .set("edge.send_queue_bytes", 152_000)
        .set("edge.max_body_bytes", BODY)
        .set("edge.max_sockets_per_user", FAST + SLOW + 10)
        .start()
        .await;
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room = chat.room(&ada, "public", &[&bob]).await;
    let talker = Arc::new(chat.connect(0, &bob).await);
    let enter = |buffer: Option<u32>| {
        let (chat, ada) = (&chat, &ada);
        stream::iter(0..if buffer.is_some() { SLOW + 1 } else { FAST })
            .map(move |i| join(chat, i, ada, room, buffer))
            .buffer_unordered(32)
    };
    let slow: Vec<Stream> = enter(Some(4096)).collect().await;
    let fast: Vec<Stream> = enter(None).collect().await;
    let (times, enough) = (Arc::<Mutex<Times>>::default(), Arc::<AtomicBool>::default());
    // The slow readers read at first.
    let reading = Arc::new(AtomicBool::new(true));
    let readers: Vec<_> = fast
        .into_iter()
        .map(|s| tokio::spawn(read(s, times.clone())))
        .collect();
    let mut dawdlers = Vec::new();
    for (i, stream) in slow.into_iter().enumerate() {
        dawdlers.push(tokio::spawn(read_slowly(stream, reading.clone(), i == 0)));
    }
    let talking = tokio::spawn(talk(talker, room, times.clone(), enough.clone()));
    let said = || times.lock().expect("no reader failed").sent.len();
    let reaches = async |goal: usize| {
        eventually("more messages", || async { (said() >= goal).then_some(()) }).await;
    };
    reaches(30).await;
    let before = latency(&times, 10, 30).await;
    let memory_before = memory(&chat);

    reading.store(false, Ordering::Relaxed);
    let from = said();
    let first = OnceLock::new();
    eventually("the slow readers to be closed", || async {
        let closed = slow_readers_closed(&chat).await;
        if closed > 0 {
            first.get_or_init(Instant::now);
        }
        (closed > SLOW || said() > from + MAX_SAID).then_some(())
    })
    .await;
    assert_eq!(slow_readers_closed(&chat).await, SLOW + 1);
    let upto = said();
    let memory_after = memory(&chat);
    // Resume reading at once: after the close timeout of five seconds the server drops the connection with what is
    // unread.
    reading.store(true, Ordering::Relaxed);
    let at_once = first
        .get()
        .is_some_and(|first| first.elapsed() < HEARS_WITHIN);
    let during = latency(&times, from, upto).await;
    let (mut told, mut lasts) = (0, Vec::new());
    for dawdler in dawdlers {
        let (code, last) = dawdler.await.expect("it reads on");
        // A reader that needs more than five seconds gets no close code.
        assert!([Some(4008), None].contains(&code), "{code:?}");
        told += usize::from(code.is_some());
        lasts.push(last);
    }
    enough.store(true, Ordering::Relaxed);
    talking.await.expect("all were accepted");
    let after = latency(&times, upto, said()).await;
    assert_eq!(
        slow_readers_closed(&chat).await,
        SLOW + 1,
        "no other reader was closed"
    );
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    eprintln!(
        "p50 and p99 of {FAST} readers: {before:.0?} before, {during:.0?} while {SLOW} stood still ({} messages), \
         {after:.0?} after; the edges' memory {memory_before} MiB, then {memory_after} MiB; {told} received 4008",
        upto - from
    );
    assert!(
        told > 0 || !at_once,
        "no slow reader received the close code"
    );
    // Loose, because machines may be busy; the printed figures are the measurement.
    assert!(
        during[0] < before[0] * 5 + Duration::from_millis(250),
        "{before:?}, then {during:?}"
    );
    assert!(
        memory_after < memory_before + 64,
        "{memory_before}, then {memory_after} MiB"
    );

    // Some of them resume after their last message.
    let head = said() as i64;
    let back = chat.connect(1, &ada).await;
    for last in lasts.into_iter().take(5) {
        let (mut position, mut got) = (last, Vec::new());
        loop {
            let joined = back.join(room, Some(position)).await.expect("a page");
            got.extend(crate::e2e::people::seqs(&joined["messages"]));
            position = joined["seq"].as_i64().expect("a number");
            if joined["hasMore"] == json!(false) {
                break;
            }
        }
        assert_eq!(got, (last + 1..=position).collect::<Vec<_>>());
        assert!(position > head);
    }
}

/// Reads while `reading` is set, otherwise nothing or a byte per second, then on to the end. Returns the close code and
/// the number of the last message received.
async fn read_slowly(
    mut stream: Stream,
    reading: Arc<AtomicBool>,
    byte_by_byte: bool,
) -> (Option<u16>, i64) {
    let mut last = 0;
    let mut ticks = interval(Duration::from_millis(20));
    let (mut byte, mut seconds) = ([0], interval(Duration::from_secs(1)));
    let mut was_slow = false;
    loop {
        while !reading.load(Ordering::Relaxed) {
            was_slow = true;
            if byte_by_byte {
                seconds.tick().await;
                // Reads past the WebSocket decoder: the stream is unusable afterwards.
                if stream.get_mut().read(&mut byte).await.is_err() {
                    return (None, last);
                }
            } else {
                ticks.tick().await;
            }
        }
        if was_slow && byte_by_byte {
            return (None, last);
        }
        let message = tokio::select! {
            message = stream.next() => message,
            _ = ticks.tick() => continue,
        };
        match message {
            Some(Ok(Message::Text(text))) => last = seq(&text).unwrap_or(last),
            Some(Ok(Message::Close(frame))) => return (frame.map(|frame| frame.code.into()), last),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return (None, last),
        }
    }
}
