//! Whether a refresh token may be rotated, decided from the login's locked row. No I/O.

use super::Rotation;
use crate::model::{Timestamp, UserId};

/// A login's row.
pub(super) struct LoginRow {
    pub user: UserId,
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
    /// This rotation was made before, and its new token is still the current one: change nothing.
    Repeated,
    /// Refuse the token; the login stays.
    Refuse,
    /// The login was revoked before. Not the same as `Refuse`: the worker that revoked it may have died before it
    /// closed the login's sockets.
    Revoked,
    /// The token is two or more steps behind the current one, so two parties use the login: revoke it.
    Revoke,
}

/// The current token's predecessor repeats its rotation without a time limit: a client that lost the answer, or the
/// second of two tabs that share a token, gets the current token. Only rotating the current token ends this.
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
    if login.prev_hash.as_deref() == Some(old_hash.as_slice()) {
        // Derived with another secret, the new token is not the current one and would never be accepted.
        return if login.token_hash == *new_hash {
            Step::Repeated
        } else {
            Step::Refuse
        };
    }
    if asked_at < &rotated_at {
        // Older than the last rotation: the queue delivered the command again after its answer was sent.
        Step::Refuse
    } else {
        Step::Revoke
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    /// Rotated from `a` to `b` at second 100.
    fn rotated() -> LoginRow {
        LoginRow {
            user: uuid::Uuid::nil(),
            token_hash: b"b".to_vec(),
            prev_hash: Some(b"a".to_vec()),
            rotated_at: Some(at(100)),
            expires_at: at(1000),
            revoked: false,
        }
    }

    fn rotate(login: &LoginRow, old: &[u8], new: &[u8], asked_at: Timestamp) -> Step {
        let rotation = Rotation {
            login: uuid::Uuid::nil(),
            old_hash: old.to_vec(),
            new_hash: new.to_vec(),
            expires_at: at(2000),
            asked_at,
            applied_at: at(3000),
        };
        decide(login, &rotation)
    }

    #[test]
    fn the_current_token_is_replaced_once() {
        assert_eq!(rotate(&rotated(), b"b", b"c", at(200)), Step::Replace);
        for asked_at in [at(50), at(100), at(112), at(999)] {
            assert_eq!(rotate(&rotated(), b"a", b"b", asked_at), Step::Repeated);
        }
        assert_eq!(rotate(&rotated(), b"a", b"x", at(101)), Step::Refuse);
        assert_eq!(rotate(&rotated(), b"x", b"a", at(100)), Step::Revoke);
        assert_eq!(rotate(&rotated(), b"x", b"c", at(101)), Step::Revoke);
    }

    #[test]
    fn a_login_without_a_rotation_has_no_predecessor() {
        let fresh = LoginRow {
            prev_hash: None,
            rotated_at: None,
            ..rotated()
        };
        assert_eq!(rotate(&fresh, b"b", b"c", at(200)), Step::Replace);
        assert_eq!(rotate(&fresh, b"a", b"b", at(200)), Step::Revoke);
    }

    /// Every token of a chain, presented at every state of the login.
    #[test]
    fn only_a_token_two_or_more_steps_behind_revokes() {
        let token = |number: u8| vec![b't', number];
        for current in 1..6u8 {
            let login = LoginRow {
                token_hash: token(current),
                prev_hash: Some(token(current - 1)),
                ..rotated()
            };
            for presented in 0..=current {
                let step = rotate(&login, &token(presented), &token(presented + 1), at(500));
                let expected = match current - presented {
                    0 => Step::Replace,
                    1 => Step::Repeated,
                    _ => Step::Revoke,
                };
                assert_eq!(step, expected, "{presented} while {current} is current");
            }
        }
    }

    #[test]
    fn an_old_command_delivered_again_revokes_nothing() {
        // A client repeated its refresh while no worker ran: all repeats arrive after the first is done.
        assert_eq!(rotate(&rotated(), b"a", b"b", at(50)), Step::Repeated);
        assert_eq!(rotate(&rotated(), b"x", b"a", at(90)), Step::Refuse);
    }

    #[test]
    fn an_ended_login_is_refused() {
        assert_eq!(rotate(&rotated(), b"b", b"c", at(1000)), Step::Refuse);
        let revoked = LoginRow {
            revoked: true,
            ..rotated()
        };
        assert_eq!(rotate(&revoked, b"b", b"c", at(200)), Step::Revoked);
    }
}
