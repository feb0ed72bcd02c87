//! Rate limits. Every operation of the REST API and every socket event has a cost ([`cost`]) that is taken before the
//! operation runs. Users are charged to their own budgets, shared by all of their sockets and requests on this edge;
//! requests without a login are charged to the client address.
//!
//! [`Admitted`] proves that the cost was taken: only this module creates it, and sessions and REST handlers require it.

pub mod bucket;
pub mod cost;
pub mod counters;
pub mod unread;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    bucket::{Allowance, Keyed, Rate, Users},
    cost::{Budget, Cost},
};
use super::{client_address::network_of, identity::Identity};
use crate::{
    config,
    error::{Code, Error, Result},
    model::{LoginId, UserId},
    protocol::Request,
};

/// Refreshes and logouts per login. A client refreshes every few minutes, and repeats a refresh if the response was
/// lost.
const LOGIN: Rate = Rate::new(1, 30);

/// The budgets of all clients of this edge.
pub struct Limits {
    users: Users,
    addresses: Keyed<IpAddr>,
    /// A separate budget with the same rate.
    pages: Keyed<IpAddr>,
    logins: Keyed<LoginId>,
    /// `limits.burst`.
    commands_burst: u32,
}

/// A request whose cost was taken. Only this module creates it.
pub struct Admitted<T>(T);

impl<T> Admitted<T> {
    pub fn get(&self) -> &T {
        &self.0
    }

    pub fn into_inner(self) -> T {
        self.0
    }
}

impl Limits {
    pub fn new(limits: &config::Limits) -> Self {
        let commands = Rate::new(limits.messages_per_second, limits.burst);
        // An address must be able to use up its logins and registrations.
        let attempts = limits
            .logins_per_minute
            .max(limits.registrations_per_minute);
        let by_address = Rate::new(
            limits.address_requests_per_second.max(attempts / 60),
            limits.address_burst.max(attempts / 10),
        );
        Limits {
            users: Users::new(
                commands,
                // The limits for reads are never below those for sends.
                Rate::new(
                    limits.reads_per_second.max(limits.messages_per_second),
                    limits.read_burst.max(limits.burst),
                ),
            ),
            addresses: Keyed::new(by_address),
            pages: Keyed::new(by_address),
            logins: Keyed::new(LOGIN),
            commands_burst: limits.burst,
        }
    }

    /// The user's budgets, for a session to keep.
    pub fn of(&self, user: UserId) -> Arc<Allowance> {
        self.users.of(user)
    }

    /// Charges an authenticated request to its user.
    ///
    /// # Errors
    /// `rate_limited`, with the time until the same request is allowed.
    pub fn admit(&self, identity: Identity, cost: Cost) -> Result<Admitted<Identity>> {
        self.users.of(identity.user).take(cost)?;
        Ok(Admitted(identity))
    }

    /// Charges an additional cost that is known only from the request's body. Together with the cost that was charged
    /// before, it is at most a full budget, so that every valid request is possible with any `limits.burst`.
    ///
    /// # Errors
    /// `rate_limited`, with the time until the same request is allowed.
    pub fn admit_more(&self, user: UserId, cost: Cost) -> Result<()> {
        match cost.tokens.min(self.commands_burst.saturating_sub(1)) {
            0 => Ok(()),
            tokens => self.users.of(user).take(Cost { tokens, ..cost }),
        }
    }

    /// Charges a request without a login to its address. For a webhook it only checks the budget: requests with a valid
    /// signature are not charged.
    ///
    /// # Errors
    /// `rate_limited`, with the time until the same request is allowed.
    pub fn admit_address(&self, from: Option<IpAddr>, cost: Cost) -> Result<()> {
        let (budget, tokens) = match cost.budget {
            Budget::Address => (&self.addresses, cost.tokens),
            Budget::Pages => (&self.pages, cost.tokens),
            Budget::Refused => (&self.addresses, 0),
            Budget::Commands | Budget::Reads | Budget::Marks | Budget::Free => return Ok(()),
        };
        let taken = budget.take(key(from), f64::from(tokens), Instant::now());
        taken.map_err(|wait| refused("too many requests from your address", wait))
    }

    /// Charges a webhook request that was refused.
    pub fn charge_refused(&self, from: Option<IpAddr>, cost: Cost) {
        if cost.budget == Budget::Refused {
            let _ = self
                .addresses
                .take(key(from), f64::from(cost.tokens), Instant::now());
        }
    }

    /// Charges a refresh or logout to its login, so that the holder of a token, even an expired one, can use up only
    /// that login's budget.
    ///
    /// # Errors
    /// `rate_limited`, with the time until the same request is allowed.
    pub fn admit_login(&self, login: LoginId) -> Result<()> {
        let taken = self.logins.take(login, 1.0, Instant::now());
        taken.map_err(|wait| refused("too many requests with this token", wait))
    }
}

impl Allowance {
    /// Charges a socket event.
    ///
    /// # Errors
    /// `rate_limited`, with the time until the same event is allowed.
    pub fn admit(&self, request: Request) -> Result<Admitted<Request>> {
        self.take(cost::of_event(&request))?;
        Ok(Admitted(request))
    }

    /// Charges a frame that cannot be parsed, since it needs an error response as well.
    ///
    /// # Errors
    /// `rate_limited`, with the time until the next such frame is answered as usual.
    pub fn admit_unreadable(&self) -> Result<()> {
        self.take(cost::UNREADABLE)
    }

    fn take(&self, cost: Cost) -> Result<()> {
        let what = match cost.budget {
            Budget::Commands => "you send faster than allowed; wait and send it again",
            Budget::Reads => "you read faster than allowed; wait and try again",
            Budget::Marks => "you mark faster than allowed; wait, then send the newest mark",
            Budget::Address | Budget::Pages | Budget::Refused | Budget::Free => return Ok(()),
        };
        let taken = self.take_at(cost, Instant::now());
        taken.map_err(|wait| limited(what, wait))
    }
}

fn key(from: Option<IpAddr>) -> IpAddr {
    from.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), network_of)
}

fn refused(what: &str, wait: Duration) -> Error {
    limited(&format!("{what}; wait and try again"), wait)
}

/// `rate_limited`; the same request works after `wait`.
pub fn limited(message: &str, wait: Duration) -> Error {
    Error {
        retry_after: Some(wait.max(Duration::from_millis(1))),
        ..Error::new(Code::RateLimited, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::new_id;

    fn limits() -> Limits {
        Limits::new(&config::Limits {
            messages_per_second: 1,
            burst: 2,
            reads_per_second: 1,
            read_burst: 3,
            logins_per_minute: 10,
            failed_logins_per_address_per_minute: 30,
            registrations_per_minute: 10,
            address_requests_per_second: 1,
            address_burst: 2,
            codes_per_recipient_per_hour: 3,
            codes_per_recipient_per_day: 10,
            codes_per_address_per_hour: 100,
            sms_codes_per_minute: 60,
        })
    }

    fn cost(budget: Budget) -> Cost {
        Cost { budget, tokens: 1 }
    }

    #[test]
    fn a_user_who_reads_can_still_send() {
        let allowance = limits().of(new_id());
        while allowance.take(cost(Budget::Reads)).is_ok() {}
        while allowance.take(cost(Budget::Marks)).is_ok() {}
        for _ in 0..2 {
            allowance.take(cost(Budget::Commands)).unwrap();
        }
        let refused = allowance.take(cost(Budget::Commands)).unwrap_err();
        assert_eq!(refused.code, Code::RateLimited);
        assert!(matches!(refused.retry_after_ms(), Some(1..=1000)));
    }

    #[test]
    fn a_webhook_is_charged_only_if_refused() {
        let limits = limits();
        let from = |last| Some(IpAddr::from([127, 0, 0, last]));
        let webhook = cost(Budget::Refused);
        for _ in 0..10 {
            limits.admit_address(from(1), webhook).unwrap();
        }
        for _ in 0..2 {
            limits.charge_refused(from(1), webhook);
        }
        assert!(limits.admit_address(from(1), webhook).is_err());
        assert!(
            limits
                .admit_address(from(1), cost(Budget::Address))
                .is_err()
        );
        limits.admit_address(from(2), webhook).unwrap();
    }

    #[test]
    fn an_additional_cost_above_the_burst_takes_a_full_budget() {
        let (limits, user) = (limits(), new_id());
        let allowance = limits.of(user);
        allowance.take(cost(Budget::Commands)).unwrap();
        let members = Cost {
            budget: Budget::Commands,
            tokens: 100,
        };
        limits.admit_more(user, members).unwrap();
        assert!(allowance.take(cost(Budget::Commands)).is_err());
    }

    #[test]
    fn a_token_spends_only_what_its_login_may() {
        let limits = limits();
        let (stolen, other) = (new_id(), new_id());
        for _ in 0..30 {
            limits.admit_login(stolen).unwrap();
        }
        assert!(limits.admit_login(stolen).is_err());
        limits.admit_login(other).unwrap();
    }
}
