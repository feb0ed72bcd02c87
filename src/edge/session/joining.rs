//! `joinRoom`: returns the room and either the missed events or the newest messages, and subscribes the socket. No
//! event is lost or repeated between the answer and the subscription.

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;

use super::{Session, not_a_member, soon};
use crate::{
    command::{Command, room::RoomCommand},
    edge::{
        hub::{Ended, Joining, Newest, reset_event},
        outbound::{Item, OutboundEvent, RequestId},
        reactions::{self, SharedMessage},
        recovery::{RESUME_PAGE, Recovered},
    },
    error::{Error, Result},
    model::{self, Epoch, EventKind, Member, Room, RoomId, RoomKind, Seq},
    protocol::{DEFAULT_PAGE, JoinRoom, Joined, ReactionUpdated, raw},
    store::{RoomEntry, Window},
};

/// The room and the caller's membership, read at the room's head.
struct Entered {
    room: Room,
    member: Member,
    unread: u32,
    epoch: Epoch,
}

impl Session {
    pub(super) async fn join(&mut self, id: RequestId, join: JoinRoom) -> Result<()> {
        if join.after_seq.is_some_and(|seq| seq < 0) {
            return Err(Error::field("afterSeq", "must be 0 or more"));
        }
        if let Some(lost) = self.try_join(id, &join).await? {
            self.edge.hub.report_lost(lost).await?;
            if self.try_join(id, &join).await?.is_some() {
                return Err(Error::busy(
                    "the room is being compared with the database; try again",
                    Duration::from_secs(1),
                ));
            }
        }
        Ok(())
    }

    /// Joins and answers. Returns the subscription without an answer if the room has lost history: events were
    /// delivered here that the store does not have.
    async fn try_join(&self, id: RequestId, join: &JoinRoom) -> Result<Option<Joining>> {
        let mut entry = self.enter(join.room).await?;
        // Subscribe first, then read history: what is stored in between arrives as events.
        let hub = &self.edge.hub;
        let joining = soon(hub.join(join.room, self.who.clone(), join.after_seq)).await?;
        // A membership ends with a numbered event. The subscription sees events above `live_from`, and the membership
        // read covers those up to its head. Events between the two are covered by neither, so the membership is read
        // again.
        if joining.live_from > entry.room.head {
            entry = match self.entry(join.room).await? {
                RoomEntry {
                    room,
                    member: Some(member),
                    unread,
                    epoch,
                } => Entered {
                    room,
                    member,
                    unread,
                    epoch,
                },
                RoomEntry { room, .. } => return Err(not_a_member(room.kind)),
            };
            if joining.live_from > entry.room.head {
                return Ok(Some(joining));
            }
        }
        let after = join.after_seq;
        let reset = join.epoch.is_some_and(|epoch| epoch != entry.epoch)
            || after.is_some_and(|after| after > entry.room.head);
        let recovered = match after.filter(|_| !reset) {
            // Only up to the head at which the membership was read: later events pass through the subscription.
            Some(after) => self.missed(join.room, after, entry.room.head).await?,
            None => self.latest(&joining).await?,
        };
        let reset = reset.then(|| reset_event(join.room, entry.epoch));
        let reacted = &self.edge.batched.reacted;
        let messages = reactions::for_reader(reacted, self.who.user, &recovered.messages);
        let messages = soon(messages).await?;
        self.answer_join(joining, id, entry, recovered, messages, reset);
        Ok(None)
    }

    /// The room as the caller sees it, from a read that starts after this call.
    async fn entry(&self, room: RoomId) -> Result<RoomEntry> {
        let entry = soon(self.edge.batched.entries.get((room, self.who.user))).await?;
        entry.ok_or_else(|| Error::not_found("room"))
    }

    /// The room, the caller's membership and unread count. Joins the caller to a public room.
    async fn enter(&self, room: RoomId) -> Result<Entered> {
        let user = self.who.user;
        let found = async || -> Result<_> {
            let entry = self.entry(room).await?;
            Ok((entry.room, entry.member, (entry.unread, entry.epoch)))
        };
        let entered = |room, member, (unread, epoch)| Entered {
            room,
            member,
            unread,
            epoch,
        };
        match found().await? {
            (room, Some(member), rest) => return Ok(entered(room, member, rest)),
            (room, None, _) if room.kind == RoomKind::Public => {}
            _ => return Err(Error::not_found("room")),
        }
        let joined = self
            .edge
            .submit
            .call(user, Command::Room(room, RoomCommand::Join))
            .await?;
        match (joined, found().await?) {
            (_, (room, Some(member), rest)) => Ok(entered(room, member, rest)),
            _ => Err(Error::busy(
                "joining takes longer than usual; try again",
                Duration::from_secs(1),
            )),
        }
    }

    /// The events above `after` and up to the existing `head`, as many as fit into one answer.
    async fn missed(&self, room: RoomId, after: Seq, head: Seq) -> Result<Recovered> {
        let upto = after + RESUME_PAGE;
        let events = soon(self.edge.reads.missed(room, after, upto.min(head))).await?;
        let budget = self.edge.config.edge.send_queue_bytes / 4;
        Recovered::page(room, after, head, events, budget)
    }

    /// The newest messages up to `live_from`, the number from which the socket is live.
    async fn latest(&self, joining: &Joining) -> Result<Recovered> {
        let position = joining.live_from;
        let messages = soon(joining.newest(self.newest(joining.room(), position))).await?;
        let mut recovered = Recovered {
            position,
            ..Recovered::default()
        };
        recovered.newest(&messages, self.edge.config.edge.send_queue_bytes / 4);
        Ok(recovered)
    }

    async fn newest(&self, room: RoomId, position: Seq) -> Result<Newest> {
        let messages = match self.cached_latest(room, position).await {
            Some(messages) => messages,
            None => {
                let reads = &self.edge.reads;
                soon(reads.messages(room, Window::Latest, DEFAULT_PAGE)).await?
            }
        };
        let upto = messages.into_iter().filter(|m| m.seq <= position);
        Ok(upto.map(SharedMessage::new).collect())
    }

    /// The newest messages from the recent cache, if it covers a full page (or the whole room) and reaches `position`.
    async fn cached_latest(&self, room: RoomId, position: Seq) -> Option<Vec<model::Message>> {
        let epoch = self.edge.hub.epoch()?;
        let events = self.edge.bus.recent.get(epoch, room).await.ok()?;
        let (first, last) = (events.first()?.seq, events.last()?.seq);
        if last > position {
            self.edge.hub.suspect_cached(room, last);
        }
        if last < position {
            return None;
        }
        let mut messages: Vec<model::Message> = Vec::new();
        for event in &events {
            if event.kind == EventKind::ReactionUpdated {
                let reaction: ReactionUpdated = serde_json::from_str(&event.data).ok()?;
                if let Some(known) = messages.iter_mut().find(|m| m.id == reaction.id) {
                    reaction.apply_to(&mut known.reactions);
                    known.change_seq = event.seq;
                }
                continue;
            }
            if !event.kind.carries_message() {
                continue;
            }
            let message: model::Message = serde_json::from_str(&event.data).ok()?;
            match messages.iter_mut().find(|m| m.id == message.id) {
                Some(known) => *known = message,
                // A change of a message older than the cache.
                None if message.seq == event.seq => messages.push(message),
                None => {}
            }
        }
        let enough = DEFAULT_PAGE as usize;
        (first == 1 || messages.len() >= enough)
            .then(|| messages.split_off(messages.len().saturating_sub(enough)))
    }

    /// Answers, after the event `reset` if the client's position is no longer valid.
    fn answer_join(
        &self,
        joining: Joining,
        id: RequestId,
        entry: Entered,
        recovered: Recovered,
        messages: Vec<Arc<RawValue>>,
        reset: Option<Arc<OutboundEvent>>,
    ) {
        let Entered {
            room,
            member,
            unread,
            epoch,
        } = entry;
        let mut joined = Joined {
            room: room.id,
            seq: recovered.position,
            head: room.head.max(recovered.position),
            epoch,
            role: member.role,
            unread,
            messages,
            events: recovered.events,
            gaps: recovered.gaps,
            has_more: recovered.more,
        };
        let outbox = self.who.outbox.clone();
        joining.finish(recovered.position, recovered.more, room.head, |ended| {
            if ended == Ended::Gone {
                return Item::answer(id, Err(not_a_member(room.kind)));
            }
            if let Some(reset) = reset {
                outbox.push(Item::Event(reset));
            }
            joined.has_more = ended == Ended::Again;
            Item::answer(id, Ok(Some(raw(&joined))))
        });
    }
}
