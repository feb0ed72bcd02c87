//! The rooms that have sockets on this edge. The hub gives each socket every event of its rooms once and in order, even
//! if the bus loses, repeats or reorders events.
//!
//! The bus is only a hint. Each room keeps the last number that it delivered to its sockets. A repeated event is
//! dropped, the next number is delivered, and a higher number shows a missing range, which is fetched before anything
//! that follows is delivered ([`repair`]). A missing range that nothing follows is found by comparing the rooms' heads
//! with the store ([`reconcile`]): every `edge.reconcile_interval`, and at once when the bus is back.
//!
//! A membership ends with a numbered event of the room, and the hub unsubscribes the user's sockets when it delivers
//! that event. A socket that joins has read its membership together with the room's head: every event above that head
//! must pass its subscription, or the membership is read again ([`Joining::finish`]). [`rights`] is the safety net for
//! both.
//!
//! A store that has lost history is recognised by what was delivered before ([`lost_history`]).

mod epochs;
mod history_cache;
#[allow(clippy::module_inception)]
mod hub;
mod joining;
mod lost_history;
mod newest_page;
mod reconcile;
mod renames;
mod repair;
mod rights;
mod room;
#[cfg(test)]
mod tests;

pub use epochs::{Report, Reports};
pub use history_cache::Newest;
pub use hub::{Hub, Intervals, Ports};
pub use joining::{Ended, Joining};
pub use room::reset_event;
