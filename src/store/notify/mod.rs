//! The part of the store for notifications. Preferences and verified addresses are small rows of a user; a delivery is
//! one row whose record is changed as a whole, under a version; the delivery log has a row for each message and each
//! member whom it concerned.
//!
//! None of this is on the path of a message: it happens in tasks, after the batch was stored.

mod addresses;
mod candidates;
mod deliveries;
mod log;
mod port;
mod postgres;
mod preferences;
mod record;
mod sqlite;
mod types;

pub use port::{
    AddressReads, AddressWrites, DeliveryReads, DeliveryWrites, LogReads, LogWrites, NotifyReads,
    NotifyWrites, PreferenceReads, PreferenceWrites,
};
pub use types::{
    Candidate, CodeAnswer, Decision, DigestLine, LogEntry, LogPosition, MAX_TRIES, NewCode,
    NotifySettings, NotifyVerdict,
};
