//! Limits on verification codes: per recipient address, per user, per client address, and for text messages in total.
//! Each code costs money or disturbs a recipient who may not have requested it.
//!
//! A user who exceeds a limit through their own requests gets an error. A limit that is exceeded by other users'
//! requests for the same recipient is not disclosed: the request is answered as usual, and no code is sent.

use std::{net::IpAddr, time::Duration};

use crate::{
    command::notify::CODE_TTL,
    edge::{
        Edge,
        client_address::network_of,
        rate_limit::{
            counters::{self, Count},
            limited,
        },
    },
    error::Result,
    model::{UserId, address::Address},
};

/// Codes per user and channel within [`CODE_TTL`].
const CODES: u64 = 3;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Counts a code. Returns whether to withhold it silently.
///
/// # Errors
/// `rate_limited`, with the time until another request can succeed.
pub(super) async fn count(
    edge: &Edge,
    user: UserId,
    address: &Address,
    from: Option<IpAddr>,
) -> Result<bool> {
    let limits = &edge.config.limits;
    let (user, channel) = (user.to_string(), address.channel().as_str());
    let (recipient, network) = (recipient(address), network(from));
    let hourly = u64::from(limits.codes_per_recipient_per_hour);
    let daily = u64::from(limits.codes_per_recipient_per_day);
    let mine = [channel, &recipient, &user];
    let of = |purpose: &str, parts: &[&str], window| one(edge, purpose, parts, window);

    // First the caller's own limits: a request that they refuse does not count against the others.
    let own = [
        (CODES, of("codes of a user", &[channel, &user], CODE_TTL)),
        (hourly, of("codes of a user to an address", &mine, HOUR)),
        (daily, of("codes of a user to an address", &mine, DAY)),
        (
            limits.codes_per_address_per_hour.into(),
            of("codes from an address", &[&network], HOUR),
        ),
    ];
    exceeded(edge, &own).await.map_or(Ok(()), refuse)?;
    let all = [
        (hourly, of("codes to an address", &mine[..2], HOUR)),
        (daily, of("codes to an address", &mine[..2], DAY)),
    ];
    if exceeded(edge, &all).await.is_some() {
        return Ok(true);
    }
    if let Address::Phone(_) = address {
        let everyone = u64::from(limits.sms_codes_per_minute);
        let sms = [(everyone, of("codes by text message", &[], MINUTE))];
        exceeded(edge, &sms).await.map_or(Ok(()), refuse)?;
    }
    Ok(false)
}

/// Counts a request for a password reset, before the account is looked up: whether it is refused shows nothing about
/// accounts.
///
/// # Errors
/// `rate_limited`, with the time until another request can succeed.
pub(in crate::edge::api) async fn count_reset_request(
    edge: &Edge,
    from: Option<IpAddr>,
) -> Result<()> {
    let limit = edge.config.limits.codes_per_address_per_hour.into();
    let count = one(edge, "reset requests", &[&network(from)], HOUR);
    exceeded(edge, &[(limit, count)])
        .await
        .map_or(Ok(()), refuse)
}

/// Counts the mail of a password reset. Returns whether to withhold it. The counters are not those of the user's own
/// codes, which strangers must not use up; and each network has its own, so that one cannot use up those of all.
pub(in crate::edge::api) async fn is_reset_withheld(
    edge: &Edge,
    address: &Address,
    from: Option<IpAddr>,
) -> bool {
    let limits = &edge.config.limits;
    let (recipient, network) = (recipient(address), network(from));
    let of = |purpose: &str, parts: &[&str], window| one(edge, purpose, parts, window);
    let daily = u64::from(limits.codes_per_recipient_per_day);
    let mine = [recipient.as_str(), &network];
    let own = [
        (
            limits.codes_per_recipient_per_hour.into(),
            of("resets from a network", &mine, HOUR),
        ),
        (daily, of("resets from a network", &mine, DAY)),
    ];
    if exceeded(edge, &own).await.is_some() {
        return true;
    }
    let all = [(5 * daily, of("resets", &mine[..1], DAY))];
    exceeded(edge, &all).await.is_some()
}

/// One more on a counter.
fn one(edge: &Edge, purpose: &str, parts: &[&str], window: Duration) -> Count {
    Count {
        key: edge.auth.attempts.named(purpose, parts),
        add: 1,
        window,
    }
}

fn network(from: Option<IpAddr>) -> String {
    from.map_or("unknown".to_owned(), |from| network_of(from).to_string())
}

/// Increments all counters. Returns the longest window among those above their limit.
async fn exceeded<const N: usize>(edge: &Edge, counts: &[(u64, Count); N]) -> Option<Duration> {
    let added: Vec<Count> = counts.iter().map(|(_, count)| count.clone()).collect();
    let counters = edge.auth.attempts.counters();
    let totals = counters.add(&*edge.bus.coordination, &added).await;
    let all = counts.iter().zip(totals);
    all.filter(|((limit, _), total)| total > limit)
        .map(|((_, count), _)| count.window)
        .max()
}

fn refuse(window: Duration) -> Result<()> {
    let wait = counters::wait(window);
    Err(limited(
        "too many codes were sent; wait and try again",
        wait,
    ))
}

/// The mailbox behind an address: `+tags` are ignored, and so are dots at Gmail.
fn recipient(address: &Address) -> String {
    let email = match address {
        Address::Phone(number) => return number.as_str().to_owned(),
        Address::Email(email) => email,
    };
    let local = email.local().to_lowercase();
    let local = local.split('+').next().unwrap_or(&local);
    match email.domain() {
        "gmail.com" | "googlemail.com" => format!("{}@gmail.com", local.replace('.', "")),
        domain => format!("{local}@{domain}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::notify::ChannelKind;

    #[test]
    fn spellings_of_one_mailbox_share_a_limit() {
        let of = |text| recipient(&Address::parse(ChannelKind::Email, text).unwrap());
        assert_eq!(of("Ada+news@Example.com"), "ada@example.com");
        assert_eq!(of("a.d.a+x@googlemail.com"), of("ada@gmail.com"));
        assert_ne!(of("a.da@example.com"), of("ada@example.com"));
        assert_ne!(of("ada@example.com"), of("ada@example.org"));
        let number = Address::parse(ChannelKind::Sms, "+4915112345678").unwrap();
        assert_eq!(recipient(&number), "+4915112345678");
    }
}
