//! What a refresh token may still do: the rule both stores apply while they hold the login's row. No I/O.

use std::time::Duration;

use crate::model::Timestamp;

/// A login's row.
#[derive(Debug)]
pub(super) struct State {
    pub token_hash: Vec<u8>,
    pub prev_hash: Option<Vec<u8>>,
    pub rotated_at: Option<Timestamp>,
    pub expires_at: Timestamp,
    pub revoked: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The token is the current one: put the new one in its place.
    Replace,
    /// This very rotation was made before: nothing is left to do.
    Repeated,
    Refuse,
    /// A token that was used up is shown again, so two parties hold it: nobody may go on with this login.
    Revoke,
}

pub(super) fn decide(
    login: &State,
    old_hash: &[u8],
    new_hash: &[u8],
    now: Timestamp,
    grace: Duration,
) -> Step {
    if login.revoked || login.expires_at <= now {
        return Step::Refuse;
    }
    if login.token_hash == old_hash {
        return Step::Replace;
    }
    let Some(rotated_at) = login.rotated_at else {
        return Step::Revoke;
    };
    let age = now.millis().saturating_sub(rotated_at.millis());
    let same = login.prev_hash.as_deref() == Some(old_hash) && login.token_hash == new_hash;
    let grace = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
    if same && age <= grace {
        Step::Repeated
    } else if age < 0 {
        // Older than the last rotation: the queue delivered it a second time, and its answer went out long ago.
        Step::Refuse
    } else {
        Step::Revoke
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    /// Rotated from `a` to `b` at second 100.
    fn rotated() -> State {
        State {
            token_hash: b"b".to_vec(),
            prev_hash: Some(b"a".to_vec()),
            rotated_at: Some(at(100)),
            expires_at: at(1000),
            revoked: false,
        }
    }

    #[test]
    fn the_current_token_is_replaced_once() {
        assert_eq!(
            decide(&rotated(), b"b", b"c", at(200), GRACE),
            Step::Replace
        );
        assert_eq!(
            decide(&rotated(), b"a", b"b", at(110), GRACE),
            Step::Repeated
        );
        assert_eq!(decide(&rotated(), b"a", b"b", at(111), GRACE), Step::Revoke);
        assert_eq!(decide(&rotated(), b"a", b"x", at(101), GRACE), Step::Revoke);
        assert_eq!(decide(&rotated(), b"x", b"c", at(101), GRACE), Step::Revoke);
    }

    #[test]
    fn an_old_command_delivered_again_harms_nobody() {
        assert_eq!(decide(&rotated(), b"x", b"a", at(90), GRACE), Step::Refuse);
    }

    #[test]
    fn an_ended_login_is_refused() {
        assert_eq!(
            decide(&rotated(), b"b", b"c", at(1000), GRACE),
            Step::Refuse
        );
        let revoked = State {
            revoked: true,
            ..rotated()
        };
        assert_eq!(decide(&revoked, b"b", b"c", at(200), GRACE), Step::Refuse);
    }
}
