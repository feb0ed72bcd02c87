//! The limits of attempts.

use super::*;
use crate::{
    bus::memory::{MemoryBus, MemoryBusSettings},
    error::Code,
};

fn attempts(per_pair: u32, per_address: u32) -> (Attempts, MemoryBus) {
    let sources = crate::config::Sources::default();
    let config = crate::config::Config::load(&sources, crate::config::Role::Tool).unwrap();
    let mut limits = config.limits;
    limits.logins_per_minute = per_pair;
    limits.failed_logins_per_address_per_minute = per_address;
    limits.registrations_per_minute = 2;
    let bus = MemoryBus::new(MemoryBusSettings::default());
    (Attempts::new(b"key", &limits), bus)
}

fn at(last: u8) -> Option<IpAddr> {
    Some(IpAddr::from([10, 0, 0, last]))
}

/// The error code of an attempt with a wrong password.
async fn wrong(attempts: &Attempts, bus: &MemoryBus, name: &str, from: u8) -> Option<Code> {
    match attempts.check(bus, name, at(from)).await {
        Ok((attempt, _)) => attempt.failed(bus).await.map(|error| error.code),
        Err(error) => Some(error.code),
    }
}

#[test]
fn delays_grow_and_end() {
    let of = |failed| delay(failed, 10).as_millis();
    assert_eq!([of(0), of(9), of(10), of(11)], [0, 0, 500, 1000]);
    assert_eq!([of(13), of(14), of(15)], [4000, 8000, 8000]);
    assert_eq!(of(u64::MAX), 8000);
}

#[tokio::test]
async fn only_wrong_passwords_count() {
    let (attempts, bus) = attempts(3, 100);
    for _ in 0..10 {
        let busy = attempts.begin(&bus, "ada", at(1)).await.unwrap();
        drop(busy);
        let right = attempts.begin(&bus, "bob", at(1)).await.unwrap();
        right.succeeded(&bus).await;
    }
    for _ in 0..3 {
        assert_eq!(wrong(&attempts, &bus, "ada", 1).await, None);
    }
    assert_eq!(
        wrong(&attempts, &bus, "ADA", 1).await,
        Some(Code::RateLimited)
    );
    // From another address the name is only delayed.
    assert_eq!(wrong(&attempts, &bus, "ada", 2).await, None);
}

#[tokio::test]
async fn guesses_at_once_are_no_more_than_one_after_the_other() {
    let (attempts, bus) = attempts(3, 100);
    let mut under_way = Vec::new();
    for _ in 0..3 {
        under_way.push(attempts.begin(&bus, "ada", at(1)).await.unwrap());
    }
    assert!(attempts.begin(&bus, "ada", at(1)).await.is_err());
    under_way.clear();
    attempts.begin(&bus, "ada", at(1)).await.unwrap();
}

#[tokio::test]
async fn a_spraying_address_is_limited_except_for_its_known_users() {
    let (attempts, bus) = attempts(3, 5);
    attempts.used_well(&bus, "ada", at(1)).await;
    for name in 0..5 {
        assert_eq!(
            wrong(&attempts, &bus, &format!("user{name}"), 1).await,
            None
        );
    }
    assert_eq!(
        wrong(&attempts, &bus, "another", 1).await,
        Some(Code::RateLimited)
    );
    assert!(
        attempts
            .begin(&bus, "ada", at(1))
            .await
            .unwrap()
            .origin
            .known
    );
    attempts.begin(&bus, "another", at(2)).await.unwrap();
}

#[tokio::test]
async fn spraying_at_once_is_no_faster() {
    let (attempts, bus) = attempts(3, 5);
    let mut under_way = Vec::new();
    for name in 0..5 {
        let attempt = attempts.begin(&bus, &format!("user{name}"), at(1)).await;
        under_way.push(attempt.unwrap());
    }
    let refused = attempts.begin(&bus, "another", at(1)).await.err().unwrap();
    assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
    under_way.clear();
    attempts.begin(&bus, "another", at(1)).await.unwrap();
}

#[tokio::test]
async fn an_attacked_name_is_delayed_except_at_known_addresses() {
    let (attempts, bus) = attempts(3, 100);
    attempts.used_well(&bus, "ada", at(1)).await;
    for address in 10..40 {
        assert_eq!(wrong(&attempts, &bus, "ada", address).await, None);
    }
    let (_, delay) = attempts.check(&bus, "ada", at(1)).await.unwrap();
    assert_eq!(delay, Duration::ZERO);
    let (stranger, delay) = attempts.check(&bus, "ada", at(2)).await.unwrap();
    assert!(!stranger.origin.known);
    assert_eq!(delay.as_secs(), 8);
}

#[tokio::test]
async fn the_owner_gets_in_beside_an_attacker_of_the_same_address() {
    let (attempts, bus) = attempts(3, 100);
    attempts.used_well(&bus, "ada", at(1)).await;
    for _ in 0..3 {
        assert_eq!(wrong(&attempts, &bus, "ada", 1).await, None);
    }
    assert_eq!(
        wrong(&attempts, &bus, "ada", 1).await,
        Some(Code::RateLimited)
    );
    let (owner, delay) = attempts.check(&bus, "ada", at(1)).await.unwrap();
    assert_eq!(delay, SLOWED);
    let mut attackers = Vec::new();
    for attacker in 1..SLOWED_AT_ONCE {
        let (attempt, delay) = attempts.check(&bus, "ada", at(1)).await.unwrap();
        assert_eq!(delay, SLOWED.max(SLOWED_EACH * (attacker as u32 + 1)));
        attackers.push(attempt);
    }
    assert!(attempts.check(&bus, "ada", at(1)).await.is_err());
    owner.succeeded(&bus).await;
}

#[tokio::test]
async fn delayed_attempts_of_an_address_are_bounded() {
    let (attempts, bus) = attempts(1, 1000);
    wrong(&attempts, &bus, "ada", 1).await;
    let mut waiting = Vec::new();
    for _ in 0..DELAYED_PER_ADDRESS {
        waiting.push(attempts.delayed.enter(at(2)).1);
    }
    let refused = attempts.begin(&bus, "ada", at(2)).await.err().unwrap();
    assert_eq!(refused.retry_after, Some(FIRST_DELAY));
    let asked = std::time::Instant::now();
    attempts.begin(&bus, "ada", at(3)).await.unwrap();
    assert!(asked.elapsed() >= FIRST_DELAY);
    drop(waiting);
    assert_eq!(attempts.delayed.len(), 0);
}

#[tokio::test]
async fn registrations_are_counted_when_they_were_answered() {
    let (attempts, bus) = attempts(3, 5);
    for _ in 0..5 {
        attempts.may_register(&bus, at(1)).await.unwrap();
    }
    attempts.registered(&bus, at(1)).await;
    attempts.registered(&bus, at(1)).await;
    let refused = attempts.may_register(&bus, at(1)).await.unwrap_err();
    assert_eq!(refused.code, Code::RateLimited);
    attempts.may_register(&bus, at(2)).await.unwrap();
}
