//! A server that only moves bytes. One port is served by poem: `/static` answers with a page from memory, `/ws` upgrades
//! to a WebSocket that drops what it receives. The next port is served by plain tokio sockets: for every text that one of
//! them receives, a constant frame is written to all sockets of its room.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use bytes::Bytes;
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use poem::{
    EndpointExt, Route, Server, get, handler, http::StatusCode, listener::TcpAcceptor, web::Data,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use crate::error::{Error, Result, failed};

#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// The port of poem on 127.0.0.1; the plain sockets are one port above.
    #[arg(long, default_value_t = 3900)]
    pub port: u16,
    /// The answer of `/static`; see `chat bench history --page`.
    #[arg(long, value_name = "FILE")]
    pub page: Option<PathBuf>,
    /// Bytes of the constant frame.
    #[arg(long, default_value_t = 500)]
    pub frame: usize,
    /// Rooms: connection number n is in room n % rooms.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
}

/// Serves until the process is stopped.
///
/// # Errors
/// A port that is in use.
pub async fn run(serve: &Serve) -> Result<()> {
    let page = match &serve.page {
        Some(file) => std::fs::read(file)
            .map_err(|e| Error::argument("--page", format!("{}: {e}", file.display())))?,
        None => vec![b'x'; 20_000],
    };
    let app = Route::new()
        .at("/static", get(page_from_memory))
        .at("/ws", get(upgrade))
        .data(Bytes::from(page));
    let listener = listen(serve.port).map_err(|e| failed("poem", e))?;
    let acceptor = TcpAcceptor::from_tokio(listener).map_err(|e| failed("poem", e))?;
    let http = Server::new_with_acceptor(acceptor).run(app);
    tokio::select! {
        ended = http => ended.map_err(|e| failed("poem", e)),
        ended = sockets(serve) => ended.map_err(|e| failed("the plain sockets", e)),
    }
}

/// Listens with the accept backlog of an edge.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    socket.listen(4096)
}

#[handler]
fn page_from_memory(page: Data<&Bytes>) -> poem::Response {
    poem::Response::builder()
        .content_type("application/json")
        .body(page.0.clone())
}

#[handler]
async fn upgrade(request: &poem::Request) -> poem::Response {
    let (Some(key), Ok(stream)) = (request.header("sec-websocket-key"), request.take_upgrade())
    else {
        return StatusCode::BAD_REQUEST.into();
    };
    tokio::spawn(async move {
        let Ok(stream) = stream.await else { return };
        let config = WebSocketConfig::default().read_buffer_size(1024);
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config));
        let (mut sink, mut source) = socket.await.split();
        while let Some(Ok(_)) = source.next().await {}
        let _ = sink.close().await;
    });
    poem::Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("upgrade", "websocket")
        .header("connection", "Upgrade")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
        .finish()
}

/// The sockets of a room. Each message on a channel is one frame to write.
type Room = Mutex<Vec<mpsc::UnboundedSender<()>>>;

async fn sockets(serve: &Serve) -> std::io::Result<()> {
    let listener = listen(serve.port + 1)?;
    let rooms: Arc<[Room]> = (0..serve.rooms).map(|_| Room::default()).collect();
    let frame: Arc<[u8]> = frame(serve.frame).into();
    let mut number = 0;
    loop {
        let (stream, _) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        let (rooms, frame, room) = (rooms.clone(), frame.clone(), number % rooms.len());
        number += 1;
        tokio::spawn(async move {
            let _ = socket(stream, &rooms[room], &frame).await;
        });
    }
}

/// A `newMessage` as a WebSocket frame, padded to about so many bytes.
fn frame(bytes: usize) -> Vec<u8> {
    let text = format!(
        "{{\"event\":\"newMessage\",\"data\":\"{}\"}}",
        "x".repeat(bytes.saturating_sub(35))
    );
    let mut frame = vec![0x81, 126];
    frame.extend((text.len().min(65_535) as u16).to_be_bytes());
    frame.extend(&text.as_bytes()[..text.len().min(65_535)]);
    frame
}

async fn socket(mut stream: TcpStream, room: &Room, frame: &[u8]) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(1024);
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        .await?;
    let (member, mut frames) = mpsc::unbounded_channel();
    room.lock().push(member);
    let (mut reading, mut writing) = stream.into_split();
    let mut out = Vec::new();
    let mut received = Reassembly::default();
    loop {
        tokio::select! {
            Some(()) = frames.recv() => {
                out.extend_from_slice(frame);
                // One write for all waiting frames, up to 64 KiB.
                while out.len() < 64 * 1024 && frames.try_recv().is_ok() {
                    out.extend_from_slice(frame);
                }
                writing.write_all(&out).await?;
                out.clear();
            }
            texts = received.texts(&mut reading) => {
                for _ in 0..texts? {
                    room.lock().retain(|member| member.send(()).is_ok());
                }
            }
        }
    }
}

/// Counts received frames of any content.
#[derive(Default)]
struct Reassembly {
    bytes: Vec<u8>,
}

impl Reassembly {
    /// Reads once, and returns the number of frames that are complete. Cancel-safe.
    async fn texts(
        &mut self,
        reading: &mut tokio::net::tcp::OwnedReadHalf,
    ) -> std::io::Result<u32> {
        if reading.read_buf(&mut self.bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut texts) = (0, 0);
        while let Some(end) = self.end(at) {
            at = end;
            texts += 1;
        }
        self.bytes.drain(..at);
        Ok(texts)
    }

    /// The end of the masked frame that begins at `at`, if the frame is complete.
    fn end(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..)?;
        let (length, head) = match bytes.get(1)? & 0x7f {
            126 => (
                usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
                8,
            ),
            127 => (
                u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize,
                14,
            ),
            short => (usize::from(short), 6),
        };
        (bytes.len() >= head + length).then_some(at + head + length)
    }
}
