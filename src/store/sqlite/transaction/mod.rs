//! One batch, one transaction, one statement for each kind of change. Each statement crosses to SQLite's thread and back,
//! so new messages alone take one, and one more that reads, where there is something to look at.

mod changes;
mod facts;

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use sqlx::Sqlite;

use self::{
    changes::{
        forget_names, insert_entries, insert_rooms, lift_bans, lift_mutes, put_bans, put_members,
        put_mutes, remove_members, update_messages, update_rooms,
    },
    facts::{
        read_acquaintances, read_heirs, read_messages, read_named, read_people, read_places,
        read_rooms,
    },
};
use super::Store;
use crate::{
    error::Result,
    model::{Room, RoomId, Seq},
    sqlite::failure,
    store::{Changes, Facts, Scope, Transaction},
};

struct Open {
    tx: sqlx::Transaction<'static, Sqlite>,
    locked: BTreeSet<RoomId>,
    /// Those of `locked` that exist.
    known: HashSet<RoomId>,
}

/// The writer is the lock of all rooms, so none can come to be between here and the commit.
pub(super) async fn begin(store: &Store, scope: &Scope) -> Result<(Facts, Box<dyn Transaction>)> {
    let mut tx = store.database.write().await?;
    let mut facts = Facts::default();
    if !scope.rooms.is_empty() {
        read_rooms(&mut tx, &scope.rooms, &mut facts).await?;
    }
    let mut messages = scope.messages.union(&scope.new_messages).peekable();
    if messages.peek().is_some() {
        read_messages(&mut tx, messages, &mut facts).await?;
    }
    if !scope.members.is_empty() || !scope.users.is_empty() {
        read_people(&mut tx, scope, &mut facts).await?;
    }
    if !scope.heirs.is_empty() {
        read_heirs(&mut tx, scope, &mut facts).await?;
    }
    if !scope.named.is_empty() {
        read_named(&mut tx, scope, &mut facts).await?;
    }
    if !scope.acquaintances.is_empty() {
        read_acquaintances(&mut tx, scope, &mut facts).await?;
    }
    let open = Open {
        tx,
        locked: scope.rooms.clone(),
        known: facts.rooms.keys().copied().collect(),
    };
    Ok((facts, Box::new(open)))
}

/// In the past, that is: a reader sees what was committed before it began.
pub(super) async fn look(store: &Store, scope: &Scope) -> Result<Facts> {
    let mut reader = store.database.readers().acquire().await.map_err(failure)?;
    let mut facts = Facts::default();
    if !scope.members.is_empty() {
        read_places(&mut reader, &scope.members, &mut facts).await?;
    }
    if !scope.messages.is_empty() {
        read_messages(&mut reader, scope.messages.iter(), &mut facts).await?;
    }
    if !scope.named.is_empty() {
        read_named(&mut reader, scope, &mut facts).await?;
    }
    Ok(facts)
}

pub(super) async fn append(
    store: &Store,
    before: &HashMap<RoomId, Seq>,
    changes: &Changes,
) -> Result<()> {
    changes.check_only_new_messages(before)?;
    let mut tx = store.database.write().await?;
    changes::append(&mut tx, Some(before), &changes.heads, &changes.new_messages).await?;
    tx.commit().await.map_err(failure)
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
            .partition(|room| self.known.contains(&room.id));

        let connection = &mut *self.tx;
        insert_rooms(connection, &new).await?;
        update_rooms(connection, &old).await?;
        changes::append(connection, None, &heads, &new_messages).await?;
        update_messages(connection, &updated_messages).await?;
        insert_entries(connection, &entries).await?;
        remove_members(connection, &removed_members).await?;
        put_members(connection, &members).await?;
        lift_bans(connection, &lifted_bans).await?;
        put_bans(connection, &bans).await?;
        lift_mutes(connection, &lifted_mutes).await?;
        put_mutes(connection, &mutes).await?;
        forget_names(connection, &forgotten).await?;
        self.tx.commit().await.map_err(failure)
    }
}
