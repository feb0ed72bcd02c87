//! Effects of commands on messages.

use std::collections::HashSet;

use serde_json::{Value, value::RawValue};

use super::{Batch, Decided, Touched, json, refuse};
use crate::{
    command::{
        Refusal,
        room::{RoomEnvelope, Send, mentions},
    },
    error::Code,
    model::{EventKind, FeedEvent, Message, MessageId, Metadata, Role, RoomId, UserId},
    protocol::bounds::MAX_MENTIONS,
};

/// Whether a send has the content of the stored message with its id. Always true if the message was edited or deleted,
/// since its first content is not kept.
fn repeats(known: &Message, send: &Send) -> bool {
    if known.edited_at.is_some() || known.deleted_at.is_some() {
        return true;
    }
    known.body == send.body
        && known.reply_to == send.reply_to
        && same_metadata(known.metadata.as_ref(), send.metadata.as_ref())
}

/// Metadata is stored as it was sent; an earlier version may have written it differently, so parsed values are
/// compared. Values that cannot be parsed count as equal: a redelivered command must not be refused.
fn same_metadata(known: Option<&Metadata>, sent: Option<&Metadata>) -> bool {
    let (Some(known), Some(sent)) = (known, sent) else {
        return known.is_none() == sent.is_none();
    };
    let value = |json: &Metadata| serde_json::from_str::<Value>(json.as_json()).ok();
    known.as_json() == sent.as_json()
        || match (value(known), value(sent)) {
            (Some(known), Some(sent)) => same_json(&known, &sent),
            _ => true,
        }
}

/// Equality of I-JSON, whose numbers are doubles.
fn same_json(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_json(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same = |(name, a): (&String, &Value)| b.get(name).is_some_and(|b| same_json(a, b));
            a.len() == b.len() && a.iter().all(same)
        }
        (a, b) => a == b,
    }
}

impl Batch {
    pub(super) fn send(&mut self, envelope: &RoomEnvelope, send: &Send) -> Decided {
        let sender = self.writer(envelope)?;
        if let Some(known) = self.facts.messages.get(&send.id) {
            if !repeats(known, send) {
                return Err(Refusal::other_content(send.id));
            }
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
        found.truncate(MAX_MENTIONS);
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
        self.clear_reactions(id);
        message.deleted_at = Some(envelope.at);
        Ok(Some(self.change_message(
            envelope,
            message,
            EventKind::MessageDeleted,
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
