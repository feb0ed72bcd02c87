//! What one user asked for over REST and has not read yet: bounded in bytes, so that an account that asks and does not read
//! holds little of the edge's memory, whatever the number of its connections.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

/// Bytes of answers that one user may have on the way from this edge. One answer is always allowed.
const MAX_UNREAD: usize = 8 * 1024 * 1024;
/// Answers up to this size, in bytes, are not counted: they cost less than their connection.
pub const SMALL: usize = 16 * 1024;

/// Bytes on the way to one user.
#[derive(Debug, Clone, Default)]
pub struct Unread(Arc<AtomicUsize>);

/// An answer that counts until its last byte is with the system, or the connection ends.
struct Held {
    answer: Bytes,
    unread: Unread,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.answer
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.unread
            .0
            .fetch_sub(self.answer.len(), Ordering::Relaxed);
    }
}

impl Unread {
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// The same bytes, counted until they are dropped; `None` where too many are on the way already.
    pub fn hold(&self, answer: Bytes) -> Option<Bytes> {
        if answer.len() <= SMALL {
            return Some(answer);
        }
        let before = self.0.fetch_add(answer.len(), Ordering::Relaxed);
        // Gives the bytes back when it is dropped, also right below.
        let held = Held {
            answer,
            unread: self.clone(),
        };
        let allowed = before == 0 || before.saturating_add(held.answer.len()) <= MAX_UNREAD;
        allowed.then(|| Bytes::from_owner(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_until_they_are_read() {
        let unread = Unread::default();
        let answer = |size: usize| Bytes::from(vec![b'x'; size]);
        let first = unread.hold(answer(2 * MAX_UNREAD)).expect("one is allowed");
        assert_eq!(first.len(), 2 * MAX_UNREAD);
        assert!(unread.hold(answer(SMALL + 1)).is_none());
        assert!(
            unread.hold(answer(SMALL)).is_some(),
            "small ones are not counted"
        );
        drop(first);
        let half = unread.hold(answer(MAX_UNREAD / 2)).unwrap();
        let other = unread.hold(answer(MAX_UNREAD / 2)).unwrap();
        assert!(unread.hold(answer(SMALL + 1)).is_none());
        drop((half.slice(1..2), half, other));
        assert!(unread.hold(answer(MAX_UNREAD)).is_some());
    }
}
