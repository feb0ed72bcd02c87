//! Whether a refresh token may be rotated, decided from the login's locked row. No I/O.

use super::Rotation;
use crate::model::Timestamp;

/// A login's row.
pub(super) struct LoginRow {
    pub token_hash: Vec<u8>,
    pub prev_hash: Option<Vec<u8>>,
    pub rotated_at: Option<Timestamp>,
    pub expires_at: Timestamp,
    pub revoked: bool,
}

debug_of!(LoginRow {
    rotated_at,
    expires_at,
    revoked
});

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The token is the current one: replace it by the new one.
    Replace,
    /// This rotation was made before: nothing is left to do.
    Repeated,
    Refuse,
    /// The login was revoked before. Not the same as `Refuse`: the worker that revoked it may have died before it
    /// closed the login's sockets.
    Revoked,
    /// A token that was replaced before is used again, so two parties hold it: the login is revoked.
    Revoke,
}

pub(super) fn decide(login: &LoginRow, rotation: &Rotation) -> Step {
    let Rotation {
        old_hash,
        new_hash,
        asked_at,
        ..
    } = rotation;
    if login.revoked {
        return Step::Revoked;
    }
    if login.expires_at <= *asked_at {
        return Step::Refuse;
    }
    if login.token_hash == *old_hash {
        return Step::Replace;
    }
    let Some(rotated_at) = login.rotated_at else {
        return Step::Revoke;
    };
    let age = asked_at.millis().saturating_sub(rotated_at.millis());
    let same =
        login.prev_hash.as_deref() == Some(old_hash.as_slice()) && login.token_hash == *new_hash;
    let grace = i64::try_from(rotation.grace.as_millis()).unwrap_or(i64::MAX);
    if same && age <= grace {
        Step::Repeated
    } else if age < 0 {
        // Older than the last rotation: the queue delivered the command again after its answer was sent.
        Step::Refuse
    } else {
        Step::Revoke
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    /// Rotated from `a` to `b` at second 100.
    fn rotated() -> LoginRow {
        LoginRow {
            token_hash: b"b".to_vec(),
            prev_hash: Some(b"a".to_vec()),
            rotated_at: Some(at(100)),
            expires_at: at(1000),
            revoked: false,
        }
    }

    fn ask(login: &LoginRow, old: &[u8], new: &[u8], asked_at: Timestamp) -> Step {
        let rotation = Rotation {
            login: uuid::Uuid::nil(),
            old_hash: old.to_vec(),
            new_hash: new.to_vec(),
            expires_at: at(2000),
            asked_at,
            applied_at: at(3000),
            grace: GRACE,
        };
        decide(login, &rotation)
    }

    #[test]
    fn the_current_token_is_replaced_once() {
        assert_eq!(ask(&rotated(), b"b", b"c", at(200)), Step::Replace);
        assert_eq!(ask(&rotated(), b"a", b"b", at(110)), Step::Repeated);
        assert_eq!(ask(&rotated(), b"a", b"b", at(111)), Step::Revoke);
        assert_eq!(ask(&rotated(), b"a", b"x", at(101)), Step::Revoke);
        assert_eq!(ask(&rotated(), b"x", b"c", at(101)), Step::Revoke);
    }

    #[test]
    fn an_old_command_delivered_again_revokes_nothing() {
        // A client repeated its refresh while no worker ran: all repeats arrive after the first is done.
        assert_eq!(ask(&rotated(), b"a", b"b", at(50)), Step::Repeated);
        assert_eq!(ask(&rotated(), b"x", b"a", at(90)), Step::Refuse);
    }

    #[test]
    fn an_ended_login_is_refused() {
        assert_eq!(ask(&rotated(), b"b", b"c", at(1000)), Step::Refuse);
        let revoked = LoginRow {
            revoked: true,
            ..rotated()
        };
        assert_eq!(ask(&revoked, b"b", b"c", at(200)), Step::Revoked);
    }
}
