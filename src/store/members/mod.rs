//! Members of rooms.

mod port;
mod reads;
mod record;

pub use port::{MemberReads, MemberRooms, RoomEntry};
pub(super) use record::{MemberKey, member_columns};
