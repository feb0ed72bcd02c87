//! A channel for development: writes notifications to the log instead of sending them.

use async_trait::async_trait;

use super::{Channel, Outgoing, SendReport, SendResult};

pub struct Log;

#[async_trait]
impl Channel for Log {
    /// The only place that logs an address and a text, which is the purpose of this channel.
    async fn send(&self, message: &Outgoing) -> SendReport {
        tracing::info!(
            notification = %message.id,
            to = message.to.as_str(),
            subject = message.subject,
            text = message.text,
            "notification logged, not sent"
        );
        SendReport {
            verdict: SendResult::Sent { provider_id: None },
            said: "written to the log".to_owned(),
        }
    }
}
