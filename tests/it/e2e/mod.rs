//! What a client may rely on, tried from the outside against real processes.

mod bad_input;
mod conversation;
mod engineio;
mod engineio_bad_input;
mod lifecycle;
mod replay;
mod settings;
mod socketio;
mod socketio_mixed;
