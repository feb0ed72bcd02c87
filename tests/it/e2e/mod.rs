//! What a client may rely on, tried from the outside against real processes.

mod bad_input;
mod conversation;
mod history;
mod lifecycle;
mod logins;
mod people;
mod replay;
mod rooms;
mod settings;
