//! Messages, and the feed of events that they are part of: each number of a room is one event.

mod events;
mod port;
mod reads;
mod record;

pub use port::{MAX_EVENTS, MessageReads, Missed, MissedContent, Window};
pub(super) use record::message_columns;
