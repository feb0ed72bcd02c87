//! The wire protocol between clients and an edge: requests, responses, events and close codes. REST and both socket
//! transports share these types, so that each resource has one shape everywhere. No I/O, no decisions.

pub mod asyncapi;
pub mod bounds;
mod checks;
mod close;
mod events;
mod json;
mod openapi;
mod reactions;
mod requests;
mod resources;
pub mod wrong_field;

pub use checks::*;
pub use close::Close;
pub use events::{
    Connected, ConnectedLimits, EventName, Gap, MemberEvent, MemberLeftReason, ReadUpdated, Reset,
    RoomEvent, SendFailed, UserUpdated,
};
pub use json::raw;
pub use reactions::ReactionUpdated;
pub use requests::{
    Accepted, Auth, DeleteMessage, EditMessage, JoinRoom, Joined, LeaveRoom, MarkRead, MissedEvent,
    React, Request, SendMessage, WireError,
};
pub use resources::{MemberView, RoomView};
