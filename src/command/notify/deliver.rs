//! One delivery: selects the messages still needed, makes one attempt, and applies the provider's answer. Each step is
//! stored before the next begins.

use std::time::Duration;

use uuid::Uuid;

use super::{
    CODE_TTL, Next, Notifier, RESET_TTL,
    conclude::{CONFLICT_PAUSE, Conclusion, conclude, count, delay, finish, give_up, put},
};
use crate::{
    error::{Error, Result},
    model::{
        RoomId, Timestamp, UserId,
        address::Address,
        derived_id,
        notify::{Attempt, ChannelKind, Delivery, DeliveryState, Purpose, RoomMode},
    },
    notify::{Outgoing, SendReport, SendResult, countries, template},
    store::notify::{DigestLine, NotifySettings},
};

/// How long after its timeout an attempt without an answer counts as interrupted.
pub(super) const INTERRUPTED_AFTER: Duration = Duration::from_secs(2);
/// Why a number gets no text messages.
const COUNTRY_NOT_ALLOWED: &str = "text messages do not go to such numbers (notify.sms.countries)";
/// Maximum version conflicts while an answer is stored.
const MAX_CONFLICTS: usize = 20;

pub(super) async fn run(notifier: &Notifier, id: Uuid, code: Option<&str>) -> Result<Next> {
    let Some(mut delivery) = notifier.store.delivery(id).await? else {
        // The user's data has been deleted.
        return Ok(Next::Done);
    };
    if delivery.record.state.is_final() {
        return Ok(Next::Done);
    }
    if let Some(next) = check_unfinished(notifier, &mut delivery).await? {
        return Ok(next);
    }
    let settings = notifier.store.notify_settings(delivery.user).await?;
    if settings.gone {
        return cancel(notifier, delivery).await;
    }
    if delivery.tries() >= notifier.config.notify.max_attempts {
        // A worker stopped between its last answer and the dead letter, or between the dead letter and the delivery
        // log.
        let next = finish(notifier, &mut delivery, Conclusion::Dead).await?;
        return Ok(next);
    }
    let now = Timestamp::now();
    if delivery.record.purpose == Purpose::Messages {
        if let Some(reason) = unwanted(&settings, delivery.channel) {
            notifier.store.close_delivery(id).await?;
            delivery.now(DeliveryState::Suppressed, reason);
            return put(notifier, delivery).await;
        }
        if let Some(until) = settings.preferences.quiet_until(now) {
            delay(notifier, &mut delivery, "waits for the end of quiet hours").await?;
            // Slightly later, so that the quiet hours are certainly over.
            return Ok(Next::Again(
                between(now, until) + Duration::from_millis(500),
            ));
        }
    }
    if let Some(reason) = too_old(notifier, &delivery, now) {
        return give_up(notifier, delivery, &reason).await;
    }
    let limiter = notifier.limiter(delivery.channel);
    if let Some((wait, locked)) = limiter.closed() {
        let reason = if locked {
            "the channel is paused: the provider refuses the server's credentials"
        } else {
            "the provider fails just now"
        };
        delay(notifier, &mut delivery, reason).await?;
        return Ok(Next::Again(wait));
    }
    let Some(outgoing) = compose(notifier, &mut delivery, &settings, code).await? else {
        return put(notifier, delivery).await;
    };
    if let Address::Phone(number) = &outgoing.to
        && !countries::allowed(number, &notifier.config.notify.sms.countries)
    {
        notifier.store.close_delivery(id).await?;
        delivery.now(DeliveryState::Suppressed, COUNTRY_NOT_ALLOWED);
        return put(notifier, delivery).await;
    }
    if let Some(reason) = notifier.store.suppressed(&outgoing.to).await? {
        delivery.now(DeliveryState::Suppressed, reason);
        return put(notifier, delivery).await;
    }
    let permit = match limiter.acquire(notifier.coordination.as_ref()).await {
        Ok(permit) => permit,
        Err(wait) => return Ok(Next::Again(wait)),
    };
    let next = attempt(notifier, delivery, &outgoing).await;
    limiter
        .release(notifier.coordination.as_ref(), permit)
        .await;
    next
}

/// Cancels a delivery whose account was deleted.
async fn cancel(notifier: &Notifier, mut delivery: Delivery) -> Result<Next> {
    notifier.store.close_delivery(delivery.id).await?;
    delivery.record.address = None;
    delivery.now(DeliveryState::Cancelled, super::GONE);
    put(notifier, delivery).await
}

/// Cancels a delivery of a deleted account, unless an attempt is in progress, and removes its address.
pub(super) async fn erase(notifier: &Notifier, mut delivery: Delivery) -> Result<()> {
    for _ in 0..MAX_CONFLICTS {
        let attempts = delivery.record.attempts.last();
        let attempted = attempts.is_some_and(|attempt| attempt.ended_at.is_none());
        let ends = !delivery.record.state.is_final() && !attempted;
        if ends {
            notifier.store.close_delivery(delivery.id).await?;
            delivery.now(DeliveryState::Cancelled, super::GONE);
        } else if delivery.record.address.is_none() {
            return Ok(());
        }
        delivery.record.address = None;
        if notifier.store.change_delivery(&mut delivery).await? {
            return Ok(());
        }
        match notifier.store.delivery(delivery.id).await? {
            Some(fresh) => delivery = fresh,
            None => return Ok(()),
        }
    }
    Err(Error::unavailable(
        "database",
        "a delivery changes all the time",
    ))
}

/// Handles an unfinished attempt: either it is still in progress, or its worker died and the provider may have accepted
/// the message.
async fn check_unfinished(notifier: &Notifier, delivery: &mut Delivery) -> Result<Option<Next>> {
    let Some(last) = delivery.record.attempts.last_mut() else {
        return Ok(None);
    };
    if last.ended_at.is_some() {
        return Ok(None);
    }
    let now = Timestamp::now();
    let patience = notifier.config.notify.timeout + INTERRUPTED_AFTER;
    if let Some(left) = under_way(last.started_at, now, patience) {
        return Ok(Some(Next::Again(left)));
    }
    last.ended_at = Some(now);
    last.answer = Some("no answer: the worker was stopped while it waited".to_owned());
    let verdict = SendResult::Unknown { after: None };
    let next = conclude(notifier, delivery, verdict);
    Ok(Some(if notifier.store.change_delivery(delivery).await? {
        finish(notifier, delivery, next).await?
    } else {
        Next::Again(CONFLICT_PAUSE)
    }))
}

/// The remaining time of an attempt in progress. A start further in the future than an attempt can last means that the
/// clock went back: such an attempt counts as interrupted, since waiting would block the delivery for the length of the
/// jump.
fn under_way(started: Timestamp, now: Timestamp, patience: Duration) -> Option<Duration> {
    if between(now, started) > patience {
        return None;
    }
    patience
        .checked_sub(between(started, now))
        .filter(|left| !left.is_zero())
}

fn unwanted(settings: &NotifySettings, channel: ChannelKind) -> Option<&'static str> {
    if !settings.preferences.wants(channel) {
        return Some("the channel was switched off");
    }
    settings
        .verified(channel)
        .is_none()
        .then_some("the address is not verified any more")
}

fn too_old(notifier: &Notifier, delivery: &Delivery, now: Timestamp) -> Option<String> {
    let age = between(delivery.since(), now);
    match delivery.record.purpose {
        Purpose::Verification => {
            (age > CODE_TTL).then(|| "the code is out of date by now".to_owned())
        }
        Purpose::PasswordReset => {
            (age > RESET_TTL).then(|| "the token is out of date by now".to_owned())
        }
        Purpose::Messages => (age > notifier.config.notify.max_age).then(|| "too old".to_owned()),
    }
}

/// Composes the message. `None`, with the delivery's state set, if there is nothing to send.
async fn compose(
    notifier: &Notifier,
    delivery: &mut Delivery,
    settings: &NotifySettings,
    code: Option<&str>,
) -> Result<Option<Outgoing>> {
    let url = notifier.public_url();
    let templates = &notifier.config.notify.templates;
    let segments = notifier.config.notify.sms.segments;
    let (id, sms) = (delivery.id, delivery.channel == ChannelKind::Sms);
    let report_to = notifier
        .config
        .edge
        .public_url
        .as_ref()
        .map(|url| format!("{url}/v1/webhooks/twilio?notification={id}"));
    // `unwanted` has excluded unverified addresses.
    let to = match code {
        Some(_) => delivery.address(),
        None => settings.verified(delivery.channel).cloned(),
    };
    let Some(to) = to else {
        notifier.store.close_delivery(id).await?;
        delivery.now(
            DeliveryState::Suppressed,
            "nothing can be sent to the address; set it again",
        );
        return Ok(None);
    };
    let mut outgoing = Outgoing {
        id,
        to,
        subject: String::new(),
        text: String::new(),
        html: String::new(),
        thread: None,
        unsubscribe: None,
        report_to,
    };
    if let Some(code) = code {
        let minutes = CODE_TTL.as_secs() / 60;
        if delivery.record.purpose == Purpose::PasswordReset {
            let link = notifier.config.auth.reset_url.as_ref();
            let link = link.map(|url| format!("{url}{code}"));
            let minutes = RESET_TTL.as_secs() / 60;
            let rendered = template::reset(templates, code, link, minutes);
            outgoing.subject = rendered.subject;
            outgoing.text = rendered.text;
            outgoing.html = rendered.html;
        } else if sms {
            outgoing.text = template::short_code(templates, code, minutes, segments);
        } else {
            let rendered = template::code(templates, code, minutes);
            outgoing.subject = rendered.subject;
            outgoing.text = rendered.text;
            outgoing.html = rendered.html;
        }
        return Ok(Some(outgoing));
    }
    let lines = needed(notifier, delivery).await?;
    if lines.is_empty() {
        delivery.now(
            DeliveryState::Cancelled,
            "nothing of it was unread any more",
        );
        return Ok(None);
    }
    let thread = thread(delivery.user, lines.iter().map(|line| line.room));
    let shown: Vec<_> = lines
        .into_iter()
        .map(|line| template::DigestMessage {
            room: if line.direct {
                String::new()
            } else {
                line.room_name
            },
            sender: line.sender,
            body: line.body,
        })
        .collect();
    if sms {
        outgoing.text = template::short(templates, &shown, &url, segments);
    } else {
        let secret = delivery.record.secret;
        let link = format!("{url}/v1/unsubscribe/{id}/{secret}");
        let rendered = template::digest(templates, &shown, &url, &link);
        outgoing.subject = rendered.subject;
        outgoing.text = rendered.text;
        outgoing.html = rendered.html;
        outgoing.thread = Some(thread);
        outgoing.unsubscribe = Some(link);
    }
    delivery.record.address = Some(outgoing.to.as_str().to_owned());
    Ok(Some(outgoing))
}

/// The thread of a digest: one for each recipient and room, and one for each recipient's digests of several rooms. The
/// id is derived, so that it is the same in every mail and reveals neither the room's id nor the user's.
fn thread(user: UserId, mut rooms: impl Iterator<Item = RoomId>) -> Uuid {
    let first = rooms.next();
    let one = first.filter(|first| rooms.all(|room| room == *first));
    let room = one.unwrap_or_default();
    derived_id("mail thread", &[user.as_bytes(), room.as_bytes()])
}

/// The messages that still need a notification; the others are dropped from the delivery with a reason.
async fn needed(notifier: &Notifier, delivery: &Delivery) -> Result<Vec<DigestLine>> {
    let mut dropped = Vec::new();
    let mut lines = notifier.store.close_delivery(delivery.id).await?;
    lines.retain(|line| {
        let reason = match line.read {
            _ if line.deleted => "the message was deleted",
            None => super::LEFT,
            Some(true) => "read before it was sent",
            _ if line.mode == Some(RoomMode::None) => "the room was muted",
            Some(false) => return true,
        };
        dropped.push((line.message, reason));
        false
    });
    if !dropped.is_empty() {
        notifier.store.drop_lines(delivery.id, &dropped).await?;
    }
    Ok(lines)
}

async fn attempt(notifier: &Notifier, mut delivery: Delivery, outgoing: &Outgoing) -> Result<Next> {
    let Some(channel) = notifier.channels.get(delivery.channel) else {
        delivery.now(
            DeliveryState::Suppressed,
            "the channel is not set up any more",
        );
        return put(notifier, delivery).await;
    };
    let started_at = Timestamp::now();
    delivery.record.attempts.push(Attempt {
        started_at,
        ended_at: None,
        answer: None,
    });
    delivery.now(DeliveryState::Queued, "the provider is asked");
    // The attempt is stored before the request is sent; a concurrent worker gets a version conflict here.
    if !notifier.store.change_delivery(&mut delivery).await? {
        return Ok(Next::Again(CONFLICT_PAUSE));
    }
    let SendReport { verdict, said } = channel.send(outgoing).await;
    count(delivery.channel, &verdict);
    let limiter = notifier.limiter(delivery.channel);
    match verdict {
        SendResult::Locked => limiter.locked(),
        SendResult::NotSent { after: None } | SendResult::Unknown { .. } => limiter.failed(),
        _ => limiter.worked(),
    }
    if verdict == (SendResult::Refused { address: true }) {
        let reason = format!("the provider refuses the address ({said})");
        notifier.store.suppress(&outgoing.to, &reason).await?;
    }
    for _ in 0..MAX_CONFLICTS {
        let mine = |attempt: &&mut Attempt| attempt.started_at == started_at;
        let Some(mine) = delivery.record.attempts.iter_mut().rev().find(mine) else {
            return Ok(Next::Done);
        };
        mine.ended_at = Some(Timestamp::now());
        mine.answer = Some(said.clone());
        let next = conclude(notifier, &mut delivery, verdict.clone());
        if notifier.store.change_delivery(&mut delivery).await? {
            return finish(notifier, &mut delivery, next).await;
        }
        // A report of the provider was stored first.
        match notifier.store.delivery(delivery.id).await? {
            Some(fresh) => delivery = fresh,
            None => return Ok(Next::Done),
        }
    }
    Err(Error::unavailable(
        "database",
        "a delivery changes all the time",
    ))
}

/// The elapsed time; zero if the clock went backwards.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    let millis = to.millis().saturating_sub(from.millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_a_room_are_one_thread_per_recipient() {
        let [ada, bob] = [1, 2].map(Uuid::from_u128);
        let [one, two] = [3, 4].map(Uuid::from_u128);
        let of = |user, rooms: &[Uuid]| thread(user, rooms.iter().copied());
        assert_eq!(of(ada, &[one]), of(ada, &[one, one]));
        assert_eq!(of(ada, &[one, two]), of(ada, &[two, one, two]));
        let different = [
            of(ada, &[one]),
            of(ada, &[two]),
            of(bob, &[one]),
            of(ada, &[one, two]),
            of(bob, &[one, two]),
        ];
        let distinct: std::collections::HashSet<_> = different.iter().collect();
        assert_eq!(distinct.len(), different.len());
    }

    #[test]
    fn an_interrupted_attempt_is_detected_despite_clock_changes() {
        let at = |seconds: i64| Timestamp::from_millis(1_800_000_000_000 + seconds * 1000);
        let patience = Duration::from_secs(17);
        let left = |started, now| under_way(at(started), at(now), patience);
        assert_eq!(left(0, 5), Some(Duration::from_secs(12)));
        assert_eq!(left(0, 17), None);
        // Another machine's clock is slightly ahead.
        assert_eq!(left(3, 0), Some(patience));
        // The clock went back by a day, or forward.
        assert_eq!(left(86_400, 0), None);
        assert_eq!(left(0, 86_400), None);
    }
}
