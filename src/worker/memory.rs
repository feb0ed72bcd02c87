//! What a worker remembers of rooms that it wrote to: with it, new messages there take one statement and no look.
//!
//! What is remembered may be wrong without harm. Everything that bears on who may write in a room moves its head, and
//! [`append`](crate::store::BatchWrites::append) stores nothing where a head is not the one that was remembered. A
//! refusal stores nothing that could show that, so whoever is refused for what is known of them was looked up for it:
//! strangers and the muted are not remembered. Only a user's name moves no head: whoever changes one tells every worker,
//! nothing is remembered while that would go unheard, and nothing for longer than [`FRESH`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::{
    bus::{Channel, Incoming},
    error::Result,
    job::Notice,
    model::{Member, Room, RoomId, Seq, UserId},
    store::Facts,
};

/// How long a member is remembered as they were read: what was changed behind the program's back is seen after it.
const FRESH: Duration = Duration::from_secs(60);
/// Members that are remembered, at most; as many again that were asked for before them.
const MEMBERS: usize = 32 * 1024;

#[derive(Default)]
pub struct Memory(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Changed names are heard of.
    hears: bool,
    young: HashMap<RoomId, Known>,
    /// Members in `young`.
    members: usize,
    /// What was `young` until it was full: forgotten the next time, unless it is asked for.
    old: HashMap<RoomId, Known>,
    /// Whose name changed, and when.
    changed: HashMap<UserId, Instant>,
}

struct Known {
    room: Room,
    /// With the time before which they were read.
    members: HashMap<UserId, (Member, Instant)>,
}

impl Memory {
    /// What is remembered of these places, and those of which nothing is.
    pub fn recall(&self, places: &HashSet<(RoomId, UserId)>) -> (Facts, HashSet<(RoomId, UserId)>) {
        let mut inner = self.0.lock();
        let mut facts = Facts::default();
        let mut unknown = HashSet::new();
        for &(room, user) in places {
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

    /// Messages were stored, and `heads` moved: `seen` is what was looked up for it, not before `since`.
    pub fn stored(&self, seen: Facts, since: Instant, heads: &HashMap<RoomId, Seq>) {
        let mut inner = self.0.lock();
        if !inner.hears {
            return;
        }
        for ((id, user), member) in seen.members {
            let (None, Some(room)) = (member.muted_until, seen.rooms.get(&id)) else {
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

    pub fn forget<'a>(&self, rooms: impl IntoIterator<Item = &'a RoomId>) {
        let mut inner = self.0.lock();
        for room in rooms {
            inner.forget(room);
        }
    }

    /// Their name may be another one from now on.
    pub fn forget_user(&self, user: UserId) {
        let mut inner = self.0.lock();
        let now = Instant::now();
        inner
            .changed
            .retain(|_, at| now.duration_since(*at) < FRESH);
        inner.changed.insert(user, now);
    }

    fn hear(&self, hears: bool) {
        *self.0.lock() = Inner {
            hears,
            ..Inner::default()
        };
    }
}

impl Inner {
    /// As they may still be. Their room is then among the young.
    fn member(&mut self, room: RoomId, user: UserId) -> Option<Member> {
        if !self.young.contains_key(&room) {
            let known = self.old.remove(&room)?;
            self.members += known.members.len();
            self.young.insert(room, known);
        }
        let (member, since) = self.young.get(&room)?.members.get(&user)?;
        let changed = self.changed.get(&user).is_some_and(|at| at >= since);
        (!changed && since.elapsed() < FRESH).then(|| member.clone())
    }

    fn forget(&mut self, room: &RoomId) {
        self.old.remove(room);
        if let Some(known) = self.young.remove(room) {
            self.members -= known.members.len();
        }
    }
}

/// Listens for changed names until `shutdown`.
///
/// # Errors
/// Where the bus cannot be listened to at all.
pub async fn listen(worker: Arc<Worker>, shutdown: CancellationToken) -> Result<()> {
    let (subscriptions, mut incoming) = worker.bus.listen().await?;
    worker
        .memory
        .hear(subscriptions.subscribe(&[Channel::Everyone]).await?);
    loop {
        let heard = tokio::select! {
            heard = incoming.recv() => heard,
            () = shutdown.cancelled() => None,
        };
        match heard {
            Some(Incoming::Message { payload, .. }) => {
                if let Ok(Notice::AccountChanged { user }) = serde_json::from_slice(&payload) {
                    worker.memory.forget_user(user);
                }
            }
            Some(Incoming::Lost) => worker.memory.hear(false),
            Some(Incoming::Restored) => worker.memory.hear(true),
            None => {
                worker.memory.hear(false);
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Role, RoomKind, Timestamp, User, new_id};

    fn seen(places: &[(RoomId, UserId)]) -> Facts {
        let mut facts = Facts::default();
        for &(id, user) in places {
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

    fn is_known(memory: &Memory, place: (RoomId, UserId)) -> bool {
        memory.recall(&[place].into()).1.is_empty()
    }

    #[test]
    fn a_place_is_known_once_it_was_seen_and_with_its_new_head() {
        let (memory, place) = (Memory::default(), (new_id(), new_id()));
        memory.hear(true);
        memory.stored(seen(&[place]), Instant::now(), &[(place.0, 7)].into());
        let other = (place.0, new_id());
        let (facts, unknown) = memory.recall(&[place, other].into());
        assert_eq!(facts.rooms[&place.0].head, 7);
        assert_eq!(facts.members.len(), 1);
        assert_eq!(unknown, [other].into());
        memory.forget([&place.0]);
        assert!(!is_known(&memory, place));
    }

    #[test]
    fn a_changed_name_is_looked_up_and_known_again() {
        let (memory, place) = (Memory::default(), (new_id(), new_id()));
        memory.hear(true);
        let before = Instant::now();
        memory.stored(seen(&[place]), before, &HashMap::new());
        memory.forget_user(place.1);
        assert!(!is_known(&memory, place));
        memory.stored(seen(&[place]), before, &HashMap::new());
        assert!(!is_known(&memory, place), "read before it changed");
        std::thread::sleep(Duration::from_millis(1));
        memory.stored(seen(&[place]), Instant::now(), &HashMap::new());
        assert!(is_known(&memory, place));
    }

    #[test]
    fn who_is_muted_is_looked_up_each_time() {
        let (memory, place) = (Memory::default(), (new_id(), new_id()));
        memory.hear(true);
        let mut facts = seen(&[place]);
        let soon = Timestamp::from_millis(Timestamp::now().millis() + 60_000);
        facts.members.get_mut(&place).unwrap().muted_until = Some(soon);
        memory.stored(facts, Instant::now(), &HashMap::new());
        assert!(!is_known(&memory, place));
        memory.stored(seen(&[place]), Instant::now(), &HashMap::new());
        assert!(is_known(&memory, place));
    }

    #[test]
    fn nothing_is_remembered_while_nothing_is_heard() {
        let (memory, place) = (Memory::default(), (new_id(), new_id()));
        memory.stored(seen(&[place]), Instant::now(), &HashMap::new());
        assert!(!is_known(&memory, place));
        memory.hear(true);
        memory.stored(seen(&[place]), Instant::now(), &HashMap::new());
        assert!(is_known(&memory, place));
        memory.hear(false);
        assert!(!is_known(&memory, place));
    }

    #[test]
    fn what_nobody_asks_for_goes_and_what_is_asked_for_stays() {
        let memory = Memory::default();
        memory.hear(true);
        let (asked, idle) = ((new_id(), new_id()), (new_id(), new_id()));
        memory.stored(seen(&[asked, idle]), Instant::now(), &HashMap::new());
        for _ in 0..3 {
            let others: Vec<_> = (0..MEMBERS / 2 + 1).map(|_| (new_id(), new_id())).collect();
            memory.stored(seen(&others), Instant::now(), &HashMap::new());
            assert!(is_known(&memory, asked));
        }
        for _ in 0..2 {
            let others: Vec<_> = (0..MEMBERS + 1).map(|_| (new_id(), new_id())).collect();
            memory.stored(seen(&others), Instant::now(), &HashMap::new());
        }
        assert!(!is_known(&memory, idle));
        let inner = memory.0.lock();
        assert!(inner.young.len() + inner.old.len() <= 2 * MEMBERS + 2);
    }
}
