//! A cache of the rooms that a worker wrote to and of their members: with it, new messages take one statement and no
//! read.
//!
//! A stale entry does no harm. Every change that affects the right to write in a room moves its head, and
//! [`append`](crate::store::BatchWrites::append) stores nothing if the head differs from the cached one. A refusal does
//! not reach the store, so none is decided from the cache: muted users and non-members are not cached. A rename does
//! not change a room's head, so it invalidates explicitly: it is announced to every worker, nothing is cached while
//! announcements cannot be received, and no entry is used for longer than [`TTL`].

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    model::{Epoch, Member, Room, RoomId, Seq, UserId},
    store::Facts,
};

/// How long an entry is used. Changes made directly in the database take effect after it.
const TTL: Duration = Duration::from_secs(60);
/// Members in each of the two generations, at most.
const MEMBERS: usize = 32 * 1024;

#[derive(Default)]
pub struct MembershipCache(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Announcements of renames can be received.
    subscribed: bool,
    /// The epoch that the entries belong to; the nil UUID until the first read.
    epoch: Epoch,
    young: HashMap<RoomId, Known>,
    /// Members in `young`.
    members: usize,
    /// The previous generation: entries that are used move to `young`, the others are dropped when `young` is full
    /// again.
    old: HashMap<RoomId, Known>,
    /// Users that were renamed, and when.
    renamed: HashMap<UserId, Instant>,
}

struct Known {
    room: Room,
    /// Each with a time just before it was read.
    members: HashMap<UserId, (Member, Instant)>,
}

impl MembershipCache {
    /// The cached members and their rooms, and the keys of which nothing is cached.
    pub fn get(&self, keys: &HashSet<(RoomId, UserId)>) -> (Facts, HashSet<(RoomId, UserId)>) {
        let mut inner = self.0.lock();
        let mut facts = Facts::default();
        let mut unknown = HashSet::new();
        for &(room, user) in keys {
            let Some(member) = inner.member(room, user) else {
                unknown.insert((room, user));
                continue;
            };
            facts.members.insert((room, user), member);
            if let Some(known) = inner.young.get(&room) {
                let room = facts.rooms.entry(room);
                room.or_insert_with(|| known.room.clone());
            }
        }
        (facts, unknown)
    }

    /// Adds what was read from the store for a batch, at `since` or later, and sets the rooms' heads after its commit.
    pub fn stored(&self, read: Facts, since: Instant, heads: &HashMap<RoomId, Seq>) {
        let mut inner = self.0.lock();
        if !inner.subscribed {
            return;
        }
        for ((id, user), member) in read.members {
            let (None, Some(room)) = (member.muted_until, read.rooms.get(&id)) else {
                continue;
            };
            let known = inner.young.entry(id).or_insert_with(|| Known {
                room: room.clone(),
                members: HashMap::new(),
            });
            let new = known.members.insert(user, (member, since)).is_none();
            inner.members += usize::from(new);
        }
        for (room, head) in heads {
            if let Some(known) = inner.young.get_mut(room) {
                known.room.head = *head;
            }
        }
        if inner.members > MEMBERS {
            inner.members = 0;
            inner.old = std::mem::take(&mut inner.young);
        }
    }

    pub fn invalidate<'a>(&self, rooms: impl IntoIterator<Item = &'a RoomId>) {
        let mut inner = self.0.lock();
        for room in rooms {
            inner.remove(room);
        }
    }

    /// Invalidates all entries of a user that were read before now.
    pub fn invalidate_user(&self, user: UserId) {
        let mut inner = self.0.lock();
        let now = Instant::now();
        inner.renamed.retain(|_, at| now.duration_since(*at) < TTL);
        inner.renamed.insert(user, now);
    }

    /// Empties the cache. It stays empty until `subscribed`.
    pub(super) fn reset(&self, subscribed: bool) {
        let mut inner = self.0.lock();
        *inner = Inner {
            subscribed,
            epoch: inner.epoch,
            ..Inner::default()
        };
    }

    /// The epoch of the store, as far as it is known here.
    pub(super) fn epoch(&self) -> Epoch {
        self.0.lock().epoch
    }

    /// Empties the cache if the store has another epoch than before.
    pub(super) fn enter(&self, epoch: Epoch) {
        let mut inner = self.0.lock();
        if inner.epoch != epoch {
            *inner = Inner {
                subscribed: inner.subscribed,
                epoch,
                ..Inner::default()
            };
        }
    }
}

impl Inner {
    /// A member whose entry may be used; moves the room to `young`.
    fn member(&mut self, room: RoomId, user: UserId) -> Option<Member> {
        if !self.young.contains_key(&room) {
            let known = self.old.remove(&room)?;
            self.members += known.members.len();
            self.young.insert(room, known);
        }
        let (member, since) = self.young.get(&room)?.members.get(&user)?;
        let renamed = self.renamed.get(&user).is_some_and(|at| at >= since);
        (!renamed && since.elapsed() < TTL).then(|| member.clone())
    }

    fn remove(&mut self, room: &RoomId) {
        self.old.remove(room);
        if let Some(known) = self.young.remove(room) {
            self.members -= known.members.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Role, RoomKind, Timestamp, User, new_id};

    fn facts(keys: &[(RoomId, UserId)]) -> Facts {
        let mut facts = Facts::default();
        for &(id, user) in keys {
            let room = Room {
                id,
                kind: RoomKind::Public,
                name: "room".to_owned(),
                head: 1,
                created_by: user,
                created_at: Timestamp::now(),
                deleted: false,
            };
            let member = Member {
                room: id,
                user: User {
                    id: user,
                    username: "ada".to_owned(),
                    display_name: "Ada".to_owned(),
                },
                role: Role::Member,
                joined_at: Timestamp::now(),
                read_seq: 0,
                muted_until: None,
            };
            facts.rooms.insert(id, room);
            facts.members.insert((id, user), member);
        }
        facts
    }

    fn is_cached(cache: &MembershipCache, key: (RoomId, UserId)) -> bool {
        cache.get(&[key].into()).1.is_empty()
    }

    #[test]
    fn a_member_is_cached_after_a_read_with_the_new_head() {
        let (cache, key) = (MembershipCache::default(), (new_id(), new_id()));
        cache.reset(true);
        cache.stored(facts(&[key]), Instant::now(), &[(key.0, 7)].into());
        let other = (key.0, new_id());
        let (facts, unknown) = cache.get(&[key, other].into());
        assert_eq!(facts.rooms[&key.0].head, 7);
        assert_eq!(facts.members.len(), 1);
        assert_eq!(unknown, [other].into());
        cache.invalidate([&key.0]);
        assert!(!is_cached(&cache, key));
    }

    #[test]
    fn a_renamed_user_is_read_again() {
        let (cache, key) = (MembershipCache::default(), (new_id(), new_id()));
        cache.reset(true);
        let before = Instant::now();
        cache.stored(facts(&[key]), before, &HashMap::new());
        cache.invalidate_user(key.1);
        assert!(!is_cached(&cache, key));
        cache.stored(facts(&[key]), before, &HashMap::new());
        assert!(!is_cached(&cache, key), "read before the rename");
        std::thread::sleep(Duration::from_millis(1));
        cache.stored(facts(&[key]), Instant::now(), &HashMap::new());
        assert!(is_cached(&cache, key));
    }

    #[test]
    fn a_muted_user_is_not_cached() {
        let (cache, key) = (MembershipCache::default(), (new_id(), new_id()));
        cache.reset(true);
        let mut muted = facts(&[key]);
        let soon = Timestamp::from_millis(Timestamp::now().millis() + 60_000);
        muted.members.get_mut(&key).unwrap().muted_until = Some(soon);
        cache.stored(muted, Instant::now(), &HashMap::new());
        assert!(!is_cached(&cache, key));
        cache.stored(facts(&[key]), Instant::now(), &HashMap::new());
        assert!(is_cached(&cache, key));
    }

    #[test]
    fn nothing_is_cached_without_a_subscription() {
        let (cache, key) = (MembershipCache::default(), (new_id(), new_id()));
        cache.stored(facts(&[key]), Instant::now(), &HashMap::new());
        assert!(!is_cached(&cache, key));
        cache.reset(true);
        cache.stored(facts(&[key]), Instant::now(), &HashMap::new());
        assert!(is_cached(&cache, key));
        cache.reset(false);
        assert!(!is_cached(&cache, key));
    }

    #[test]
    fn a_new_epoch_empties_the_cache() {
        let (cache, key) = (MembershipCache::default(), (new_id(), new_id()));
        let (one, other) = (new_id(), new_id());
        cache.enter(one);
        cache.reset(true);
        cache.stored(facts(&[key]), Instant::now(), &HashMap::new());
        cache.enter(one);
        assert!(is_cached(&cache, key));
        cache.enter(other);
        assert!(!is_cached(&cache, key));
        assert_eq!(cache.epoch(), other);
        cache.stored(facts(&[key]), Instant::now(), &HashMap::new());
        assert!(is_cached(&cache, key), "still subscribed");
    }

    #[test]
    fn unused_entries_are_dropped_and_used_ones_stay() {
        let cache = MembershipCache::default();
        cache.reset(true);
        let (used, idle) = ((new_id(), new_id()), (new_id(), new_id()));
        cache.stored(facts(&[used, idle]), Instant::now(), &HashMap::new());
        for _ in 0..3 {
            let others: Vec<_> = (0..MEMBERS / 2 + 1).map(|_| (new_id(), new_id())).collect();
            cache.stored(facts(&others), Instant::now(), &HashMap::new());
            assert!(is_cached(&cache, used));
        }
        for _ in 0..2 {
            let others: Vec<_> = (0..MEMBERS + 1).map(|_| (new_id(), new_id())).collect();
            cache.stored(facts(&others), Instant::now(), &HashMap::new());
        }
        assert!(!is_cached(&cache, idle));
        let inner = cache.0.lock();
        assert!(inner.young.len() + inner.old.len() <= 2 * MEMBERS + 2);
    }
}
