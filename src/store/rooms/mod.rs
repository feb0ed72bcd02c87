//! Rooms. Their members are in [`members`](super::members), their messages and events in [`messages`](super::messages).

mod port;
mod reads;
mod record;

pub use port::RoomReads;
pub(super) use record::room_columns;
