//! Members of rooms.

mod port;
mod reads;
mod record;

pub use port::{Entry, MemberReads, MemberRooms};
pub(super) use record::{Place, member_columns};
