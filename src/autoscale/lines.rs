//! Reads lines of bounded length.

use std::{io, mem};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// A line without its line feed.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    Whole(String),
    /// Longer than the limit, or not UTF-8.
    Unusable,
}

/// The lines of a stream. Memory is bounded by the limit, however long a line is.
pub struct Lines<R> {
    reader: BufReader<R>,
    limit: usize,
    /// The line so far.
    line: Vec<u8>,
    is_too_long: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub fn new(stream: R, limit: usize) -> Self {
        Lines {
            reader: BufReader::new(stream),
            limit,
            line: Vec::new(),
            is_too_long: false,
        }
    }

    /// The next line; none at the end of the stream, where a line without line feed is lost. Nothing is lost if the
    /// call is cancelled. A line that is too long is returned as soon as it is, and again with its end.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let read = self.reader.fill_buf().await?;
            if read.is_empty() {
                return Ok(None);
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let part = &read[..end.unwrap_or(read.len())];
            let was_too_long = self.is_too_long;
            self.is_too_long |= self.line.len() + part.len() > self.limit;
            if !self.is_too_long {
                self.line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if self.is_too_long {
                self.line = Vec::new();
            }
            if end.is_some() {
                let line = mem::take(&mut self.line);
                let is_whole = !mem::take(&mut self.is_too_long);
                let text = String::from_utf8(line).ok().filter(|_| is_whole);
                return Ok(Some(text.map_or(Line::Unusable, Line::Whole)));
            }
            if self.is_too_long && !was_too_long {
                return Ok(Some(Line::Unusable));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_is_as_long_as_the_limit_at_most() {
        let mut lines = Lines::new(&b"1234\n12345\n\n\xff\n1\nrest"[..], 4);
        let whole = |text: &str| Some(Line::Whole(text.to_owned()));
        assert_eq!(lines.next().await.unwrap(), whole("1234"));
        assert_eq!(lines.next().await.unwrap(), Some(Line::Unusable));
        assert_eq!(lines.next().await.unwrap(), whole(""));
        assert_eq!(lines.next().await.unwrap(), Some(Line::Unusable));
        assert_eq!(lines.next().await.unwrap(), whole("1"));
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_line_without_end_takes_no_memory() {
        let mut lines = Lines::new(tokio::io::repeat(b'x'), 1 << 10);
        assert_eq!(lines.next().await.unwrap(), Some(Line::Unusable));
        assert_eq!(lines.line.capacity(), 0);
    }
}
