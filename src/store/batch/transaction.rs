//! One batch, one transaction: the **hot path**. It takes up to eight statements to open one, one for each kind of
//! change, and one to commit, however large the batch. A batch of only new messages takes one statement ([`append`]),
//! and up to three reads for a preview if their rooms and members are not cached.
//!
//! A statement is a round trip to PostgreSQL, or a switch to SQLite's thread and back.

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;

use super::{
    BatchWrites, Changes, Facts, Scope, Transaction, append::append, facts, reactions, writes,
};
use crate::{
    error::Result,
    model::{Room, RoomId, Seq},
    store::sql::{Access, Database, Session},
};

struct Open<S> {
    session: S,
    locked: BTreeSet<RoomId>,
    /// Those of `locked` that exist.
    known: HashSet<RoomId>,
}

#[async_trait]
impl<D: Database> BatchWrites for D {
    async fn begin(&self, scope: &Scope) -> Result<(Facts, Box<dyn Transaction>)> {
        let mut session = self.open(Access::Transaction).await?;
        let mut facts = Facts::default();
        // The locks come first. Each statement takes its own snapshot, so those after it see what was committed before
        // the locks were granted.
        facts::rooms(&mut session, scope, &mut facts).await?;
        let messages: Vec<_> = scope.messages.union(&scope.new_messages).collect();
        facts::locked_messages(&mut session, messages, &scope.rooms, &mut facts).await?;
        reactions::facts(&mut session, scope, &mut facts).await?;
        facts::people(&mut session, scope, &mut facts).await?;
        facts::successors(&mut session, scope, &mut facts).await?;
        facts::named(&mut session, scope, &mut facts).await?;
        facts::acquaintances(&mut session, scope, &mut facts).await?;
        let open = Open {
            session,
            locked: scope.rooms.clone(),
            known: facts.rooms.keys().copied().collect(),
        };
        Ok((facts, Box::new(open)))
    }

    async fn preview(&self, scope: &Scope) -> Result<Facts> {
        let mut session = self.open(Access::Read).await?;
        let mut facts = Facts::default();
        facts::room_members(&mut session, scope, &mut facts).await?;
        facts::messages(&mut session, &scope.messages, &mut facts).await?;
        facts::named(&mut session, scope, &mut facts).await?;
        Ok(facts)
    }

    async fn append(&self, before: &HashMap<RoomId, Seq>, changes: &Changes) -> Result<()> {
        changes.check_only_new_messages(before)?;
        let mut session = self.open(Access::Statement).await?;
        let (heads, messages) = (&changes.heads, &changes.new_messages);
        append(&mut session, Some(before), heads, messages).await?;
        session.commit().await
    }
}

#[async_trait]
impl<S: Session> Transaction for Open<S> {
    async fn commit(mut self: Box<Self>, changes: Changes) -> Result<()> {
        changes.check(|room| self.locked.contains(room))?;
        reactions::write(&mut self.session, &changes).await?;
        let Changes {
            rooms,
            mut heads,
            new_messages,
            updated_messages,
            entries,
            members,
            removed_members,
            bans,
            lifted_bans,
            mutes,
            lifted_mutes,
            erased,
            ..
        } = changes;
        let (old, mut new): (Vec<Room>, Vec<Room>) = rooms
            .into_iter()
            .partition(|room| self.known.contains(&room.id));
        // A new room is stored with its head.
        for room in &mut new {
            room.head = heads.remove(&room.id).unwrap_or(room.head);
        }

        let session = &mut self.session;
        writes::insert_rooms(session, &new).await?;
        writes::update_rooms(session, &old).await?;
        append(session, None, &heads, &new_messages).await?;
        writes::update_messages(session, &updated_messages).await?;
        writes::insert_entries(session, &entries).await?;
        writes::remove_members(session, &removed_members).await?;
        writes::put_members(session, &members).await?;
        writes::lift_bans(session, &lifted_bans).await?;
        writes::put_bans(session, &bans).await?;
        writes::lift_mutes(session, &lifted_mutes).await?;
        writes::put_mutes(session, &mutes).await?;
        writes::erase_names(session, &erased).await?;
        self.session.commit().await
    }
}
