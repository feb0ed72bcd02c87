//! The client side of WebSocket (RFC 6455) at the lowest cost, so that the generator costs less than the server: one buffer
//! for each connection, frames read in place. Only unfragmented, unmasked frames are understood, as the server sends them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::error::{Result, failed};

/// The initial and the largest size of a read buffer, in bytes.
const INITIAL_BUFFER: usize = 2 * 1024;
const MAX_BUFFER: usize = 64 * 1024 * 1024;
/// Connections from one local address before the next address is used.
const CONNECTIONS_PER_ADDRESS: u32 = 2048;
/// Any 16 bytes, in base64: the server's answer to it is not checked.
const KEY: &str = "Y2hhdCBiZW5jaCBqdWRnZQ==";

/// The reading half.
pub(crate) struct Reader {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
    /// `buffer[taken..filled]` is read and not yet returned.
    taken: usize,
    filled: usize,
}

/// The writing half, with the bytes that the kernel has not taken yet.
pub(crate) struct Writer {
    stream: OwnedWriteHalf,
    out: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Text(&'a [u8]),
    Ping,
    /// The code and reason of a close frame.
    Close(u16, &'a str),
    Other,
}

/// Connects. Connections over the loopback interface come from changing local addresses (127.a.b.n): one address has some
/// 28,000 ephemeral ports, and Linux searches linearly for a free one; with 15,000 in use the search took as long as the
/// rest of a handshake.
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    static CONNECTIONS: AtomicU32 = AtomicU32::new(0);
    if !cfg!(target_os = "linux") || !address.ip().is_loopback() || !address.is_ipv4() {
        return TcpStream::connect(address).await;
    }
    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed) / CONNECTIONS_PER_ADDRESS;
    // The ports of an earlier run stay in TIME_WAIT for a minute, so that a process has addresses of its own.
    let [.., a, b] = std::process::id().to_be_bytes();
    let from = Ipv4Addr::new(127, a, b, (number % 254 + 1) as u8);
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(address).await
}

/// Connects and upgrades. `headers` are further lines, each with its end of line.
///
/// # Errors
/// A failed connection, or an answer other than 101.
pub(crate) async fn connect(
    address: SocketAddr,
    host: &str,
    path: &str,
    headers: &str,
) -> Result<(Reader, Writer)> {
    let mut stream = dial(address).await.map_err(|e| failed("connecting", e))?;
    let _ = stream.set_nodelay(true);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}\r\n"
    );
    let broken = |e: io::Error| failed("the handshake", e);
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut buffer = vec![0; INITIAL_BUFFER];
    let mut filled = 0;
    let head = loop {
        if let Some(end) = memmem::find(&buffer[..filled], b"\r\n\r\n") {
            break end + 4;
        }
        if filled == buffer.len() {
            return Err(failed("the handshake", "the answer is too long"));
        }
        match stream.read(&mut buffer[filled..]).await.map_err(broken)? {
            0 => return Err(failed("the handshake", "the server closed the connection")),
            n => filled += n,
        }
    };
    if !buffer.starts_with(b"HTTP/1.1 101") {
        return Err(failed(
            "the handshake",
            String::from_utf8_lossy(&buffer[..filled]),
        ));
    }
    let (reading, writing) = stream.into_split();
    let reader = Reader {
        stream: reading,
        buffer,
        taken: head,
        filled,
    };
    let writer = Writer {
        stream: writing,
        out: Vec::new(),
    };
    Ok((reader, writer))
}

impl Reader {
    /// Reads once. `false` at the end of the stream. Cancel-safe.
    pub async fn more(&mut self) -> io::Result<bool> {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
        } else if self.filled == self.buffer.len() {
            self.buffer.copy_within(self.taken..self.filled, 0);
            (self.taken, self.filled) = (0, self.filled - self.taken);
        }
        if self.filled == self.buffer.len() {
            if self.filled >= MAX_BUFFER {
                return Err(io::Error::other("a frame is too long"));
            }
            self.buffer.resize(self.filled * 2, 0);
        }
        let read = self.stream.read(&mut self.buffer[self.filled..]).await?;
        self.filled += read;
        Ok(read > 0)
    }

    /// The next complete frame among the bytes that were read.
    pub fn next(&mut self) -> Option<Frame<'_>> {
        let bytes = &self.buffer[self.taken..self.filled];
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (length, head) = match second & 0x7f {
            126 => (
                u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into(),
                4,
            ),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
            short => (short.into(), 2),
        };
        let end = head + usize::try_from(length).ok()?;
        let payload = bytes.get(head..end)?;
        self.taken += end;
        Some(match first & 0x0f {
            1 => Frame::Text(payload),
            8 => Frame::Close(
                payload
                    .first_chunk()
                    .map_or(1005, |code| u16::from_be_bytes(*code)),
                std::str::from_utf8(payload.get(2..).unwrap_or_default()).unwrap_or_default(),
            ),
            9 => Frame::Ping,
            _ => Frame::Other,
        })
    }
}

impl Writer {
    /// Adds a text frame to the bytes to be written.
    pub fn add(&mut self, text: &str) {
        self.frame(0x81, text.as_bytes());
    }

    /// Adds a pong frame.
    pub fn add_pong(&mut self) {
        self.frame(0x8a, b"");
    }

    /// Adds a masked frame (RFC 6455, section 5.3). The mask is zero, which leaves the payload unchanged.
    fn frame(&mut self, first: u8, payload: &[u8]) {
        self.out.push(first);
        match payload.len() {
            short @ ..126 => self.out.push(0x80 | short as u8),
            middle @ ..0x1_0000 => {
                self.out.push(0x80 | 126);
                self.out.extend((middle as u16).to_be_bytes());
            }
            long => {
                self.out.push(0x80 | 127);
                self.out.extend((long as u64).to_be_bytes());
            }
        }
        self.out.extend([0; 4]);
        self.out.extend(payload);
    }

    /// Writes as much as the kernel takes without blocking. `true` once all of it is written.
    pub fn try_write(&mut self) -> io::Result<bool> {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(written) => {
                    self.out.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Writes all of it, waiting for the kernel.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }
}
