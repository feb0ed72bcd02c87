//! End-to-end tests of the public contract, on real processes.

mod abuse;
mod autoscale;
mod bad_input;
mod conversation;
mod documented;
mod engineio;
mod engineio_bad_input;
mod faults;
mod history;
mod lifecycle;
mod logins;
mod notify;
mod paging;
mod people;
mod pools;
mod prometheus;
mod replay;
mod rights;
mod rooms;
mod scaling;
mod settings;
mod socketio;
mod socketio_mixed;
