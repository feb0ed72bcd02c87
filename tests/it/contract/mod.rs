//! Contract tests: one suite for each port, run on every implementation.

mod bus;
mod queue;
mod rabbit;
mod sentinel;
mod store;

use bytes::Bytes;
use chat::queue::{BatchBuilder, EncodedBatch, framing};

/// A batch of `commands` commands: `command`, then empty ones.
fn batch(command: &[u8], commands: u32) -> EncodedBatch {
    let mut batch = BatchBuilder::default();
    for number in 0..commands {
        let command = if number == 0 { command } else { b"" };
        batch
            .push(|bytes| {
                bytes.get_mut().extend_from_slice(command);
                Ok(())
            })
            .unwrap();
    }
    batch.finish()
}

/// The first command of a payload.
#[track_caller]
fn first_of(payload: &Bytes) -> Bytes {
    framing::decode(payload).unwrap().swap_remove(0)
}
