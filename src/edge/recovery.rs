//! Recovery of missed events: one page of a room's feed for a `joinRoom`. No I/O.

use std::{collections::HashSet, sync::Arc};

use serde_json::value::RawValue;

use crate::{
    error::{Error, Result},
    model::{self, FeedEvent, RoomId, Seq},
    protocol::{Gap, MissedEvent},
    telemetry::metrics,
};

/// Maximum event numbers that one `joinRoom` covers.
pub const RESUME_PAGE: Seq = 500;

#[derive(Default)]
pub struct Recovered {
    /// The page covers all events up to and including this number.
    pub position: Seq,
    pub more: bool,
    pub messages: Vec<Arc<RawValue>>,
    /// The ids of `messages`.
    pub ids: HashSet<model::MessageId>,
    pub events: Vec<MissedEvent>,
    pub gaps: Vec<Gap>,
}

impl Recovered {
    /// A page of the `RESUME_PAGE` numbers above `after`, of which those up to `head` exist. Numbers that the store
    /// does not have are reported as gaps, so that a client does not request them again.
    pub fn page(
        room: RoomId,
        after: Seq,
        head: Seq,
        events: Vec<FeedEvent>,
        budget: usize,
    ) -> Result<Recovered> {
        let upto = after + RESUME_PAGE;
        let mut recovered = Recovered {
            position: after,
            ..Recovered::default()
        };
        let mut bytes = 0;
        for event in events {
            bytes += event.data.len();
            if bytes > budget && recovered.position > after {
                recovered.more = true;
                return Ok(recovered);
            }
            recovered.miss(room, event.seq - 1);
            recovered.position = event.seq;
            recovered.add(event)?;
        }
        recovered.miss(room, head.min(upto));
        recovered.more = recovered.position == upto;
        Ok(recovered)
    }

    /// Reports the numbers between the position and `upto` as a gap.
    fn miss(&mut self, room: RoomId, upto: Seq) {
        let from = self.position + 1;
        if from <= upto {
            metrics().gaps.inc();
            let to = upto;
            self.gaps.push(Gap { room, from, to });
            self.position = upto;
        }
    }

    fn add(&mut self, event: FeedEvent) -> Result<()> {
        let json = |data: String| RawValue::from_string(data).map_err(Error::internal);
        if event.kind.carries_message() {
            #[derive(serde::Deserialize)]
            struct Id {
                id: model::MessageId,
            }
            let id: Id = serde_json::from_str(&event.data).map_err(Error::internal)?;
            // Every event carries the current state of its message, so one copy is enough.
            if self.ids.insert(id.id) {
                self.messages.push(json(event.data)?.into());
            }
        } else {
            self.events.push(MissedEvent {
                event: event.kind.as_str(),
                data: json(event.data)?,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventKind;

    fn page(after: Seq, head: Seq, seqs: &[Seq]) -> (Seq, bool, Vec<(Seq, Seq)>) {
        let event = |seq: &Seq| FeedEvent {
            seq: *seq,
            kind: EventKind::MemberJoined,
            data: "{}".to_owned(),
        };
        let events = seqs.iter().map(event).collect();
        let recovered = Recovered::page(RoomId::nil(), after, head, events, 1000).unwrap();
        let gaps = recovered
            .gaps
            .iter()
            .map(|gap| (gap.from, gap.to))
            .collect();
        assert_eq!(recovered.events.len(), seqs.len());
        (recovered.position, recovered.more, gaps)
    }

    #[test]
    fn a_page_always_advances_and_reports_gaps() {
        assert_eq!(page(3, 5, &[4, 5]), (5, false, vec![]));
        assert_eq!(page(3, 4, &[4, 5]), (5, false, vec![]), "stored meanwhile");
        assert_eq!(page(5, 5, &[]), (5, false, vec![]));
        assert_eq!(
            page(3, 9, &[5, 8]),
            (9, false, vec![(4, 4), (6, 7), (9, 9)])
        );
        assert_eq!(page(3, 9, &[]), (9, false, vec![(4, 9)]));
        let end = 3 + RESUME_PAGE;
        assert_eq!(page(3, 9000, &[]), (end, true, vec![(4, end)]));
    }
}
