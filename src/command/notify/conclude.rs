//! Applies a provider's answer to a delivery: done, retried, or given up.

use std::time::Duration;

use super::{Next, Notifier, NotifyCommand};
use crate::{
    command::{self, Command, Envelope},
    config::OnAmbiguous,
    error::{Error, Result},
    model::{
        Timestamp, derived_id,
        notify::{ChannelKind, Delivery, DeliveryState, Purpose},
    },
    notify::SendResult,
    queue::DeadLetter,
    retry::Policy,
    telemetry::metrics,
};

/// Maximum pause between two attempts, whatever a provider requests.
const MAX_PAUSE: Duration = Duration::from_secs(3600);
/// Retry delay after a version conflict with another worker.
pub(super) const CONFLICT_PAUSE: Duration = Duration::from_millis(500);

/// The consequence of an answer. The delivery is changed in memory; the caller stores it.
pub(super) enum Conclusion {
    Done,
    Again(Duration),
    Dead,
}

pub(super) fn conclude(
    notifier: &Notifier,
    delivery: &mut Delivery,
    verdict: SendResult,
) -> Conclusion {
    let settings = &notifier.config.notify;
    let unclear = matches!(verdict, SendResult::Unknown { .. });
    let after = match verdict {
        SendResult::Sent { provider_id } => {
            delivery.record.provider_id = provider_id;
            // A report may have arrived before the answer.
            if delivery.record.state.rank() < DeliveryState::Sent.rank() {
                delivery.now(DeliveryState::Sent, "the provider took it");
            }
            return Conclusion::Done;
        }
        SendResult::Refused { .. } => {
            delivery.now(DeliveryState::Failed, "the provider refuses it for good");
            return Conclusion::Done;
        }
        SendResult::Locked => {
            // The attempt does not count: the provider did not process it.
            delivery.record.attempts.pop();
            let reason = "the channel is paused: the provider refuses the server's credentials";
            delivery.now(DeliveryState::Delayed, reason);
            return Conclusion::Again(settings.pause);
        }
        SendResult::NotSent { after } | SendResult::Unknown { after } => after,
    };
    if delivery.record.state.is_final() {
        // A report has confirmed the delivery meanwhile.
        return Conclusion::Done;
    }
    let give_up = settings.sms.on_ambiguous == OnAmbiguous::GiveUp;
    if unclear && delivery.channel == ChannelKind::Sms && give_up {
        let reason =
            "it may have been sent, and is not sent again (notify.sms.on_ambiguous = give_up)";
        delivery.now(DeliveryState::Failed, reason);
        return Conclusion::Done;
    }
    let tries = delivery.tries();
    if tries >= settings.max_attempts {
        return Conclusion::Dead;
    }
    let policy = Policy {
        initial: settings.retry_initial,
        max: MAX_PAUSE,
        deadline: None,
    };
    let own = policy.delay_after(u32::try_from(tries).unwrap_or(u32::MAX));
    let pause = after.map_or(own, |after| after.max(own)).min(MAX_PAUSE);
    let reason = if unclear {
        "the last attempt had no clear answer; it is tried again, and may arrive twice"
    } else {
        "the provider could not take it; it is tried again"
    };
    delivery.now(DeliveryState::Delayed, reason);
    Conclusion::Again(pause)
}

pub(super) async fn finish(
    notifier: &Notifier,
    delivery: &mut Delivery,
    next: Conclusion,
) -> Result<Next> {
    Ok(match next {
        Conclusion::Done => Next::Done,
        Conclusion::Again(pause) => Next::Again(pause),
        Conclusion::Dead => {
            let reason = format!("given up after {} attempts", delivery.tries());
            give_up(notifier, delivery.clone(), &reason).await?
        }
    })
}

/// Writes a dead letter and records that in the delivery. The letter comes first: if interrupted in between, it is
/// written again under the same id.
pub(super) async fn give_up(
    notifier: &Notifier,
    mut delivery: Delivery,
    reason: &str,
) -> Result<Next> {
    // A dead letter could not be replayed: codes and tokens are not stored.
    if delivery.record.purpose != Purpose::Messages {
        delivery.now(DeliveryState::Failed, reason);
        return put(notifier, delivery).await;
    }
    let at = Timestamp::now();
    let envelope = Envelope {
        v: command::VERSION,
        at,
        actor: delivery.user,
        reply: None,
        command: Command::Notify(NotifyCommand::Replay {
            delivery: delivery.id,
        }),
    };
    let original = serde_json::to_vec(&envelope).map_err(Error::internal)?;
    let attempts = delivery.record.attempts.len().to_be_bytes();
    let key = envelope.command.key(delivery.user);
    let letter = DeadLetter {
        id: derived_id("given up", &[delivery.id.as_bytes(), &attempts]),
        at,
        reason: format!("notification by {}: {reason}", delivery.channel),
        partition: command::partition_of(key, notifier.config.queue.partitions),
        payload: String::from_utf8_lossy(&original).into_owned(),
    };
    notifier.store.close_delivery(delivery.id).await?;
    notifier.dead.put(&letter, original.into()).await?;
    metrics()
        .dead_letters
        .with_label_values(&["notification"])
        .inc();
    delivery.now(DeliveryState::Dead, reason);
    put(notifier, delivery).await
}

pub(super) async fn put(notifier: &Notifier, mut delivery: Delivery) -> Result<Next> {
    Ok(if notifier.store.change_delivery(&mut delivery).await? {
        Next::Done
    } else {
        Next::Again(CONFLICT_PAUSE)
    })
}

/// Records why the delivery waits, unless already recorded. A version conflict is ignored: the other change is newer.
pub(super) async fn delay(
    notifier: &Notifier,
    delivery: &mut Delivery,
    reason: &str,
) -> Result<()> {
    if delivery.record.state != DeliveryState::Delayed || delivery.record.reason != reason {
        delivery.now(DeliveryState::Delayed, reason);
        notifier.store.change_delivery(delivery).await?;
    }
    Ok(())
}

pub(super) fn count(channel: ChannelKind, verdict: &SendResult) {
    let outcome = match verdict {
        SendResult::Sent { .. } => "sent",
        SendResult::NotSent { .. } => "not_sent",
        SendResult::Unknown { .. } => "unknown",
        SendResult::Refused { .. } => "refused",
        SendResult::Locked => "locked",
    };
    metrics()
        .notify_attempts
        .with_label_values(&[channel.as_str(), outcome])
        .inc();
}
