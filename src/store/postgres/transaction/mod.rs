//! One batch, one transaction: up to five round trips to open it, one for each kind of change, one to commit. New
//! messages alone need one in all (see [`append`]), and one more for a look without locks, where there is something to
//! look at.

mod changes;
mod facts;

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;

use self::{
    changes::{
        forget_names, insert_entries, insert_messages, insert_rooms, lift_bans, lift_mutes,
        move_heads, put_bans, put_members, put_mutes, remove_members, update_messages,
        update_rooms,
    },
    facts::{
        read_acquaintances, read_heirs, read_messages, read_named, read_people, read_places,
        read_rooms,
    },
};
use super::{Store, pool::Lease};
use crate::{
    error::Result,
    model::{Room, RoomId, Seq},
    store::{Changes, Facts, Scope, Transaction},
};

struct Open {
    lease: Lease,
    locked: BTreeSet<RoomId>,
    /// Those of `locked` that exist.
    known: HashSet<RoomId>,
}

pub(super) async fn begin(store: &Store, scope: &Scope) -> Result<(Facts, Box<dyn Transaction>)> {
    let mut lease = Lease::begin(&store.pool).await?;
    let mut facts = Facts::default();
    // Each statement takes its own snapshot, so what follows the locks sees what was committed before them.
    if !scope.rooms.is_empty() {
        read_rooms(&mut lease, &scope.rooms, &mut facts).await?;
    }
    let mut messages = scope.messages.union(&scope.new_messages).peekable();
    if messages.peek().is_some() {
        read_messages(&mut lease, messages, &mut facts).await?;
    }
    if !scope.members.is_empty() || !scope.users.is_empty() {
        read_people(&mut lease, scope, &mut facts).await?;
    }
    if !scope.heirs.is_empty() {
        read_heirs(&mut lease, scope, &mut facts).await?;
    }
    if !scope.named.is_empty() {
        read_named(&mut lease, scope, &mut facts).await?;
    }
    if !scope.acquaintances.is_empty() {
        read_acquaintances(&mut lease, scope, &mut facts).await?;
    }
    let open = Open {
        lease,
        locked: scope.rooms.clone(),
        known: facts.rooms.keys().copied().collect(),
    };
    Ok((facts, Box::new(open)))
}

pub(super) async fn look(store: &Store, scope: &Scope) -> Result<Facts> {
    let mut lease = Lease::take(&store.pool).await?;
    let mut facts = Facts::default();
    if !scope.members.is_empty() {
        read_places(&mut lease, &scope.members, &mut facts).await?;
    }
    if !scope.messages.is_empty() {
        read_messages(&mut lease, scope.messages.iter(), &mut facts).await?;
    }
    if !scope.named.is_empty() {
        read_named(&mut lease, scope, &mut facts).await?;
    }
    Ok(facts)
}

pub(super) async fn append(
    store: &Store,
    before: &HashMap<RoomId, Seq>,
    changes: &Changes,
) -> Result<()> {
    changes.check_only_new_messages(before)?;
    let mut lease = Lease::take(&store.pool).await?;
    changes::append(&mut lease, before, &changes.heads, &changes.new_messages).await
}

#[async_trait]
impl Transaction for Open {
    async fn commit(mut self: Box<Self>, changes: Changes) -> Result<()> {
        changes.check(|room| self.locked.contains(room))?;
        let Changes {
            rooms,
            heads,
            new_messages,
            updated_messages,
            entries,
            members,
            removed_members,
            bans,
            lifted_bans,
            mutes,
            lifted_mutes,
            forgotten,
        } = changes;
        let (old, new): (Vec<Room>, Vec<Room>) = rooms
            .into_iter()
            .map(|room| Room {
                head: heads.get(&room.id).copied().unwrap_or(room.head),
                ..room
            })
            .partition(|room| self.known.contains(&room.id));
        let created: HashSet<RoomId> = new.iter().map(|room| room.id).collect();

        let lease = &mut self.lease;
        insert_rooms(lease, &new).await?;
        update_rooms(lease, &old).await?;
        move_heads(lease, &heads, &created).await?;
        insert_messages(lease, &new_messages).await?;
        update_messages(lease, &updated_messages).await?;
        insert_entries(lease, &entries).await?;
        remove_members(lease, &removed_members).await?;
        put_members(lease, &members).await?;
        lift_bans(lease, &lifted_bans).await?;
        put_bans(lease, &bans).await?;
        lift_mutes(lease, &lifted_mutes).await?;
        put_mutes(lease, &mutes).await?;
        forget_names(lease, &forgotten).await?;
        self.lease.commit().await
    }
}
