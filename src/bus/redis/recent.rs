//! The recent-events cache: one list per room, one line per event.

use async_trait::async_trait;
use redis::{Pipeline, pipe};

use super::connection::{RedisBus, millis};
use crate::{
    bus::{RecentEvents, decode_events},
    error::Result,
    model::{Epoch, FeedEvent, RoomId},
};

#[async_trait]
impl RecentEvents for RedisBus {
    async fn get(&self, epoch: Epoch, room: RoomId) -> Result<Vec<FeedEvent>> {
        let mut range = pipe();
        range
            .cmd("LRANGE")
            .arg(self.room_key(epoch, room))
            .arg(0)
            .arg(-1);
        let (lines,): (Vec<Vec<u8>>,) = self.run(range).await?;
        Ok(contiguous_tail(&lines))
    }
}

impl RedisBus {
    /// Adds the deletion of these rooms' cached events to `pipeline`.
    pub(super) fn delete_recent(&self, epoch: Epoch, rooms: &[RoomId], pipeline: &mut Pipeline) {
        if !rooms.is_empty() {
            let keys: Vec<_> = rooms
                .iter()
                .map(|room| self.room_key(epoch, *room))
                .collect();
            pipeline.cmd("DEL").arg(keys).ignore();
        }
    }

    /// Adds the append of `count` events, encoded as `lines`, to `pipeline`.
    pub(super) fn append_recent(
        &self,
        epoch: Epoch,
        room: RoomId,
        count: usize,
        lines: &[u8],
        pipeline: &mut Pipeline,
    ) {
        let keep = isize::try_from(self.settings.recent_messages.max(1)).unwrap_or(isize::MAX);
        let key = self.room_key(epoch, room);
        let push = pipeline.cmd("RPUSH").arg(&key);
        // LTRIM would remove the others again.
        let first = count.saturating_sub(keep.unsigned_abs());
        for line in lines.split(|byte| *byte == b'\n').skip(first) {
            push.arg(line);
        }
        push.ignore();
        pipeline.cmd("LTRIM").arg(&key).arg(-keep).arg(-1).ignore();
        pipeline
            .cmd("PEXPIRE")
            .arg(&key)
            .arg(millis(self.settings.recent_ttl))
            .ignore();
    }

    fn room_key(&self, epoch: Epoch, room: RoomId) -> String {
        self.key(
            "recent",
            format_args!("{}:{}", epoch.simple(), room.simple()),
        )
    }
}

/// The events from the end back to the first missing number, repetition or line that cannot be decoded.
fn contiguous_tail(lines: &[Vec<u8>]) -> Vec<FeedEvent> {
    let mut tail: Vec<FeedEvent> = Vec::with_capacity(lines.len());
    for line in lines.iter().rev() {
        let Some(event) = decode_events(line).and_then(|mut events| events.pop()) else {
            break;
        };
        if tail.last().is_some_and(|after| after.seq != event.seq + 1) {
            break;
        }
        tail.push(event);
    }
    tail.reverse();
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_contiguous_tail_is_returned() {
        let lines = |seqs: &[i64]| -> Vec<Vec<u8>> {
            let line = |seq| format!("{seq} newMessage {{}}").into_bytes();
            seqs.iter().map(line).collect()
        };
        let tail = |lines: &[Vec<u8>]| -> Vec<i64> {
            contiguous_tail(lines).iter().map(|e| e.seq).collect()
        };
        assert_eq!(tail(&lines(&[1, 2, 3])), [1, 2, 3]);
        assert_eq!(tail(&lines(&[1, 2, 5, 6])), [5, 6]);
        assert_eq!(tail(&lines(&[5, 6, 5, 6])), [5, 6]);
        assert_eq!(tail(&[]), [0; 0]);
        let mut unknown = lines(&[1, 2, 3]);
        unknown[1] = b"2 somethingNew {}".to_vec();
        assert_eq!(tail(&unknown), [3]);
    }
}
