//! The channels of notifications.

use std::fmt;

use serde::{Deserialize, Serialize};

text_enum! {
    /// A notification channel.
    ChannelKind {
        Email = "email",
        Sms = "sms",
    }
}

impl ChannelKind {
    pub const ALL: [ChannelKind; 2] = [ChannelKind::Email, ChannelKind::Sms];
}
