//! The sessions open on this edge, by session, login and user.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rand::RngExt;

use super::{
    outbound::{Item, event},
    subscriber::Subscriber,
};
use crate::{
    command::Notice,
    error::{Code, Error, Result},
    model::{LoginId, Timestamp, UserId},
    protocol::{Close, EventName, SendFailed},
};

/// Maximum pause between the closes of two sessions during a shutdown.
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// `retryAfter` of a connection that exceeds the socket limit of its user.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

pub struct Registry {
    /// Maximum open sockets per user on this edge.
    max_per_user: u32,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    sessions: HashMap<u64, (LoginId, Arc<Subscriber>)>,
    /// Open sessions per user; users without sessions have no entry.
    users: HashMap<UserId, u32>,
}

impl Open {
    fn leave(&mut self, user: UserId) {
        if let Entry::Occupied(mut count) = self.users.entry(user) {
            match count.get() {
                ..=1 => drop(count.remove()),
                _ => *count.get_mut() -= 1,
            }
        }
    }
}

/// A socket that is counted but whose session is not registered yet.
pub struct Entering<'a> {
    sessions: &'a Registry,
    user: UserId,
}

impl Entering<'_> {
    /// Registers the session; [`Registry::remove`] ends it.
    pub fn add(self, session: u64, login: LoginId, who: Arc<Subscriber>) {
        let mut open = self.sessions.open.lock();
        open.sessions.insert(session, (login, who));
        drop(open);
        // The count now belongs to the session: skip `drop`.
        std::mem::forget(self);
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.sessions.open.lock().leave(self.user);
    }
}

impl Registry {
    pub fn new(max_per_user: u32) -> Self {
        Registry {
            max_per_user,
            open: Mutex::default(),
        }
    }

    /// Counts a new socket of the user, until its session ends or the result is dropped.
    ///
    /// # Errors
    /// `rate_limited` if the user already has `edge.max_sockets_per_user` sockets here.
    pub fn enter(&self, user: UserId) -> Result<Entering<'_>> {
        let mut open = self.open.lock();
        let count = open.users.entry(user).or_default();
        if *count >= self.max_per_user {
            let message = format!(
                "you have {count} sockets open here, which is as many as you may; close one of them first"
            );
            return Err(Error {
                retry_after: Some(FULL_RETRY_AFTER),
                ..Error::new(Code::RateLimited, message)
            });
        }
        *count += 1;
        Ok(Entering {
            sessions: self,
            user,
        })
    }

    pub fn remove(&self, session: u64) {
        let mut open = self.open.lock();
        if let Some((_, who)) = open.sessions.remove(&session) {
            open.leave(who.user);
        }
    }

    pub fn len(&self) -> usize {
        self.open.lock().sessions.len()
    }

    /// User and time of last activity of every session; a user appears once per socket.
    pub fn present(&self) -> Vec<(UserId, Timestamp)> {
        let open = self.open.lock();
        let sessions = open.sessions.values();
        sessions
            .map(|(_, who)| (who.user, who.last_active()))
            .collect()
    }

    /// The open sessions of a user.
    pub fn of_user(&self, user: UserId) -> Vec<Arc<Subscriber>> {
        let open = self.open.lock();
        if !open.users.contains_key(&user) {
            return Vec::new();
        }
        let sessions = open.sessions.values().filter(|(_, who)| who.user == user);
        sessions.map(|(_, who)| who.clone()).collect()
    }

    /// The distinct logins of all open sessions.
    pub fn logins(&self) -> Vec<LoginId> {
        let open = self.open.lock();
        let logins: HashSet<LoginId> = open.sessions.values().map(|(login, _)| *login).collect();
        logins.into_iter().collect()
    }

    /// Closes every socket of these logins with 4001.
    pub fn close_logins(&self, ended: &[LoginId]) {
        for (login, who) in self.open.lock().sessions.values() {
            if ended.contains(login) {
                who.outbox.close(Close::Unauthorized);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Delivers a worker's notice to the session it names. Outcomes of requests go to the submitter instead.
    pub fn notice(&self, notice: Notice) {
        match notice {
            Notice::SendFailed {
                session,
                client_msg_id,
                room,
                refusal,
                message: _,
            } => {
                if let Some((_, who)) = self.open.lock().sessions.get(&session) {
                    let failed = SendFailed {
                        room,
                        client_msg_id,
                        code: refusal.code,
                        message: refusal.message,
                        id: refusal.id,
                    };
                    who.outbox
                        .push(Item::Event(event(EventName::SendFailed, &failed)));
                }
            }
            Notice::LoginClosed { .. }
            | Notice::Outcome { .. }
            | Notice::AccountChanged { .. }
            | Notice::UserUpdated { .. }
            | Notice::EpochChanged { .. } => {}
        }
    }

    /// How long [`Registry::drain`] takes with the sessions that are open now.
    pub fn drain_takes(&self, drain: Duration) -> Duration {
        let open = self.len();
        let pauses = u32::try_from(open.saturating_sub(1)).unwrap_or(u32::MAX);
        pause(drain, open).saturating_mul(pauses)
    }

    /// Closes all sessions with 1012, spread evenly over `drain`, or faster if there are few. Each close reason holds a
    /// random reconnect delay of up to `drain` or 5 s, whichever is less, so that reconnects are spread as well.
    pub async fn drain(&self, drain: Duration) {
        let all: Vec<Arc<Subscriber>> = {
            let open = self.open.lock();
            open.sessions.values().map(|(_, who)| who.clone()).collect()
        };
        if all.is_empty() {
            return;
        }
        let pause = pause(drain, all.len());
        let mut behind = Duration::ZERO;
        for who in all {
            // Timers have a resolution of one millisecond.
            if behind >= Duration::from_millis(1) {
                tokio::time::sleep(std::mem::take(&mut behind)).await;
            }
            behind += pause;
            let hint = rand::rng().random_range(0..=drain.as_millis().min(5000) as u64);
            let reason = format!("{{\"retryAfterMs\":{hint}}}");
            who.outbox.close_with(Close::Restarting, reason);
        }
    }
}

/// Between the closes of two sessions.
fn pause(drain: Duration, sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions).unwrap_or(u32::MAX).max(1);
    (drain / sessions).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{edge::outbound::Outbox, model::new_id};

    #[test]
    fn a_user_has_so_many_sockets_and_a_closed_one_makes_room() {
        let (sessions, user, other) = (Registry::new(2), new_id(), new_id());
        let open = |session| {
            let who = Subscriber::new(session, user, Outbox::new(1, Arc::default()));
            sessions
                .enter(user)
                .map(|entering| entering.add(session, new_id(), Arc::new(who)))
        };
        let refused = || open(9).is_err_and(|error| error.code == Code::RateLimited);
        open(1).unwrap();
        let entering = sessions.enter(user).unwrap();
        assert!(refused());
        assert!(sessions.enter(other).is_ok());
        drop(entering);
        open(2).unwrap();
        assert!(refused());
        sessions.remove(7);
        assert!(refused(), "an unknown session is not theirs");
        sessions.remove(1);
        sessions.remove(1);
        open(3).unwrap();
        assert!(refused());
        sessions.remove(2);
        sessions.remove(3);
        assert!(sessions.open.lock().users.is_empty());
    }
}
