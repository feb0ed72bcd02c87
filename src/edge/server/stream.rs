//! A TCP stream with deadlines for HTTP: it fails if the peer takes too long to send a request's head or to read a
//! response. hyper's own head timeout starts at the end of the previous request, so it cannot distinguish an idle
//! connection from one that sends a head byte by byte; this stream starts a new deadline with the first byte of a head.
//!
//! After an upgrade the deadlines no longer apply: the WebSocket has its own.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

/// Minimum average rate at which a response must be read, in bytes per second. The slowest links in use are faster
/// (GPRS: 4 KiB/s).
const SLOWEST: u64 = 1024;

/// Deadlines of a peer.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For a request's head: from the connect, or from its first byte.
    pub request: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For reading a part of a response; see `least`.
    pub write: Duration,
}

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Receiving a head: the first one from the connect on, later ones from their first byte on.
    Head,
    /// Between two requests.
    Idle,
    /// A request is being handled. Its body may still be arriving and has its own deadlines.
    Busy,
    /// The response is complete and is being written.
    Answering,
    /// The response being written is 101.
    Switching,
    /// Upgraded to another protocol.
    Upgraded,
}

/// Held by the HTTP service to report the connection's state to the stream.
#[derive(Debug, Clone)]
pub struct Progress(Arc<AtomicU8>);

impl Progress {
    fn get(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Head,
            1 => Phase::Idle,
            2 => Phase::Busy,
            3 => Phase::Answering,
            4 => Phase::Switching,
            _ => Phase::Upgraded,
        }
    }

    // The service and the stream are polled by the same task, so relaxed ordering is sufficient.
    fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    /// A request's head is complete.
    pub fn request_begins(&self) {
        self.set(Phase::Busy);
    }

    /// The response is complete.
    pub fn answer_begins(&self, upgrade: bool) {
        self.set(if upgrade {
            Phase::Switching
        } else {
            Phase::Answering
        });
    }
}

/// A response that the send buffer did not take completely.
struct Unsent {
    until: Pin<Box<Sleep>>,
    /// Bytes written since the deadline was set.
    taken: u64,
}

/// See the module documentation.
pub struct HttpStream {
    tcp: TcpStream,
    deadlines: Deadlines,
    progress: Progress,
    head: Option<Pin<Box<Sleep>>>,
    unsent: Option<Unsent>,
    /// A read that waits for bytes or for permission to read.
    reader: Option<Waker>,
    /// The last write took no bytes.
    blocked: bool,
}

/// A stalled peer leaves up to several hundred KiB in the send buffer, which the system would try to send for minutes.
/// Zero linger discards them.
impl Drop for HttpStream {
    fn drop(&mut self) {
        if self.blocked {
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl HttpStream {
    /// The deadline of the first head starts at `since`.
    pub fn new(tcp: TcpStream, deadlines: Deadlines, since: Instant) -> Self {
        HttpStream {
            tcp,
            deadlines,
            progress: Progress(Arc::new(AtomicU8::new(Phase::Head as u8))),
            head: Some(Box::pin(tokio::time::sleep_until(
                since + deadlines.request,
            ))),
            unsent: None,
            reader: None,
            blocked: false,
        }
    }

    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Fails the write if the peer reads the response too slowly.
    fn wait_for_reader<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.blocked = true;
        if self.progress.get() == Phase::Upgraded {
            return Poll::Pending;
        }
        let within = self.deadlines.write;
        let unsent = self.unsent.get_or_insert_with(|| Unsent {
            until: Box::pin(tokio::time::sleep(within)),
            taken: 0,
        });
        loop {
            ready!(unsent.until.as_mut().poll(cx));
            if unsent.taken < least(within) {
                return Poll::Ready(Err(too_late("the answer is read too slowly")));
            }
            unsent.taken = 0;
            unsent.until.as_mut().reset(Instant::now() + within);
        }
    }

    fn wrote(&mut self, written: usize) {
        self.blocked = false;
        if let Some(unsent) = &mut self.unsent {
            unsent.taken = unsent.taken.saturating_add(written as u64);
        }
    }
}

/// The bytes that a peer must read in each period `within`: at least one.
fn least(within: Duration) -> u64 {
    let bytes = within.as_millis() * u128::from(SLOWEST) / 1000;
    u64::try_from(bytes).unwrap_or(u64::MAX).max(1)
}

fn too_late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl AsyncRead for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let phase = this.progress.get();
        if phase == Phase::Upgraded {
            return Pin::new(&mut this.tcp).poll_read(cx, buf);
        }
        // A peer that does not read its responses may not send further requests.
        if this.unsent.is_some() {
            this.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.tcp).poll_read(cx, buf) {
            if phase == Phase::Idle && buf.filled().len() > before {
                this.progress.set(Phase::Head);
                let within = this.deadlines.request;
                this.head = Some(Box::pin(tokio::time::sleep(within)));
            }
            return Poll::Ready(read);
        }
        let within = match phase {
            Phase::Head => this.deadlines.request,
            Phase::Idle => this.deadlines.idle,
            Phase::Busy | Phase::Answering | Phase::Switching | Phase::Upgraded => {
                this.head = None;
                this.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        };
        let head = this
            .head
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        ready!(head.as_mut().poll(cx));
        Poll::Ready(Err(too_late(match phase {
            Phase::Head => "no whole request came in time",
            _ => "the connection was idle",
        })))
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.tcp).poll_write(cx, buf) {
            Poll::Ready(result) => {
                self.wrote(*result.as_ref().unwrap_or(&0));
                Poll::Ready(result)
            }
            Poll::Pending => self.wait_for_reader(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs) {
            Poll::Ready(result) => {
                self.wrote(*result.as_ref().unwrap_or(&0));
                Poll::Ready(result)
            }
            Poll::Pending => self.wait_for_reader(cx),
        }
    }

    /// Without vectored writes hyper would copy each response body.
    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    /// hyper flushes when everything is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut resumes = this.unsent.take().is_some();
        let next = match this.progress.get() {
            Phase::Answering => Some(Phase::Idle),
            Phase::Switching => Some(Phase::Upgraded),
            Phase::Head | Phase::Idle | Phase::Busy | Phase::Upgraded => None,
        };
        if let Some(next) = next {
            this.head = None;
            this.progress.set(next);
            resumes = true;
        }
        // The next read sets the current deadline.
        if resumes && let Some(reader) = this.reader.take() {
            reader.wake();
        }
        Pin::new(&mut this.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const SOON: Duration = Duration::from_millis(200);
    const NEVER: Duration = Duration::from_secs(3600);
    const LONG: Duration = Duration::from_secs(60);
    /// More than the system buffers for a peer that does not read.
    const MUCH: usize = 64 << 20;

    fn deadlines(request: Duration, idle: Duration, write: Duration) -> Deadlines {
        Deadlines {
            request,
            idle,
            write,
        }
    }

    async fn pair(deadlines: Deadlines) -> (HttpStream, Progress, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let stream = HttpStream::new(ours, deadlines, Instant::now());
        let progress = stream.progress();
        (stream, progress, peer)
    }

    async fn within<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(LONG, what)
            .await
            .expect("it ends in time")
    }

    async fn read(stream: &mut HttpStream) -> io::Result<u8> {
        within(stream.read_u8()).await
    }

    #[tokio::test]
    async fn a_first_head_has_its_time_from_the_connect_on() {
        let (mut stream, _, mut peer) = pair(deadlines(SOON, NEVER, NEVER)).await;
        let error = read(&mut stream).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // A byte does not extend the deadline.
        let (mut stream, _, mut other) = pair(deadlines(SOON, NEVER, NEVER)).await;
        other.write_all(b"G").await.unwrap();
        assert_eq!(read(&mut stream).await.unwrap(), b'G');
        assert_eq!(
            read(&mut stream).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        peer.write_all(b"x").await.unwrap();
    }

    #[tokio::test]
    async fn rest_and_later_heads_have_times_of_their_own() {
        // Idle.
        let (mut stream, progress, _peer) = pair(deadlines(NEVER, SOON, NEVER)).await;
        progress.request_begins();
        progress.answer_begins(false);
        stream.flush().await.unwrap();
        assert_eq!(
            read(&mut stream).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        // The deadline starts with the first byte of a head.
        let (mut stream, progress, mut peer) = pair(deadlines(SOON, NEVER, NEVER)).await;
        progress.request_begins();
        progress.answer_begins(false);
        stream.flush().await.unwrap();
        peer.write_all(b"G").await.unwrap();
        assert_eq!(read(&mut stream).await.unwrap(), b'G');
        assert_eq!(
            read(&mut stream).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }

    #[tokio::test]
    async fn a_request_that_is_answered_has_no_time() {
        for upgrade in [None, Some(true)] {
            let (mut stream, progress, mut peer) = pair(deadlines(SOON, SOON, SOON)).await;
            progress.request_begins();
            if let Some(upgrade) = upgrade {
                progress.answer_begins(upgrade);
                stream.flush().await.unwrap();
            }
            let waited = tokio::time::timeout(SOON * 3, stream.read_u8()).await;
            assert!(waited.is_err(), "{waited:?}");
            peer.write_all(b"x").await.unwrap();
            assert_eq!(read(&mut stream).await.unwrap(), b'x');
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_ends_the_connection() {
        let (mut stream, progress, _peer) = pair(deadlines(NEVER, NEVER, SOON)).await;
        progress.request_begins();
        progress.answer_begins(false);
        let error = within(stream.write_all(&vec![0; MUCH])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // After an upgrade there is no deadline.
        let (mut stream, progress, _peer) = pair(deadlines(NEVER, NEVER, SOON)).await;
        progress.answer_begins(true);
        stream.flush().await.unwrap();
        let waited = tokio::time::timeout(SOON * 3, stream.write_all(&vec![0; MUCH])).await;
        assert!(waited.is_err(), "{waited:?}");
    }

    #[tokio::test]
    async fn unread_bytes_of_a_stalled_peer_are_dropped_with_the_connection() {
        for upgrade in [false, true] {
            let (mut stream, progress, mut peer) = pair(deadlines(NEVER, NEVER, NEVER)).await;
            progress.answer_begins(upgrade);
            stream.flush().await.unwrap();
            let much = vec![0; MUCH];
            assert!(
                tokio::time::timeout(SOON, stream.write_all(&much))
                    .await
                    .is_err()
            );
            drop(stream);
            let mut rest = Vec::new();
            let error = within(peer.read_to_end(&mut rest)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_pipelined_request_waits_until_the_response_is_read() {
        let (mut stream, progress, mut peer) = pair(deadlines(NEVER, NEVER, NEVER)).await;
        progress.request_begins();
        progress.answer_begins(false);
        peer.write_all(b"G").await.unwrap();
        let much = vec![0; MUCH];
        let waited = tokio::time::timeout(SOON, stream.write_all(&much)).await;
        assert!(waited.is_err());
        let waited = tokio::time::timeout(SOON, stream.read_u8()).await;
        assert!(waited.is_err(), "{waited:?}");
        // Once the peer has read everything, reading resumes.
        let reading = tokio::spawn(async move {
            let mut all = vec![0; 1 << 16];
            while peer.read(&mut all).await.is_ok_and(|read| read > 0) {}
        });
        within(stream.write_all(b"rest")).await.unwrap();
        within(stream.flush()).await.unwrap();
        assert_eq!(read(&mut stream).await.unwrap(), b'G');
        drop(stream);
        within(reading).await.unwrap();
    }

    #[test]
    fn a_reader_must_take_a_kibibyte_a_second() {
        for (within, bytes) in [
            (30_000, 30 * 1024),
            (1000, 1024),
            (500, 512),
            (1, 1),
            (0, 1),
        ] {
            assert_eq!(least(Duration::from_millis(within)), bytes);
        }
    }
}
