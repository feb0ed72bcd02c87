//! `/v1/rooms/{room}/changes`: a room's event feed, for clients without a socket.

use std::borrow::Cow;

use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Tags,
    access::{self, Caller, Shared},
    page,
    payload::Found,
    problem::Problem,
    query::{self, PageCursor},
};
use crate::{
    error::{Error, Result},
    model::{EventKind, RoomId, Seq},
    protocol::check_limit,
};

pub struct ChangesApi;

/// One event of a room's feed, in the same format as on a socket.
#[derive(Serialize, Object)]
#[oai(rename = "Change")]
struct ChangeView {
    event: EventKind,
    data: EventData,
}

/// The event's data, already serialized.
#[derive(Serialize)]
#[serde(transparent)]
struct EventData(Box<RawValue>);

impl Type for EventData {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "EventData".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            description: Some(
                "The event's data: a message, or a change of a reaction, a member or the room. Always includes `changeSeq`.",
            ),
            ..MetaSchema::new("object")
        }))
    }

    fn register(_: &mut Registry) {}

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl ParseFromJSON for EventData {
    fn parse_from_json(value: Option<serde_json::Value>) -> ParseResult<Self> {
        serde_json::value::to_raw_value(&value)
            .map(EventData)
            .map_err(ParseError::custom)
    }
}

impl ToJSON for EventData {
    fn to_json(&self) -> Option<serde_json::Value> {
        serde_json::to_value(self).ok()
    }
}

/// # Errors
/// `invalid` for a negative number; `conflict` for one above the room's head, which was given before history was lost.
fn check_after(after: Seq, head: Seq) -> Result<()> {
    if after > head {
        return Err(Error::conflict(format!(
            "the room is at {head}: the server has lost history since it gave this number; load the room anew"
        )));
    }
    page::check_seq("after", after, head)
}

/// A page of a room's feed, ascending and without missing numbers.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "ChangePage")]
struct ChangePage {
    items: Vec<ChangeView>,
    /// The number of the last event covered; pass it as `cursor` to continue, now or later.
    next_cursor: Seq,
    /// Whether more events exist at the moment.
    has_more: bool,
}

#[OpenApi(prefix_path = "/v1/rooms", tag = "Tags::Messages")]
impl ChangesApi {
    /// List a room's events
    ///
    /// For members. Returns the events that a socket in the room receives, each number once: new messages, edits,
    /// deletions, reactions, membership changes and room changes. An event about a message contains the message's
    /// current state, an event of a reaction the current number of users. A reaction that an earlier version stored, or
    /// whose message was deleted since, is a `messageUpdated`. Messages have no `me` in their reactions here.
    #[oai(path = "/:room/changes", method = "get", operation_id = "listChanges")]
    async fn changes(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        /// The `nextCursor` of the previous page.
        cursor: Query<Option<PageCursor<Seq>>>,
        /// Where to begin: only events with a higher number. Default: 0, the beginning. A number above the room's
        /// newest one is answered with `conflict` (409), and so is such a `cursor`: the server has lost history, as
        /// after the event `reset` of sockets. Load the room anew. Not used if there is a `cursor`.
        after: Query<Option<Seq>>,
        /// 1 to 200. Default: 50.
        limit: Query<Option<u32>>,
    ) -> Result<Found<ChangePage>, Problem> {
        let limit = check_limit(limit.0)?;
        let (room, _) = access::member(&edge, room.0, caller.user()).await?;
        let after = match (cursor.0, after.0) {
            (Some(PageCursor(seq)), _) if seq < 0 => return Err(query::bad_cursor().into()),
            (Some(PageCursor(seq)), _) => seq,
            (None, after) => after.unwrap_or(0),
        };
        check_after(after, room.head)?;
        let upto = room.head.min(after + Seq::from(limit));
        let events = if upto > after {
            edge.reads.events(room.id, after, upto).await?
        } else {
            Vec::new()
        };
        // A page is also limited in bytes; a single event that is larger makes a page of its own.
        let (mut bytes, mut reached) = (0, upto);
        let mut fits = 0;
        for event in &events {
            bytes += event.data.len();
            if fits > 0 && bytes > page::MAX_BYTES {
                reached = event.seq - 1;
                break;
            }
            fits += 1;
        }
        let items = events
            .into_iter()
            .take(fits)
            .map(|event| {
                Ok(ChangeView {
                    event: event.kind,
                    data: EventData(RawValue::from_string(event.data).map_err(Error::internal)?),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Found::of(&ChangePage {
            items,
            next_cursor: reached,
            has_more: reached < room.head,
        }))
    }
}
