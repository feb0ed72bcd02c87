//! The server's half of a WebSocket (RFC 6455), without extensions. No buffer is kept between messages: reads go
//! through the stack, writes through one buffer per thread, and only incomplete frames stay with the socket. An idle
//! socket costs its struct.

#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    collections::VecDeque,
    future::poll_fn,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Bytes per read.
const READ: usize = 8 * 1024;
/// Bytes buffered before a write; the last frame may exceed it.
const WRITE: usize = 32 * 1024;
/// Maximum payload of a control frame in bytes, including a close frame's code and reason (RFC 6455, 5.5).
const MAX_CONTROL: usize = 125;

/// After a protocol violation, the peer must be quiet this long before the connection is closed.
const QUIET: Duration = Duration::from_millis(500);

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A message from the peer.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::edge) enum Received {
    Text(Utf8Bytes),
    Binary,
    /// A control frame or an incomplete message: no action needed.
    Nothing,
}

/// Why nothing more can be received.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::edge) enum Broken {
    /// The connection is closed.
    Gone,
    /// A message exceeds the limit, given in bytes.
    TooLong(usize),
    /// A frame violates RFC 6455.
    Protocol,
    /// A text is not UTF-8.
    NotUtf8,
}

impl From<std::io::Error> for Broken {
    fn from(_: std::io::Error) -> Self {
        Broken::Gone
    }
}

pub(in crate::edge) struct WebSocket<S> {
    stream: S,
    max_message: usize,
    /// Bytes read, and the offset of the first unconsumed one.
    reading: Vec<u8>,
    taken: usize,
    /// A message whose last fragment has not arrived.
    fragments: Option<Box<Fragments>>,
    /// Framed bytes that the kernel has not taken yet.
    unsent: Vec<u8>,
    /// The pong for the latest ping, if not yet framed.
    pong: Option<Box<[u8]>>,
    /// Whether a ping of the server is waiting to be framed.
    ping: bool,
    /// Total bytes that the kernel has taken.
    sent: u64,
    /// A protocol violation: further input cannot be parsed.
    lost: bool,
    /// The server's close frame has been queued.
    closing: bool,
    /// The stream took bytes that the kernel has not: a TLS record.
    flushing: bool,
}

struct Fragments {
    text: bool,
    payload: Vec<u8>,
}

/// A complete frame at the start of the unconsumed bytes.
struct FrameHeader {
    last: bool,
    opcode: u8,
    mask: [u8; 4],
    /// The payload's range.
    from: usize,
    to: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// For a stream after its handshake; messages from the peer may have up to `max_message` bytes.
    pub fn new(stream: S, max_message: usize) -> Self {
        WebSocket {
            stream,
            max_message,
            reading: Vec::new(),
            taken: 0,
            fragments: None,
            unsent: Vec::new(),
            pong: None,
            ping: false,
            sent: 0,
            lost: false,
            closing: false,
            flushing: false,
        }
    }

    // ---- reading

    /// The next message from the peer. Pings and close frames are answered here. Cancel-safe.
    pub async fn receive(&mut self) -> Result<Received, Broken> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// As [`WebSocket::receive`]. Also retries pending writes, without waiting for them.
    pub fn poll_receive(&mut self, cx: &mut Context) -> Poll<Result<Received, Broken>> {
        let received = ready!(self.poll_received(cx));
        self.lost |= matches!(
            received,
            Err(Broken::TooLong(_) | Broken::Protocol | Broken::NotUtf8)
        );
        Poll::Ready(received)
    }

    fn poll_received(&mut self, cx: &mut Context) -> Poll<Result<Received, Broken>> {
        if self.has_unsent()
            && let Poll::Ready(sent) = self.poll_unsent(cx)
        {
            sent?;
        }
        loop {
            if let Some(frame) = self.frame()? {
                return self.take(&frame, cx).into();
            }
            self.reading.drain(..std::mem::take(&mut self.taken));
            if ready!(self.poll_more(cx))? == 0 {
                return Poll::Ready(Err(Broken::Gone));
            }
        }
    }

    /// Reads once; 0 at the end of the stream.
    fn poll_more(&mut self, cx: &mut Context) -> Poll<Result<usize, Broken>> {
        let mut space = [MaybeUninit::uninit(); READ];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
        self.reading.extend_from_slice(space.filled());
        Poll::Ready(Ok(space.filled().len()))
    }

    /// The next frame, if it is complete.
    fn frame(&self) -> Result<Option<FrameHeader>, Broken> {
        let bytes = &self.reading[self.taken..];
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
        let control = opcode & 0x08 != 0;
        let known = matches!(opcode, 0..=BINARY | CLOSE..=PONG);
        // Reserved bits, an unmasked frame or an unknown opcode.
        if first & 0x70 != 0 || second & 0x80 == 0 || !known {
            return Err(Broken::Protocol);
        }
        let (length, head) = match second & 0x7f {
            126 => match rest.first_chunk() {
                Some(length) => (u16::from_be_bytes(*length).into(), 4),
                None => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(length) => (u64::from_be_bytes(*length), 10),
                None => return Ok(None),
            },
            short => (u64::from(short), 2),
        };
        if control && (!last || length > MAX_CONTROL as u64) {
            return Err(Broken::Protocol);
        }
        let before = self.fragments.as_ref().map_or(0, |f| f.payload.len());
        let length = match usize::try_from(length) {
            Ok(length) if control || length <= self.max_message.saturating_sub(before) => length,
            _ => return Err(Broken::TooLong(self.max_message)),
        };
        let Some(mask) = bytes.get(head..).and_then(|rest| rest.first_chunk()) else {
            return Ok(None);
        };
        let from = head + mask.len();
        Ok((bytes.len() - from >= length).then_some(FrameHeader {
            last,
            opcode,
            mask: *mask,
            from,
            to: from + length,
        }))
    }

    /// Consumes the frame and handles it.
    fn take(&mut self, frame: &FrameHeader, cx: &mut Context) -> Result<Received, Broken> {
        let bytes = &self.reading[self.taken..];
        let mut payload = bytes[frame.from..frame.to].to_vec();
        if frame.to == bytes.len() {
            (self.reading, self.taken) = (Vec::new(), 0);
        } else {
            self.taken += frame.to;
        }
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte ^= frame.mask[at % 4];
        }
        match frame.opcode {
            PING => {
                self.pong = Some(payload.into());
                if let Poll::Ready(sent) = self.poll_unsent(cx) {
                    sent?;
                }
                Ok(Received::Nothing)
            }
            PONG => Ok(Received::Nothing),
            CLOSE => {
                let answer = closing(&payload)?;
                if !self.closing {
                    frame_into(&mut self.unsent, CLOSE, &answer);
                    let _ = self.poll_unsent(cx);
                    // Over TLS, the end of the connection is announced as well.
                    let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
                }
                Err(Broken::Gone)
            }
            opcode => self.data(opcode, frame.last, payload),
        }
    }

    fn data(&mut self, opcode: u8, last: bool, payload: Vec<u8>) -> Result<Received, Broken> {
        let (text, payload) = match (opcode, self.fragments.take()) {
            (0, None) | (TEXT | BINARY, Some(_)) => return Err(Broken::Protocol),
            (0, Some(mut fragments)) => {
                fragments.payload.extend_from_slice(&payload);
                if !last {
                    self.fragments = Some(fragments);
                    return Ok(Received::Nothing);
                }
                (fragments.text, fragments.payload)
            }
            (opcode, None) => {
                let text = opcode == TEXT;
                if !last {
                    self.fragments = Some(Box::new(Fragments { text, payload }));
                    return Ok(Received::Nothing);
                }
                (text, payload)
            }
            (_, Some(_)) => return Err(Broken::Protocol),
        };
        if !text {
            return Ok(Received::Binary);
        }
        String::from_utf8(payload)
            .map(|text| Received::Text(text.into()))
            .map_err(|_| Broken::NotUtf8)
    }

    // ---- writing

    /// Writes all items as text frames, as far as the kernel takes them. On `Pending`, unwritten items stay in `items`
    /// and the rest of a frame is kept and written first, so the next call continues from there.
    pub fn poll_write<T>(
        &mut self,
        cx: &mut Context,
        items: &mut VecDeque<T>,
        render: fn(&T) -> Utf8Bytes,
    ) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_unsent(cx))?;
            if items.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut out = WriteBuffer::take();
            while out.bytes.len() < WRITE
                && let Some(item) = items.pop_front()
            {
                frame_into(&mut out.bytes, TEXT, render(&item).as_bytes());
            }
            self.poll_buffered(cx, &out.bytes)?;
        }
    }

    /// As [`WebSocket::poll_write`], to completion. Cancel-safe.
    #[cfg(test)]
    pub async fn write<T>(
        &mut self,
        items: &mut VecDeque<T>,
        render: fn(&T) -> Utf8Bytes,
    ) -> Result<(), Broken> {
        poll_fn(|cx| self.poll_write(cx, items, render)).await
    }

    /// Sends one text frame and flushes.
    pub async fn send(&mut self, text: &str) -> Result<(), Broken> {
        self.control(TEXT, text.as_bytes()).await
    }

    /// Sends a ping with the next [`WebSocket::poll_receive`], after pending bytes. At most one ping is pending.
    pub fn ping(&mut self) {
        self.ping = true;
    }

    /// Whether the kernel has yet to take framed bytes, a pong or a ping.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || self.pong.is_some() || self.ping || self.flushing
    }

    /// Total bytes that the kernel has taken; while it grows, the peer reads.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    async fn control(&mut self, opcode: u8, payload: &[u8]) -> Result<(), Broken> {
        frame_into(&mut self.unsent, opcode, payload);
        poll_fn(|cx| self.poll_unsent(cx)).await
    }

    /// Sends a close frame and waits for the peer's. If further input cannot be parsed, waits until the peer is quiet
    /// instead: closing with unread bytes resets the connection, and the peer may not see the close frame.
    pub async fn close(&mut self, code: u16, reason: &str) {
        self.close_frames(code, reason).await;
        poll_fn(|cx| {
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
            Poll::Ready(())
        })
        .await;
    }

    async fn close_frames(&mut self, code: u16, reason: &str) {
        let mut payload = Vec::with_capacity(MAX_CONTROL);
        payload.extend_from_slice(&code.to_be_bytes());
        let end = reason.floor_char_boundary(MAX_CONTROL - payload.len());
        payload.extend_from_slice(&reason.as_bytes()[..end]);
        self.closing = true;
        if self.control(CLOSE, &payload).await.is_err() {
            return;
        }
        while !self.lost {
            if self.receive().await == Err(Broken::Gone) {
                return;
            }
        }
        loop {
            (self.reading, self.taken) = (Vec::new(), 0);
            let more = tokio::time::timeout(QUIET, poll_fn(|cx| self.poll_more(cx)));
            if !matches!(more.await, Ok(Ok(1..))) {
                return;
            }
        }
    }

    /// Writes pending bytes, the pong and the ping, then flushes.
    fn poll_unsent(&mut self, cx: &mut Context) -> Poll<Result<(), Broken>> {
        loop {
            if self.unsent.is_empty() {
                self.unsent = Vec::new();
                if let Some(payload) = self.pong.take() {
                    frame_into(&mut self.unsent, PONG, &payload);
                } else if std::mem::take(&mut self.ping) {
                    frame_into(&mut self.unsent, PING, b"");
                } else {
                    let flushed = Pin::new(&mut self.stream).poll_flush(cx);
                    self.flushing = flushed.is_pending();
                    return flushed.map_err(Broken::from);
                }
            }
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(Broken::Gone)),
                written => {
                    self.sent += written as u64;
                    drop(self.unsent.drain(..written));
                }
            }
        }
    }

    /// Writes as much as the kernel takes now and keeps the rest.
    fn poll_buffered(&mut self, cx: &mut Context, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, bytes)? {
                Poll::Ready(0) => return Err(Broken::Gone),
                Poll::Ready(written) => {
                    self.sent += written as u64;
                    bytes = &bytes[written..];
                }
                Poll::Pending => {
                    self.unsent.extend_from_slice(bytes);
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The payload of the answer to a close frame.
fn closing(payload: &[u8]) -> Result<Vec<u8>, Broken> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(Vec::new()),
            _ => Err(Broken::Protocol),
        };
    };
    if std::str::from_utf8(reason).is_err() {
        return Err(Broken::NotUtf8);
    }
    // Codes that may be sent (RFC 6455, 7.4), and those for libraries and applications.
    match u16::from_be_bytes(*code) {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(code.to_vec()),
        _ => Err(Broken::Protocol),
    }
}

fn frame_into(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.reserve(payload.len() + 10);
    out.push(0x80 | opcode);
    match payload.len() {
        short @ ..126 => out.push(short as u8),
        middle @ ..0x1_0000 => {
            out.push(126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

thread_local! {
    static WRITE_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The thread's write buffer, taken empty; returned on drop.
struct WriteBuffer {
    bytes: Vec<u8>,
}

impl WriteBuffer {
    fn take() -> Self {
        WriteBuffer {
            bytes: WRITE_BUFFER.take(),
        }
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        // A large frame may have grown it.
        bytes.shrink_to(2 * WRITE);
        WRITE_BUFFER.set(bytes);
    }
}
