//! The pipes of one worker process. Its standard output first has the line that reports it ready, and then its metrics
//! each time they are requested: the request is the line [`METRICS`] on its standard input, and the answer ends with the
//! line [`END`]. The worker stops when its standard input is closed.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::lines::{Line, Lines};

/// The request for the metrics.
pub const METRICS: &str = "metrics";
/// The line after the metrics. In Prometheus's text format it is a comment.
pub const END: &str = "# EOF";

/// The most bytes of one answer; a worker's metrics have about 30 KiB.
const MAX_ANSWER: usize = 4 << 20;
/// The most bytes of one line.
const MAX_LINE: usize = 64 << 10;
/// How long the request may take to be written. The pipe is full only if the worker has not read for thousands of them.
const WRITE_WITHIN: Duration = Duration::from_millis(100);

/// A request for the worker's metrics.
pub type Request = oneshot::Sender<String>;

/// Serves the pipes until standard output ends. Standard input is closed once `close` is cancelled. After a line or an
/// answer that is too long, or a line that is not UTF-8, the output is read and thrown away, and no request is answered
/// any more.
pub async fn serve(
    stdin: Option<impl AsyncWrite + Unpin>,
    stdout: impl AsyncRead + Unpin,
    mut requests: mpsc::Receiver<Request>,
    close: CancellationToken,
    ready: impl Fn(),
) {
    let mut stdin = stdin;
    let mut lines = Lines::new(stdout, MAX_LINE);
    let mut first = true;
    let mut is_usable = true;
    // The request that is being answered, and the answer so far. Its sender may have given up: the answer is still read
    // to its end, so that it is not taken for that to a later request.
    let mut current: Option<(Request, String)> = None;
    loop {
        tokio::select! {
            line = lines.next() => {
                let Ok(Some(line)) = line else {
                    return;
                };
                if !is_usable {
                    continue;
                }
                match line {
                    Line::Whole(_) if std::mem::take(&mut first) => ready(),
                    Line::Whole(line) if line == END => {
                        if let Some((request, answer)) = current.take() {
                            let _ = request.send(answer);
                        }
                    }
                    Line::Whole(line) => {
                        if let Some((_, answer)) = &mut current {
                            answer.push_str(&line);
                            answer.push('\n');
                            is_usable = answer.len() <= MAX_ANSWER;
                        }
                    }
                    Line::Unusable => is_usable = false,
                }
                if !is_usable {
                    warn!(
                        "the output of a worker has a line of more than {MAX_LINE} bytes, an answer of more than \
                         {MAX_ANSWER}, or is not UTF-8; its metrics are not read any more"
                    );
                    current = None;
                }
            }
            Some(request) = requests.recv(), if !is_usable || (!first && current.is_none()) => {
                // Otherwise it is dropped, which fails it.
                if is_usable
                    && let Some(stdin) = &mut stdin
                    && !request.is_closed()
                    && ask(stdin).await
                {
                    current = Some((request, String::new()));
                }
            }
            () = close.cancelled(), if stdin.is_some() => stdin = None,
        }
    }
}

/// Returns whether the request was written.
async fn ask(stdin: &mut (impl AsyncWrite + Unpin)) -> bool {
    let line = format!("{METRICS}\n");
    let written = timeout(WRITE_WITHIN, async {
        stdin.write_all(line.as_bytes()).await?;
        stdin.flush().await
    });
    matches!(written.await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_late_answer_is_not_taken_for_the_next_one() {
        let (stdin, mut requests_read) = duplex(1024);
        let (mut stdout_written, stdout) = duplex(1024);
        let (sender, requests) = mpsc::channel(1);
        let close = CancellationToken::new();
        let (is_ready, ready) = oneshot::channel();
        let is_ready = std::cell::Cell::new(Some(is_ready));
        let served = serve(Some(stdin), stdout, requests, close.clone(), || {
            let _ = is_ready.take().map(|ready| ready.send(()));
        });
        let worker = async {
            stdout_written
                .write_all(b"chat worker is ready\n")
                .await
                .unwrap();
            ready.await.unwrap();
            let mut line = [0; METRICS.len() + 1];
            let (request, answer) = oneshot::channel();
            sender.send(request).await.unwrap();
            requests_read.read_exact(&mut line).await.unwrap();
            // It takes too long.
            drop(answer);
            let (request, answer) = oneshot::channel();
            sender.send(request).await.unwrap();
            stdout_written.write_all(b"a 1\n# EOF\n").await.unwrap();
            requests_read.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"metrics\n");
            stdout_written
                .write_all(b"a 2\nb 3\n# EOF\n")
                .await
                .unwrap();
            assert_eq!(answer.await.unwrap(), "a 2\nb 3\n");
            close.cancel();
            assert_eq!(requests_read.read(&mut line).await.unwrap(), 0);
            drop(stdout_written);
        };
        tokio::join!(served, worker);
    }

    /// Writes `output` as a worker's answer; the scrape fails, the rest of the output is read all the same, and the next
    /// scrape fails at once.
    async fn fails_after(output: impl Fn(usize) -> Vec<u8>) {
        let (stdin, _requests_read) = duplex(1024);
        let (mut stdout_written, stdout) = duplex(1 << 16);
        let (sender, requests) = mpsc::channel(1);
        let close = CancellationToken::new();
        let (is_ready, ready) = oneshot::channel();
        let is_ready = std::cell::Cell::new(Some(is_ready));
        let served = serve(Some(stdin), stdout, requests, close, || {
            let _ = is_ready.take().map(|ready| ready.send(()));
        });
        let worker = async {
            stdout_written.write_all(b"ready\n").await.unwrap();
            ready.await.unwrap();
            let (request, answer) = oneshot::channel();
            sender.send(request).await.unwrap();
            // Taken from the channel: it is the one that is answered.
            let place = sender.reserve().await.unwrap();
            for number in 0..200 {
                stdout_written.write_all(&output(number)).await.unwrap();
            }
            stdout_written.write_all(b"a 1\n# EOF\n").await.unwrap();
            answer.await.unwrap_err();
            let (request, answer) = oneshot::channel();
            place.send(request);
            answer.await.unwrap_err();
            drop(stdout_written);
        };
        let both = async { tokio::join!(served, worker) };
        timeout(Duration::from_secs(60), both).await.unwrap();
    }

    #[tokio::test]
    async fn output_without_a_line_feed_fails_the_scrape() {
        fails_after(|_| vec![b'x'; 1 << 16]).await;
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_fails_the_scrape() {
        fails_after(|_| [vec![b'x'; 1 << 15], b"\n".to_vec()].concat()).await;
    }

    #[tokio::test]
    async fn output_that_is_not_utf_8_fails_the_scrape() {
        fails_after(|number| [vec![b'x', 0xff, b'\n'], vec![b'y'; number]].concat()).await;
    }
}
