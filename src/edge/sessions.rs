//! Who is connected to this edge: to reach one session, or all of one login, or all of them at the end.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use rand::RngExt;

use super::session::{Seated, event};
use crate::{
    edge::outbox::Item,
    job::Notice,
    model::{LoginId, Timestamp, UserId},
    protocol::{Close, SendFailed},
};

#[derive(Default)]
pub struct Sessions {
    open: Mutex<HashMap<u64, (LoginId, Arc<Seated>)>>,
}

impl Sessions {
    pub fn add(&self, session: u64, login: LoginId, who: Arc<Seated>) {
        self.lock().insert(session, (login, who));
    }

    pub fn remove(&self, session: u64) {
        self.lock().remove(&session);
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Every connected user with when they last did something, once for each of their sockets.
    pub fn present(&self) -> Vec<(UserId, Timestamp)> {
        let open = self.lock();
        open.values()
            .map(|(_, who)| (who.user, who.active()))
            .collect()
    }

    /// The logins that have sockets here, each once.
    pub fn logins(&self) -> Vec<LoginId> {
        let logins: HashSet<LoginId> = self.lock().values().map(|(login, _)| *login).collect();
        logins.into_iter().collect()
    }

    /// Closes every socket of these logins with 4001.
    pub fn close_logins(&self, ended: &[LoginId]) {
        for (login, who) in self.lock().values() {
            if ended.contains(login) {
                who.outbox.close(Close::Unauthorized);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a worker has to tell one session or login. Answers to requests go to the submitter instead.
    pub fn notice(&self, notice: Notice) {
        match notice {
            Notice::SendFailed {
                session,
                client_msg_id,
                room,
                refusal,
            } => {
                if let Some((_, who)) = self.lock().get(&session) {
                    let failed = SendFailed {
                        room,
                        client_msg_id,
                        code: refusal.code,
                        message: refusal.message,
                    };
                    who.outbox.push(Item::Event(event("sendFailed", &failed)));
                }
            }
            Notice::LoginClosed { login } => self.close_logins(&[login]),
            Notice::Outcome { .. } | Notice::AccountChanged { .. } => {}
        }
    }

    /// Closes every session with 1012, spread evenly over `drain`. The close reason tells each client after how many
    /// milliseconds to come back, spread the same way, so that the next edge is not stormed.
    pub async fn drain(&self, drain: Duration) {
        let all: Vec<Arc<Seated>> = self.lock().values().map(|(_, who)| who.clone()).collect();
        if all.is_empty() {
            return;
        }
        let pause = drain / u32::try_from(all.len()).unwrap_or(u32::MAX);
        let mut owed = Duration::ZERO;
        for who in all {
            let hint = rand::rng().random_range(0..=drain.as_millis().min(5000) as u64);
            let reason = format!("{{\"retryAfterMs\":{hint}}}");
            who.outbox.close_with(Close::Restarting, reason);
            // Timers are no finer than a millisecond.
            owed += pause;
            if owed >= Duration::from_millis(1) {
                tokio::time::sleep(std::mem::take(&mut owed)).await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (LoginId, Arc<Seated>)>> {
        self.open.lock()
    }
}
