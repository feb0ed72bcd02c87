//! Notification commands from edges: preferences, address verification codes and provider reports.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Notifier, Task, queue_of};
use crate::{
    command::{Outcome, Refusal},
    error::{Code, Error, Result},
    model::{
        RoomId, Timestamp, UserId,
        address::Address,
        derived_id,
        notify::{ChannelKind, Delivery, DeliveryState, Preferences, Purpose, Report, RoomMode},
    },
    store::notify::{CodeAnswer, NewCode},
};

/// Maximum version conflicts while a report is stored.
const MAX_CONFLICTS: usize = 20;
/// Why a code was not sent.
const WITHHELD: &str =
    "too many codes were asked for at this address (limits.codes_per_recipient_per_hour, _per_day)";
/// The reason of a suppression requested by the recipient, the only one that the recipient can lift.
const OPTED_OUT: &str = "the recipient answered STOP";

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NotifyCommand {
    Prefer {
        preferences: Preferences,
        rooms: Vec<(RoomId, RoomMode)>,
    },
    /// The code exists only in the queue and in the message that carries it.
    SendCode {
        delivery: Uuid,
        #[serde(flatten)]
        address: Address,
        code: String,
        hash: Vec<u8>,
        expires_at: Timestamp,
        /// The address has exceeded its limit of codes for other users: nothing is sent, and the answer is the same.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        withheld: bool,
    },
    /// The token exists only in the queue and in the mail that carries it.
    SendReset {
        delivery: Uuid,
        #[serde(flatten)]
        address: Address,
        token: String,
    },
    TryCode {
        channel: ChannelKind,
        hash: Vec<u8>,
    },
    Report(Report),
    /// From the unsubscribe link of a notification.
    Unsubscribe {
        delivery: Uuid,
    },
    /// An address opted out of all notifications, or in again, whichever account it belongs to.
    OptOut {
        #[serde(flatten)]
        address: Address,
        stop: bool,
    },
    /// From the dead letters.
    Replay {
        delivery: Uuid,
    },
}

impl NotifyCommand {
    /// The partition key: commands of one user, one delivery or one address stay in order.
    pub fn key(&self, actor: UserId) -> Uuid {
        match self {
            NotifyCommand::Report(report) => report.delivery,
            NotifyCommand::Replay { delivery } => *delivery,
            NotifyCommand::OptOut { address, .. } => {
                derived_id("address", &[address.key().as_bytes()])
            }
            _ => actor,
        }
    }
}

/// Omits codes and addresses: failed commands are logged.
impl std::fmt::Debug for NotifyCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NotifyCommand::Prefer { .. } => "Prefer",
            NotifyCommand::SendCode { .. } => "SendCode",
            NotifyCommand::SendReset { .. } => "SendReset",
            NotifyCommand::TryCode { .. } => "TryCode",
            NotifyCommand::Report(_) => "Report",
            NotifyCommand::Unsubscribe { .. } => "Unsubscribe",
            NotifyCommand::OptOut { .. } => "OptOut",
            NotifyCommand::Replay { .. } => "Replay",
        })
    }
}

/// Applies one command; idempotent.
pub async fn run(notifier: &Notifier, actor: UserId, command: &NotifyCommand) -> Result<Outcome> {
    let store = notifier.store.as_ref();
    match command {
        NotifyCommand::Prefer { preferences, rooms } => {
            store.put_notify_settings(actor, preferences, rooms).await?;
        }
        NotifyCommand::SendCode {
            delivery,
            address,
            code,
            hash,
            expires_at,
            withheld,
        } => {
            let new = NewCode {
                user: actor,
                address: address.clone(),
                hash: hash.clone(),
                expires_at: *expires_at,
            };
            store.put_code(&new).await?;
            let channel = address.channel();
            let mut sent = Delivery::new(*delivery, actor, channel, Purpose::Verification);
            sent.record.address = Some(address.as_str().to_owned());
            if *withheld {
                tracing::info!(%delivery, %channel, "verification code withheld: the address has reached its limit");
                sent.now(DeliveryState::Suppressed, WITHHELD);
                store.put_delivery(&sent).await?;
                return Ok(Outcome::Done(None));
            }
            store.put_delivery(&sent).await?;
            let task = Task::Verify {
                delivery: *delivery,
                code: code.clone(),
            };
            notifier
                .push(&task, queue_of(channel), std::time::Duration::ZERO)
                .await?;
        }
        NotifyCommand::SendReset {
            delivery,
            address,
            token,
        } => {
            let channel = address.channel();
            let mut sent = Delivery::new(*delivery, actor, channel, Purpose::PasswordReset);
            sent.record.address = Some(address.as_str().to_owned());
            store.put_delivery(&sent).await?;
            let task = Task::Verify {
                delivery: *delivery,
                code: token.clone(),
            };
            notifier
                .push(&task, queue_of(channel), std::time::Duration::ZERO)
                .await?;
        }
        NotifyCommand::TryCode { channel, hash } => {
            let answer = store
                .try_code(actor, *channel, hash, Timestamp::now())
                .await?;
            let refusal = match answer {
                CodeAnswer::Right => return Ok(Outcome::Done(None)),
                CodeAnswer::Wrong => "this is not the code",
                CodeAnswer::NoneOpen => {
                    "no code is open: it was used, is too old, or was guessed too often; ask for another"
                }
            };
            return Ok(Outcome::Refused(Refusal::new(Code::Invalid, refusal)));
        }
        NotifyCommand::Report(report) => apply(notifier, report).await?,
        NotifyCommand::Unsubscribe { delivery } => {
            let Some(delivery) = store.delivery(*delivery).await? else {
                return Ok(Outcome::Done(None));
            };
            let settings = store.notify_settings(delivery.user).await?;
            let mut preferences = settings.preferences;
            match delivery.channel {
                ChannelKind::Email => preferences.email = false,
                ChannelKind::Sms => preferences.sms = false,
            }
            store
                .put_notify_settings(delivery.user, &preferences, &settings.rooms)
                .await?;
        }
        NotifyCommand::OptOut { address, stop } => {
            if *stop {
                store.suppress(address, OPTED_OUT).await?
            } else {
                store.unsuppress(address, OPTED_OUT).await?
            }
        }
        NotifyCommand::Replay { delivery } => replay(notifier, *delivery).await?,
    }
    Ok(Outcome::Done(None))
}

/// Applies a provider's report once; a delivery's state only moves forward.
async fn apply(notifier: &Notifier, report: &Report) -> Result<()> {
    let store = notifier.store.as_ref();
    for _ in 0..MAX_CONFLICTS {
        let Some(mut delivery) = store.delivery(report.delivery).await? else {
            tracing::debug!("ignored a provider report for an unknown delivery");
            return Ok(());
        };
        // Before the report is recorded: if interrupted in between, the provider sends it again.
        if let (true, Some(address)) = (report.suppress, delivery.address()) {
            store.suppress(&address, &report.reason).await?;
        }
        if delivery.record.reports.contains(&report.id) {
            return Ok(());
        }
        delivery.record.reports.push(report.id.clone());
        if report.state.rank() > delivery.record.state.rank() {
            delivery.now(report.state, report.reason.clone());
        }
        if store.change_delivery(&mut delivery).await? {
            return Ok(());
        }
    }
    Err(Error::unavailable(
        "database",
        "a delivery changes all the time",
    ))
}

async fn replay(notifier: &Notifier, id: Uuid) -> Result<()> {
    let Some(mut delivery) = notifier.store.delivery(id).await? else {
        return Ok(());
    };
    if delivery.record.state == DeliveryState::Dead {
        delivery.record.replayed_at = Some(Timestamp::now());
        delivery.now(DeliveryState::Queued, "taken out of the dead letters");
        if !notifier.store.change_delivery(&mut delivery).await? {
            return Err(Error::unavailable(
                "database",
                "a delivery changed meanwhile",
            ));
        }
    }
    let task = Task::Deliver { delivery: id };
    let queue = queue_of(delivery.channel);
    notifier.push(&task, queue, std::time::Duration::ZERO).await
}
