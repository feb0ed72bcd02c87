//! The publications of a batch after its commit: the rooms' events, answers to waiting requests, refusals.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    bus::{Channel, encode_ephemeral, encode_events},
    command::{
        Notice, Outcome, ReplyTo,
        room::{self, RoomCommand, RoomEnvelope},
    },
    model::{EphemeralEvent, EphemeralKind, FeedEvent, RoomId},
    protocol::{ReadUpdated, raw},
    telemetry::metrics,
};

/// Events and notices of a batch, in the order in which they are published.
#[derive(Default)]
pub(super) struct Outcomes {
    pub events: BTreeMap<RoomId, Vec<FeedEvent>>,
    pub notices: Vec<(Channel, Bytes)>,
}

impl Outcomes {
    /// Adds the events of applied room commands.
    pub fn add_applied(&mut self, applied: &mut room::Applied) {
        for (room, mut events) in std::mem::take(&mut applied.events) {
            self.events.entry(room).or_default().append(&mut events);
        }
        for (room, event) in std::mem::take(&mut applied.repeats) {
            let payload = encode_events(&[event]);
            self.notices.push((Channel::Room(room), payload.into()));
        }
        for ((room, user), seq) in std::mem::take(&mut applied.reads) {
            let event = EphemeralEvent {
                kind: EphemeralKind::ReadUpdated,
                data: raw(&ReadUpdated { room, user, seq }).get().to_owned(),
            };
            let payload = encode_ephemeral(&event);
            self.notices.push((Channel::Room(room), payload.into()));
        }
    }

    /// Adds the answer to a waiting request, or the refusal of a send for its session.
    pub fn answer_room(&mut self, to: Option<ReplyTo>, envelope: &RoomEnvelope, outcome: Outcome) {
        match (to, &envelope.command, outcome) {
            (Some(to), _, outcome) if to.wait => self.answer(Some(to), outcome),
            (Some(to), RoomCommand::Send(send), Outcome::Refused(refusal)) => {
                let notice = Notice::SendFailed {
                    session: to.number,
                    client_msg_id: send.client_msg_id.clone(),
                    room: envelope.room,
                    refusal,
                    message: Some(send.id),
                };
                self.notify(Channel::Edge(to.edge), &notice);
            }
            _ => {}
        }
    }

    /// Adds the answer to a waiting request.
    pub fn answer(&mut self, to: Option<ReplyTo>, outcome: Outcome) {
        if let Some(to) = to.filter(|to| to.wait) {
            let notice = Notice::Outcome {
                number: to.number,
                outcome,
            };
            self.notify(Channel::Edge(to.edge), &notice);
        }
    }

    pub fn notify(&mut self, channel: Channel, notice: &Notice) {
        let payload = raw(notice).get().to_owned();
        self.notices.push((channel, payload.into()));
    }
}

pub(super) fn count_refusal(outcome: &Outcome) {
    if let Outcome::Refused(refusal) = outcome {
        metrics()
            .commands_refused
            .with_label_values(&[refusal.code.as_str()])
            .inc();
    }
}
