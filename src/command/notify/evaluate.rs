//! Evaluates messages after `notify.delay`: which members they concern, and which of them are notified or not, and why.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Next, Notifier, Task, queue_of};
use crate::{
    bus::UserPresence,
    error::Result,
    model::{
        MessageId, Timestamp, UserId,
        notify::{Cause, ChannelKind, DeliveryState, RoomMode, delivery_id},
    },
    queue::TaskQueue,
    store::notify::{Candidate, Decision, NotifyVerdict},
};

/// How often the evaluation is repeated while the user is connected and active, before the notification is cancelled: a
/// connection that died silently times out in between.
const MAX_REPEATS: u32 = 2;

/// The result of one evaluation for one member.
#[derive(Debug, PartialEq, Eq)]
enum Decided {
    Notify(Vec<ChannelKind>),
    Not(DeliveryState, &'static str),
    /// The user is connected: evaluate again later.
    Later,
}

pub(super) async fn run(notifier: &Notifier, messages: &[MessageId], again: u32) -> Result<Next> {
    let mut candidates = notifier.store.candidates(messages).await?;
    // One global order, so that two workers cannot deadlock on each other's deliveries.
    candidates.sort_unstable_by_key(|candidate| (candidate.user, candidate.room, candidate.seq));
    let present = presence(notifier, &candidates).await;

    let (mut decisions, mut later) = (Vec::new(), BTreeSet::new());
    for candidate in &candidates {
        let activity = present.get(&candidate.user).copied().unwrap_or_default();
        let mut put = |verdict| {
            decisions.push(Decision {
                message: candidate.message,
                room: candidate.room,
                seq: candidate.seq,
                user: candidate.user,
                cause: candidate.cause,
                verdict,
            });
        };
        match decide(notifier, candidate, activity, again) {
            Decided::Notify(channels) => {
                channels
                    .into_iter()
                    .for_each(|c| put(NotifyVerdict::Notify(c)));
            }
            Decided::Not(state, reason) => put(NotifyVerdict::Skip(state, reason)),
            Decided::Later => {
                later.insert(candidate.message);
            }
        }
    }
    if !decisions.is_empty() {
        store_decisions(notifier, &decisions).await?;
    }
    if !later.is_empty() {
        let task = Task::Evaluate {
            messages: later.into_iter().collect(),
            again: again + 1,
        };
        let delay = notifier.config.notify.away_after;
        notifier.push(&task, TaskQueue::Notify, delay).await?;
    }
    Ok(Next::Done)
}

/// Stores the decisions and enqueues the deliveries that they opened.
async fn store_decisions(notifier: &Notifier, decisions: &[Decision]) -> Result<()> {
    let concerned = notifier.store.decide(decisions).await?;
    // A delivery that was already open has its task. One that these messages open gets it here, even if this task was
    // interrupted after the decision and is repeated.
    let ours: HashSet<_> = decisions
        .iter()
        .filter_map(|decision| match decision.verdict {
            NotifyVerdict::Notify(channel) => {
                Some(delivery_id(decision.user, channel, decision.message))
            }
            NotifyVerdict::Skip(..) => None,
        })
        .collect();
    let window = notifier.config.notify.digest_window;
    let tasks = concerned
        .into_iter()
        .filter(|(delivery, _)| ours.contains(delivery))
        .map(|(delivery, channel)| Task::Deliver { delivery }.task(queue_of(channel), window));
    notifier.tasks.push(tasks.collect::<Result<_>>()?).await
}

async fn presence(notifier: &Notifier, candidates: &[Candidate]) -> HashMap<UserId, UserPresence> {
    let users: BTreeSet<UserId> = candidates.iter().map(|candidate| candidate.user).collect();
    let users: Vec<UserId> = users.into_iter().collect();
    match notifier.presence.get(&users).await {
        Ok(presence) => users.into_iter().zip(presence).collect(),
        Err(error) => {
            // One notification too many is better than one too few.
            tracing::debug!(error = %error.chain(), "presence is unavailable; treating all users as away");
            HashMap::new()
        }
    }
}

fn decide(
    notifier: &Notifier,
    candidate: &Candidate,
    activity: UserPresence,
    again: u32,
) -> Decided {
    use DeliveryState::{Cancelled, Suppressed};
    let preferences = &candidate.preferences;
    if candidate.deleted {
        return Decided::Not(Cancelled, "the message was deleted");
    }
    if candidate.gone {
        return Decided::Not(Cancelled, super::GONE);
    }
    match candidate.read {
        None => return Decided::Not(Cancelled, super::LEFT),
        Some(true) => return Decided::Not(Cancelled, "read before the notification was due"),
        Some(false) => {}
    }
    let unwanted = match (candidate.mode, candidate.cause) {
        (Some(RoomMode::All), _) => None,
        (Some(RoomMode::None), _) => Some("the room is muted"),
        (Some(RoomMode::Mentions), Cause::Mention) => None,
        (Some(RoomMode::Mentions), _) => Some("the room is set to mentions only"),
        (None, Cause::Direct) if !preferences.direct => Some("direct messages are switched off"),
        (None, Cause::Mention) if !preferences.mentions => Some("mentions are switched off"),
        (None, _) => None,
    };
    if let Some(reason) = unwanted {
        return Decided::Not(Suppressed, reason);
    }
    let wanted: Vec<_> = ChannelKind::ALL
        .into_iter()
        .filter(|channel| preferences.wants(*channel))
        .collect();
    if wanted.is_empty() {
        return Decided::Not(Suppressed, "every channel is switched off");
    }
    let set_up: Vec<_> = wanted
        .into_iter()
        .filter(|channel| notifier.channels.get(*channel).is_some())
        .collect();
    if set_up.is_empty() {
        return Decided::Not(
            Suppressed,
            "the wanted channel is not set up on this server",
        );
    }
    let reachable: Vec<_> = set_up
        .into_iter()
        .filter(|channel| match channel {
            ChannelKind::Email => candidate.email.is_some(),
            ChannelKind::Sms => candidate.phone.is_some(),
        })
        .collect();
    if reachable.is_empty() {
        return Decided::Not(Suppressed, "no address is verified");
    }
    let away_after = notifier.config.notify.away_after.as_millis() as i64;
    let active = activity.last_active.map_or(i64::MIN, Timestamp::millis);
    let is_active = activity.connected && active > Timestamp::now().millis() - away_after;
    match is_active {
        true if again < MAX_REPEATS => Decided::Later,
        true => Decided::Not(Cancelled, "connected and active the whole time"),
        false => Decided::Notify(reachable),
    }
}
