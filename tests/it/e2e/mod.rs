//! End-to-end tests of the public contract, on real processes.

mod abuse;
mod autoscale;
mod bad_input;
mod conversation;
mod engineio;
mod engineio_bad_input;
mod faults;
mod history;
mod lifecycle;
mod logins;
mod lost_history;
mod notify;
mod people;
mod pools;
mod prometheus;
mod reactions;
mod renames;
mod repeats;
mod replay;
mod rights;
mod rooms;
mod scaling;
mod settings;
mod socketio;
mod socketio_mixed;
mod texts;
