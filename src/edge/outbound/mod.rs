//! Outgoing data of sockets: the bounded queue of one socket ([`outbox`]), the events that many sockets share
//! ([`mod@event`]), and the scheduling of writes ([`flush`]). Nothing here knows a transport or a wire format.

pub mod event;
pub mod flush;
pub mod outbox;

pub use event::{Encoding, OutboundEvent, event};
pub use flush::{FlushPermit, FlushScheduler};
pub use outbox::{Ending, Item, Outbox, RequestId, answer_to};
