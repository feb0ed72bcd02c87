//! The framing of commands in a batch: each has a length prefix, so that no byte of a command can be read as structure.
//!
//! ```text
//! batch   = %x01 version count *command
//! version = "1"
//! count   = 4HEXDIG                 ; how many commands follow
//! command = length *OCTET
//! length  = 8HEXDIG                 ; how many octets follow
//! ```
//!
//! No JSON text begins with U+0001, which distinguishes a batch from the payloads before this format: JSON objects with a line
//! feed between them. Those are still decoded, since a queue may hold them when its workers are updated, and `chat queue dead
//! replay` of an earlier version writes them. They are split by the grammar of JSON and never at line feeds: such a payload is
//! one sequence of JSON values or invalid, whatever the values contain.
//!
//! Lengths are ASCII digits without a line feed: an earlier worker, which splits at line feeds, finds one line that it cannot
//! decode and makes the whole batch a dead letter, to be replayed after its update.

use bytes::{BufMut, Bytes, BytesMut, buf::Writer};
use serde_json::value::RawValue;

use crate::error::{Code, Error, Result};

/// The first byte of every batch.
const MAGIC: u8 = 1;
const VERSION: u8 = b'1';
/// Magic, version and count.
const HEADER: usize = 6;
/// Before each command.
const LENGTH: usize = 8;

/// The most commands in one batch.
pub const MAX_COMMANDS: usize = 0xFFFF;
/// The longest command, in bytes: a message of the largest `edge.max_body_bytes`, all of it escaped, is 48 MiB.
pub const MAX_COMMAND: usize = 64 << 20;
/// The longest batch, in bytes. RabbitMQ 4 accepts messages of up to 16 MiB by default.
pub const MAX_BATCH: usize = 128 << 20;

/// An encoded batch: the only type that a [`Publisher`](super::Publisher) accepts.
#[derive(Debug, Clone)]
pub struct EncodedBatch {
    payload: Bytes,
    commands: u32,
}

impl EncodedBatch {
    /// A batch of this one command.
    ///
    /// # Errors
    /// `too_large` beyond [`MAX_COMMAND`].
    pub fn of(command: &[u8]) -> Result<EncodedBatch> {
        let mut batch = BatchBuilder::default();
        batch.push(|bytes| {
            bytes.get_mut().put_slice(command);
            Ok(())
        })?;
        Ok(batch.finish())
    }

    /// The batch for replaying a dead letter: a command, or a whole batch that could not be decoded, which stays unchanged.
    ///
    /// # Errors
    /// As [`EncodedBatch::of`].
    pub fn again(original: Bytes) -> Result<EncodedBatch> {
        if original.first() != Some(&MAGIC) {
            return EncodedBatch::of(&original);
        }
        let commands = decode(&original).map_or(1, |commands| commands.len());
        Ok(EncodedBatch {
            payload: original,
            commands: u32::try_from(commands).unwrap_or(u32::MAX),
        })
    }

    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// How many commands are inside.
    pub fn commands(&self) -> u32 {
        self.commands
    }
}

/// A batch that is being filled.
#[derive(Debug)]
pub struct BatchBuilder {
    bytes: BytesMut,
    commands: u16,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        let mut bytes = BytesMut::with_capacity(1024);
        bytes.put_slice(&[MAGIC, VERSION]);
        bytes.put_bytes(b'0', HEADER - bytes.len());
        BatchBuilder { bytes, commands: 0 }
    }
}

impl BatchBuilder {
    /// Adds the command that `write` writes. After an error nothing was added.
    ///
    /// # Errors
    /// Those of `write`; `too_large` beyond [`MAX_COMMAND`], [`MAX_BATCH`] and [`MAX_COMMANDS`].
    pub fn push(
        &mut self,
        write: impl FnOnce(&mut Writer<&mut BytesMut>) -> Result<()>,
    ) -> Result<()> {
        let start = self.bytes.len();
        self.bytes.put_bytes(b'0', LENGTH);
        let mut writer = (&mut self.bytes).writer();
        let written = write(&mut writer);
        let length = self.bytes.len() - start - LENGTH;
        let fits = length <= MAX_COMMAND
            && self.bytes.len() <= MAX_BATCH
            && usize::from(self.commands) < MAX_COMMANDS;
        if written.is_err() || !fits {
            self.bytes.truncate(start);
            return written.and(Err(too_large(length)));
        }
        self.commands += 1;
        write_hex(&mut self.bytes[start..start + LENGTH], length);
        Ok(())
    }

    pub fn len(&self) -> usize {
        usize::from(self.commands)
    }

    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    pub fn finish(mut self) -> EncodedBatch {
        write_hex(&mut self.bytes[2..HEADER], usize::from(self.commands));
        EncodedBatch {
            payload: self.bytes.freeze(),
            commands: u32::from(self.commands),
        }
    }
}

fn too_large(length: usize) -> Error {
    Error::new(
        Code::TooLarge,
        format!("a command of {length} bytes is more than a batch takes"),
    )
}

/// Writes as many digits as `into` has bytes.
fn write_hex(into: &mut [u8], mut value: usize) {
    for digit in into.iter_mut().rev() {
        *digit = b"0123456789abcdef"[value % 16];
        value /= 16;
    }
}

fn read_hex(bytes: &[u8]) -> Option<usize> {
    bytes.iter().try_fold(0, |value: usize, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value * 16 + usize::from(digit))
    })
}

/// Decodes a payload's commands, in order: all of them, or the reason why it is invalid. Commands are slices of `payload`, not
/// copies.
///
/// # Errors
/// If the payload is truncated, continues after its last command, exceeds a limit, has an unknown version, or is neither a
/// batch nor a sequence of JSON values. None of its commands may be run then.
pub fn decode(payload: &Bytes) -> Result<Vec<Bytes>, String> {
    if payload.len() > MAX_BATCH {
        return Err(format!(
            "it is {} bytes long; at most {MAX_BATCH} are taken",
            payload.len()
        ));
    }
    match payload.first() {
        Some(&MAGIC) => framed(payload),
        _ => json_values(payload),
    }
}

fn framed(payload: &Bytes) -> Result<Vec<Bytes>, String> {
    let broken = |what: &str| format!("the batch cannot be read: {what}");
    match payload.get(1) {
        Some(&VERSION) => {}
        Some(version) => {
            return Err(format!(
                "its batch has version {:?}, this worker knows {:?}: update the workers, then replay",
                char::from(*version),
                char::from(VERSION),
            ));
        }
        None => return Err(broken("it ends in its header")),
    }
    let header = payload
        .get(2..HEADER)
        .ok_or_else(|| broken("it ends in its header"))?;
    let count = read_hex(header).ok_or_else(|| broken("its header is none"))?;
    // Checked before the allocation.
    if count * LENGTH > payload.len() - HEADER {
        return Err(broken("it ends before its last command"));
    }
    let mut commands = Vec::with_capacity(count);
    let mut at = HEADER;
    for _ in 0..count {
        let length = payload
            .get(at..at + LENGTH)
            .ok_or_else(|| broken("it ends before its last command"))?;
        let length = read_hex(length).ok_or_else(|| broken("a length is none"))?;
        if length > MAX_COMMAND {
            return Err(broken("a command is too long"));
        }
        at += LENGTH;
        if payload.len() - at < length {
            return Err(broken("it ends in a command"));
        }
        commands.push(payload.slice(at..at + length));
        at += length;
    }
    match (at == payload.len(), count) {
        (true, 1..) => Ok(commands),
        (true, 0) => Err(broken("it holds no command")),
        (false, _) => Err(broken("it goes on behind its last command")),
    }
}

/// Decodes payloads of the format before batches had a header.
fn json_values(payload: &Bytes) -> Result<Vec<Bytes>, String> {
    let mut commands = Vec::new();
    for value in serde_json::Deserializer::from_slice(payload).into_iter::<&RawValue>() {
        let value = value.map_err(|error| format!("it cannot be read: {error}"))?;
        if commands.len() == MAX_COMMANDS {
            return Err(format!("it holds more than {MAX_COMMANDS} commands"));
        }
        commands.push(payload.slice_ref(value.get().as_bytes()));
    }
    if commands.is_empty() {
        Err("it cannot be read: it is empty".to_owned())
    } else {
        Ok(commands)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn encode<'a>(commands: impl IntoIterator<Item = &'a [u8]>) -> EncodedBatch {
        let mut batch = BatchBuilder::default();
        for command in commands {
            batch
                .push(|bytes| {
                    bytes.get_mut().put_slice(command);
                    Ok(())
                })
                .unwrap();
        }
        batch.finish()
    }

    #[test]
    fn a_batch_looks_like_this() {
        let batch = encode([&b"{}"[..], b"{\"v\":1}\n"]);
        assert_eq!(
            batch.payload(),
            &b"\x0110002\x30\x30\x30\x30\x30\x30\x30\x32{}00000008{\"v\":1}\n"[..]
        );
        assert_eq!(batch.commands(), 2);
        assert_eq!(decode(batch.payload()).unwrap(), ["{}", "{\"v\":1}\n"]);
    }

    #[test]
    fn a_failed_push_adds_nothing() {
        let mut batch = BatchBuilder::default();
        assert!(batch.is_empty());
        let failing = batch.push(|bytes| {
            bytes.get_mut().put_slice(b"half of it");
            Err(Error::internal("the other half"))
        });
        assert_eq!(failing.unwrap_err().code, Code::Internal);
        let huge = batch.push(|bytes| {
            bytes.get_mut().put_bytes(b' ', MAX_COMMAND + 1);
            Ok(())
        });
        assert_eq!(huge.unwrap_err().code, Code::TooLarge);
        assert_eq!((batch.len(), batch.size()), (0, HEADER));
        for _ in 0..MAX_COMMANDS {
            batch.push(|_| Ok(())).unwrap();
        }
        let size = batch.size();
        assert_eq!(batch.push(|_| Ok(())).unwrap_err().code, Code::TooLarge);
        assert_eq!((batch.len(), batch.size()), (MAX_COMMANDS, size));
        let batch = batch.finish();
        assert_eq!(decode(batch.payload()).unwrap().len(), MAX_COMMANDS);
    }

    #[test]
    fn part_of_a_batch_is_no_batch() {
        let whole = encode([&b"{\"a\":1}"[..], b"{}", b""]);
        for end in 0..whole.payload().len() {
            assert!(decode(&whole.payload().slice(..end)).is_err(), "{end}");
        }
        let longer = [whole.payload(), &b"{}"[..]].concat();
        assert!(decode(&longer.into()).is_err());
        for bad in [
            &b""[..],
            b"\x01",
            b"\x011",
            b"\x0110000",
            b"\x0110001",
            b"\x011ffff00000000",
            b"\x011000100000003{}",
            b"\x011000100000001{}",
            b"\x01100010000000g{}",
            b"\x0110001ffffffff{}",
            b"\x011000A00000002{}",
        ] {
            let reason = decode(&Bytes::from_static(bad)).unwrap_err();
            assert!(reason.contains("cannot be read"), "{reason}");
        }
        let newer = Bytes::from_static(b"\x012anything at all");
        assert!(decode(&newer).unwrap_err().contains("update the workers"));
    }

    #[test]
    fn payloads_before_this_format_are_json_values() {
        let lines = Bytes::from_static(b"{\"a\":1}\n{\"b\":\n{\"v\":1,\"actor\":\"x\"}\n}\n{}");
        let values = decode(&lines).unwrap();
        assert_eq!(values.len(), 3, "the line inside is no command");
        assert_eq!(values[1], "{\"b\":\n{\"v\":1,\"actor\":\"x\"}\n}");
        for bad in [
            &b"{\"a\":1}\n{\"b\":"[..],
            b"{}\n}",
            b"\xff\xfe",
            b"{} nonsense {}",
            b"{\"a\":\"\xff\"}",
        ] {
            let reason = decode(&Bytes::from_static(bad)).unwrap_err();
            assert!(reason.contains("cannot be read"), "{reason}");
        }
    }

    #[test]
    fn letters_go_back_as_they_were() {
        for command in [&b"{\"v\":1}"[..], b"", b"\xff", b"not JSON"] {
            let again = EncodedBatch::again(Bytes::copy_from_slice(command)).unwrap();
            assert_eq!(decode(again.payload()).unwrap(), [command]);
            assert_eq!(again.commands(), 1);
        }
        let whole = encode([&b"{}"[..], b"{}"]);
        let again = EncodedBatch::again(whole.payload().clone()).unwrap();
        assert_eq!((again.payload(), again.commands()), (whole.payload(), 2));
        let broken = whole.payload().slice(..9);
        let again = EncodedBatch::again(broken.clone()).unwrap();
        assert_eq!((again.payload(), again.commands()), (&broken, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_as_the_same_commands(
            commands in vec(vec(any::<u8>(), 0..60), 1..20)
        ) {
            let batch = encode(commands.iter().map(Vec::as_slice));
            prop_assert_eq!(batch.commands() as usize, commands.len());
            prop_assert_eq!(decode(batch.payload()).unwrap(), commands);
        }

        /// Arbitrary bytes never cause a panic, and are decoded as a whole or not at all.
        #[test]
        fn arbitrary_payloads_are_read_whole_or_not_at_all(
            mut bytes in vec(any::<u8>(), 0..200), framed in any::<bool>(), count in 0..4u8
        ) {
            if framed {
                let header = [MAGIC, VERSION, b'0', b'0', b'0', b'0' + count];
                bytes.splice(0..0, header);
            }
            let payload = Bytes::from(bytes);
            if let Ok(commands) = decode(&payload)
                && payload[0] == MAGIC
            {
                let again = encode(commands.iter().map(|command| &command[..]));
                prop_assert_eq!(again.payload(), &payload);
            }
        }
    }
}
