//! The log's writer: each event is one line, whatever its fields hold, so that no text from outside looks like an event
//! of its own (CWE-117).

use std::{
    borrow::Cow,
    io::{self, Write},
};

use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::fmt::MakeWriter;

/// Passes each event as one line to the log's thread.
#[derive(Clone)]
pub struct OneLine {
    pub thread: NonBlocking,
    /// The formatter writes escape sequences for colours; it escapes those of the fields itself.
    pub colour: bool,
}

impl<'a> MakeWriter<'a> for OneLine {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for OneLine {
    /// The formatter hands over each event with one call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.thread.write_all(&one_line(event, self.colour))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same with control characters inside it escaped (`\n`, `\u{1b}`); tabs stay, and so does the line feed at its
/// end.
fn one_line(event: &[u8], colour: bool) -> Cow<'_, [u8]> {
    let (text, end) = match event.strip_suffix(b"\n") {
        Some(text) => (text, &b"\n"[..]),
        None => (event, &b""[..]),
    };
    let escaped =
        |byte: &u8| byte.is_ascii_control() && *byte != b'\t' && !(colour && *byte == 0x1b);
    if !text.iter().any(escaped) {
        return Cow::Borrowed(event);
    }
    let mut line = Vec::with_capacity(event.len() + 16);
    for byte in text {
        if escaped(byte) {
            line.extend(char::from(*byte).escape_default().map(|c| c as u8))
        } else {
            line.push(*byte)
        }
    }
    line.extend_from_slice(end);
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_one_line() {
        let line = |text: &str, colour| {
            String::from_utf8(one_line(text.as_bytes(), colour).into_owned()).unwrap()
        };
        assert_eq!(line("INFO a\tb ä\n", false), "INFO a\tb ä\n");
        assert_eq!(
            line("WARN x\r\nERROR forged\n", false),
            "WARN x\\r\\nERROR forged\n"
        );
        assert_eq!(line("a\u{1b}[2Jb\u{7f}\n", false), "a\\u{1b}[2Jb\\u{7f}\n");
        assert_eq!(
            line("\u{1b}[32mINFO\u{1b}[0m a\nb\n", true),
            "\u{1b}[32mINFO\u{1b}[0m a\\nb\n"
        );
        assert_eq!(line("no end", false), "no end");
    }
}
