//! Standard output and standard error of commands. `println!` panics if the reader has closed the pipe.

mod progress;

use std::{
    fmt::Display,
    io::{ErrorKind, Write, stderr, stdout},
};

pub use progress::Progress;

/// Prints a line of a command's result. If the reader has closed the pipe (`chat openapi | head -1`), the process exits
/// with code 0, as the reader wants no more; if the line cannot be written for another reason, with code 1.
pub fn line(text: impl Display) {
    match writeln!(stdout(), "{text}") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            note(format_args!("cannot write to standard output: {error}"));
            std::process::exit(1);
        }
    }
}

/// Prints a line of a server to standard output, such as its address. A server runs on without a reader.
pub fn announce(text: impl Display) {
    let _ = writeln!(stdout(), "{text}");
}

/// Prints a line to standard error, if that is possible.
pub fn note(text: impl Display) {
    let _ = writeln!(stderr(), "{text}");
}
