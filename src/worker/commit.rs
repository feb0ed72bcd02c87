//! One transaction of room commands: reads what they need to know, decides, writes.
//!
//! A batch of nothing but sends locks no row: it is decided from the membership cache, or from one read, and written by one
//! statement that fails where a room's head has moved ([`append`](crate::store::BatchWrites::append)). Every other batch
//! locks its rooms.

use std::time::Instant;

use super::state::Worker;
use crate::{
    command::room::{self, RoomCommand, RoomEnvelope},
    error::{Code, Result},
    model::Room,
    store::{AddMembers, Facts, Scope},
    telemetry::metrics,
};

/// Runs and stores the commands in one transaction.
pub(super) async fn commit(worker: &Worker, envelopes: &[&RoomEnvelope]) -> Result<room::Applied> {
    let mut scope = room::scope(envelopes.iter().copied());
    let add_members = worker.config.rooms.add_members;
    if add_members != AddMembers::SharedRooms {
        scope.acquaintances.clear();
    }
    let is_send = |envelope: &&RoomEnvelope| matches!(envelope.command, RoomCommand::Send(_));
    if envelopes.iter().all(is_send)
        && let Some(applied) = append(worker, &scope, envelopes).await?
    {
        return Ok(applied);
    }
    let (mut facts, transaction) = worker.store.begin(&scope).await?;
    facts.add_members = add_members;
    let mut applied = room::apply(facts, envelopes.iter().copied());
    let changes = std::mem::take(&mut applied.changes);
    let stored = changes.new_messages.len();
    if !changes.is_empty() {
        worker.memberships.invalidate(&scope.rooms);
        transaction.commit(changes).await?;
    }
    count(stored, &applied);
    Ok(applied)
}

/// Stores new messages without locks. `None` if a room's head has moved meanwhile or a command is a repeat: then the batch
/// needs the locks.
async fn append(
    worker: &Worker,
    scope: &Scope,
    envelopes: &[&RoomEnvelope],
) -> Result<Option<room::Applied>> {
    let (store, memberships) = (&worker.store, &worker.memberships);
    let since = Instant::now();
    let (mut facts, unknown) = memberships.get(&scope.members);
    let missing = Scope {
        members: unknown,
        messages: scope.messages.clone(),
        named: scope.named.clone(),
        ..Scope::default()
    };
    let read = if missing.is_empty() {
        Facts::default()
    } else {
        store.preview(&missing).await?
    };
    let has_moved = |room: &Room| {
        let known = facts.rooms.get(&room.id);
        known.is_some_and(|known| known.head != room.head)
    };
    if read.rooms.values().any(has_moved) {
        memberships.invalidate(&scope.rooms);
        return Ok(None);
    }
    facts.add(read.clone());
    let before = facts.rooms.values().map(|room| (room.id, room.head));
    let before = before.collect();
    let mut applied = room::apply(facts, envelopes.iter().copied());
    let changes = std::mem::take(&mut applied.changes);
    if !changes.is_empty()
        && let Err(error) = store.append(&before, &changes).await
    {
        memberships.invalidate(&scope.rooms);
        return match error.code {
            Code::Conflict => Ok(None),
            _ => Err(error),
        };
    }
    memberships.stored(read, since, &changes.heads);
    count(changes.new_messages.len(), &applied);
    Ok(Some(applied))
}

fn count(stored: usize, applied: &room::Applied) {
    metrics().messages_stored.inc_by(stored as u64);
    let repeats = applied.repeats.len();
    metrics().messages_duplicate.inc_by(repeats as u64);
}
