//! Input of workers: batches and their commands, and provider callbacks.

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    command,
    edge::fuzz::form,
    notify::webhook,
    queue::framing::{BatchBuilder, decode},
};

fn encode<'a>(commands: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut batch = BatchBuilder::default();
    for command in commands {
        let put = batch.push(|into| {
            std::io::Write::write_all(into, command).map_err(crate::error::Error::internal)
        });
        put.expect("it fits");
    }
    batch.finish().payload().clone()
}

/// Decoding returns as many commands as were encoded, for arbitrary bytes; decoded commands are not longer than the
/// batch; a command that parses is serialised and parsed to the same.
pub fn batch(input: &[u8]) {
    let chunks: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    assert_eq!(
        decode(&encode(chunks.iter().copied())).as_deref(),
        Ok(&chunks
            .iter()
            .map(|c| Bytes::copy_from_slice(c))
            .collect::<Vec<_>>()[..])
    );
    if let Ok(commands) = decode(&Bytes::copy_from_slice(input)) {
        assert!(commands.iter().map(Bytes::len).sum::<usize>() <= input.len());
        let again = encode(commands.iter().map(|command| &command[..]));
        assert_eq!(decode(&again).as_ref(), Ok(&commands));
        for command in &commands {
            if let Ok(envelope) = command::read(command) {
                let written = serde_json::to_vec(&envelope).expect("a command is JSON");
                let read = command::read(&written).expect("a command that was read");
                assert_eq!(serde_json::to_vec(&read).expect("JSON"), written);
            }
        }
    }
}

/// A form has no more fields than separators plus one; an unsigned callback is rejected; a report names its delivery.
pub fn callbacks(input: &[u8]) {
    let fields = form(input);
    assert!(fields.len() <= input.split(|byte| *byte == b'&').count());
    let delivery = Uuid::max();
    if let Some(report) = webhook::twilio_report(delivery, &fields) {
        assert_eq!(report.delivery, delivery);
        assert!(report.id.len() <= input.len() * 3 + 1);
    }
    if let Some((number, _)) = webhook::twilio_opt_out(&fields) {
        assert!(number.as_str().len() <= 16);
    }
    let reports = webhook::sendgrid_reports(input).unwrap_or_default();
    assert!(reports.len() * 2 <= input.len() + 2);
    let text = String::from_utf8_lossy(input);
    assert!(!webhook::twilio_signed(
        "token",
        &text,
        "https://x.example",
        &fields
    ));
    assert!(!webhook::sendgrid_signed(&text, &text, "0", input, 0));
}
