//! Bounds the REST responses that one user has requested but not read yet, in bytes. An account that does not read its
//! responses thus takes little of the edge's memory, however many connections it opens.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

/// The most unread response bytes of one user on this edge. A single response is always allowed.
const MAX_UNREAD: usize = 8 * 1024 * 1024;
/// Responses up to this size in bytes are not counted: they are cheaper than their connection.
pub const SMALL: usize = 16 * 1024;

/// Unread bytes of one user.
#[derive(Debug, Clone, Default)]
pub struct Unread(Arc<AtomicUsize>);

/// A response that counts until its last byte is in the socket's send buffer or the connection ends.
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

    /// The same bytes, counted until they are dropped; `None` if too many are unread already.
    pub fn hold(&self, answer: Bytes) -> Option<Bytes> {
        if answer.len() <= SMALL {
            return Some(answer);
        }
        let before = self.0.fetch_add(answer.len(), Ordering::Relaxed);
        // Subtracts the bytes on drop, also if they are refused below.
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
