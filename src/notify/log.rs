//! For development: what would be sent stands in the log, and nothing is.

use async_trait::async_trait;

use super::{Answer, Channel, Outgoing, Verdict};

pub struct Log;

#[async_trait]
impl Channel for Log {
    /// The one place where an address and a text are logged: whoever chose this channel asked for it.
    async fn send(&self, message: &Outgoing) -> Answer {
        tracing::info!(
            notification = %message.id,
            to = message.to.as_str(),
            subject = message.subject,
            text = message.text,
            "a notification, sent nowhere"
        );
        Answer {
            verdict: Verdict::Sent { provider_id: None },
            said: "written to the log".to_owned(),
        }
    }
}
