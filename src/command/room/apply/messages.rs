//! Effects of commands on messages.

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::{Batch, Decided, MAX_REACTIONS, Touched, json, refuse};
use crate::{
    command::room::{RoomEnvelope, Send, mentions},
    error::Code,
    model::{EventKind, FeedEvent, Message, MessageId, Reaction, Role, RoomId, UserId},
};

impl Batch {
    pub(super) fn send(&mut self, envelope: &RoomEnvelope, send: &Send) -> Decided {
        let sender = self.writer(envelope)?;
        if let Some(known) = self.facts.messages.get(&send.id) {
            let resource = json(known);
            let mut first = known.clone();
            first.change_seq = first.seq;
            if !self.touched.contains(&Touched::NewMessage(send.id)) {
                let event = FeedEvent {
                    seq: first.seq,
                    kind: EventKind::NewMessage,
                    data: json(&first).get().to_owned(),
                };
                self.applied.repeats.push((envelope.room, event));
            }
            return Ok(Some(resource));
        }
        if let Some(reply_to) = send.reply_to
            && self
                .facts
                .messages
                .get(&reply_to)
                .is_none_or(|m| m.room != envelope.room)
        {
            return refuse(
                Code::Invalid,
                "replyTo: there is no such message in this room",
            );
        }
        let seq = self.next_seq(envelope.room);
        let message = Message {
            id: send.id,
            room: envelope.room,
            seq,
            change_seq: seq,
            sender,
            body: send.body.clone(),
            client_msg_id: send.client_msg_id.clone(),
            reply_to: send.reply_to,
            mentions: self.mentioned(envelope.room, &send.body),
            reactions: Vec::new(),
            metadata: send.metadata.clone(),
            created_at: envelope.at,
            edited_at: None,
            deleted_at: None,
        };
        let resource = json(&message);
        self.emit(
            envelope.room,
            FeedEvent {
                seq,
                kind: EventKind::NewMessage,
                data: resource.get().to_owned(),
            },
        );
        self.facts.messages.insert(send.id, message);
        self.touched.insert(Touched::NewMessage(send.id));
        Ok(Some(resource))
    }

    /// The members mentioned in a body, without duplicates, in order of appearance.
    fn mentioned(&self, room: RoomId, body: &str) -> Vec<UserId> {
        let mut found = Vec::new();
        mentions::resolve(body, |name| {
            let user = *self.facts.named.get(name)?;
            // The member may have left earlier in this batch.
            let member = self.facts.members.contains_key(&(room, user));
            member.then(|| found.push(user))
        });
        let mut seen = HashSet::new();
        found.retain(|user| seen.insert(*user));
        found
    }

    pub(super) fn edit(&mut self, envelope: &RoomEnvelope, id: MessageId, body: &str) -> Decided {
        self.writer(envelope)?;
        let mut message = self.message(envelope.room, id)?;
        if message.sender.id != envelope.actor {
            return refuse(Code::Forbidden, "only its sender may edit a message");
        }
        if message.deleted_at.is_some() {
            return refuse(Code::Conflict, "this message is deleted");
        }
        let mentions = self.mentioned(envelope.room, body);
        // The worker that stored a redelivered edit may have died before it enqueued the notification task.
        let redelivered = message.edited_at.is_some_and(|at| at >= envelope.at);
        let added = |user: &UserId| redelivered || !message.mentions.contains(user);
        if mentions.iter().any(added) {
            self.applied.mentions_added.push(id);
        }
        if message.body == body {
            return Ok(Some(json(&message)));
        }
        message.body = body.to_owned();
        message.mentions = mentions;
        message.edited_at = Some(envelope.at);
        Ok(Some(self.change_message(
            envelope,
            message,
            EventKind::MessageUpdated,
        )))
    }

    pub(super) fn delete(&mut self, envelope: &RoomEnvelope, id: MessageId) -> Decided {
        let role = self.member(envelope.room, envelope.actor)?.role;
        let mut message = self.message(envelope.room, id)?;
        if message.sender.id != envelope.actor && role < Role::Admin {
            return refuse(
                Code::Forbidden,
                "only its sender, an admin or the owner may delete a message",
            );
        }
        if message.deleted_at.is_some() {
            return Ok(Some(json(&message)));
        }
        message.body = String::new();
        message.metadata = None;
        message.mentions = Vec::new();
        message.reactions = Vec::new();
        message.deleted_at = Some(envelope.at);
        Ok(Some(self.change_message(
            envelope,
            message,
            EventKind::MessageDeleted,
        )))
    }

    pub(super) fn react(
        &mut self,
        envelope: &RoomEnvelope,
        id: MessageId,
        emoji: &str,
        on: bool,
    ) -> Decided {
        self.writer(envelope)?;
        let mut message = self.message(envelope.room, id)?;
        if message.deleted_at.is_some() {
            return refuse(Code::Conflict, "this message is deleted");
        }
        let place = message.reactions.iter().position(|r| r.emoji == emoji);
        let given = place.is_some_and(|i| message.reactions[i].users.contains(&envelope.actor));
        if given == on {
            return Ok(Some(json(&message)));
        }
        match (place, on) {
            (Some(i), true) => message.reactions[i].users.push(envelope.actor),
            (Some(i), false) => {
                message.reactions[i]
                    .users
                    .retain(|user| *user != envelope.actor);
                if message.reactions[i].users.is_empty() {
                    message.reactions.remove(i);
                }
            }
            (None, _) if message.reactions.len() >= MAX_REACTIONS => {
                return refuse(
                    Code::Conflict,
                    "this message has 50 different reactions already",
                );
            }
            (None, _) => message.reactions.push(Reaction {
                emoji: emoji.to_owned(),
                users: vec![envelope.actor],
            }),
        }
        Ok(Some(self.change_message(
            envelope,
            message,
            EventKind::ReactionUpdated,
        )))
    }

    /// Assigns the changed message its number and records the event.
    fn change_message(
        &mut self,
        envelope: &RoomEnvelope,
        mut message: Message,
        kind: EventKind,
    ) -> Box<RawValue> {
        let seq = self.next_seq(envelope.room);
        message.change_seq = seq;
        let resource = json(&message);
        self.record(envelope, seq, kind, Some(message.id), resource.get());
        self.touched.insert(Touched::Message(message.id));
        self.facts.messages.insert(message.id, message);
        resource
    }
}
