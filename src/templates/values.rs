//! The values that templates are rendered with.

use serde::Serialize;

/// One message of a digest.
#[derive(Clone, Serialize)]
pub struct DigestMessage {
    /// Empty for a direct room.
    pub room: String,
    pub sender: String,
    pub body: String,
}

debug_of!(DigestMessage {});

/// The values of the templates `digest.*`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DigestValues {
    /// The number of all messages.
    pub count: usize,
    /// The messages that are shown, by room, the oldest first.
    pub messages: Vec<DigestMessage>,
    /// The number of messages that are not shown.
    pub more: usize,
    /// The names of all senders, each once.
    pub senders: Vec<String>,
    pub link: String,
    pub unsubscribe: String,
}

/// The values of the templates `code.*`.
#[derive(Clone, Default, Serialize)]
pub struct CodeValues {
    pub code: String,
    /// How long the code is valid.
    pub minutes: u64,
}

debug_of!(CodeValues { minutes });

/// The values of the templates `reset.*`.
#[derive(Clone, Default, Serialize)]
pub struct ResetValues {
    pub token: String,
    /// `auth.reset_url` with the token; empty without one.
    pub link: String,
    /// How long the token is valid.
    pub minutes: u64,
}

debug_of!(ResetValues { minutes });
