//! `/v1/rooms`: making, finding, changing and entering rooms.

use poem_openapi::{
    Object, OpenApi,
    param::{Header, Path, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    Tags,
    access::{self, Caller, Need, Shared, Write},
    fields,
    payload::{Body, Changed, Created, Cursor, Found, Gone},
    problem::Problem,
};
use crate::{
    edge::rate_limit::cost,
    error::{Error, Result},
    job::room::RoomCommand,
    model::{self, Member, Role, Room, RoomId, RoomKind, Seq, Timestamp, UserId},
    protocol::{MemberView, RoomView, check_limit},
};

/// How many members a room can be made with; more are added one by one.
const MAX_FIRST_MEMBERS: usize = 100;

pub struct RoomsApi;

/// A new room.
#[derive(Deserialize, Object)]
#[oai(rename = "NewRoom")]
struct NewRoom {
    kind: RoomKind,
    /// 1 to 128 bytes; left out for a direct room.
    name: Option<String>,
    /// Who else is in it from the start: at most 100, and exactly one for a direct room.
    #[serde(default)]
    #[oai(default)]
    members: Vec<UserId>,
}

/// What changes.
#[derive(Deserialize, Object)]
#[oai(rename = "RoomPatch")]
struct RoomPatch {
    /// 1 to 128 bytes.
    name: String,
}

/// A room, and what the caller is in it.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "MyRoom")]
struct MyRoom {
    id: RoomId,
    kind: RoomKind,
    /// Empty for a direct room.
    name: String,
    /// The number of its newest event.
    seq: Seq,
    created_by: UserId,
    created_at: Timestamp,
    /// Absent where the caller is not a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    role: Option<Role>,
    /// The highest number the caller has read; absent where they are not a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    read_seq: Option<Seq>,
    /// The caller may not write until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    muted_until: Option<Timestamp>,
    /// Messages above `readSeq`, counted up to 1,000. Only where a single room was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    unread: Option<u32>,
}

impl MyRoom {
    fn new(room: Room, member: Option<&Member>) -> Self {
        MyRoom {
            id: room.id,
            kind: room.kind,
            name: room.name,
            seq: room.head,
            created_by: room.created_by,
            created_at: room.created_at,
            role: member.map(|member| member.role),
            read_seq: member.map(|member| member.read_seq),
            muted_until: member.and_then(|member| member.muted_until),
            unread: None,
        }
    }
}

/// A page of rooms, by id.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "RoomPage")]
struct RoomPage {
    items: Vec<MyRoom>,
    /// The next page's `after`; `null` on the last page.
    next_cursor: Cursor<RoomId>,
    has_more: bool,
}

#[OpenApi(prefix_path = "/v1/rooms", tag = "Tags::Rooms")]
impl RoomsApi {
    /// Make a room
    ///
    /// Its maker becomes the owner. A direct room has exactly two members and no owner; asking for one that exists
    /// finds it. A repeat with the same `Idempotency-Key` finds the room that the first one made, while the caller may see
    /// it. Who may be put into a room unasked is a setting of the server (`rooms.add_members`).
    #[oai(path = "/", method = "post", operation_id = "createRoom")]
    async fn create(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        /// 1 to 128 visible ASCII characters, best a new UUID.
        #[oai(name = "Idempotency-Key")]
        key: Header<Option<String>>,
        body: Body<NewRoom>,
    ) -> Result<Created<RoomView>, Problem> {
        let (user, Body(new)) = (caller.user(), body);
        let mut name = new.name.unwrap_or_default();
        fields::all([
            match new.kind {
                RoomKind::Direct if name.is_empty() => Ok(()),
                RoomKind::Direct => Err(Error::field(
                    "name",
                    "must be left out: a direct room has no name",
                )),
                RoomKind::Public | RoomKind::Private => fields::room_name(&mut name),
            },
            check_members(new.kind, user, &new.members),
            fields::idempotency_key(key.as_deref()),
        ])?;
        edge.limits
            .admit_more(user, cost::of_members(new.members.len()))?;
        let room = match (new.kind, new.members.as_slice()) {
            (RoomKind::Direct, [other]) => model::direct_room_id(user, *other),
            _ => fields::id_for("room", user, key.as_deref()),
        };
        let write = Write {
            edge: &edge,
            user,
            room,
            need: Need::Sight,
        };
        let command = RoomCommand::Create {
            kind: new.kind,
            name,
            members: new.members,
        };
        Ok(write.create(command).await?)
    }

    /// List rooms
    ///
    /// Those the caller is in, or with `public=true` all public ones. Ordered by id.
    #[oai(path = "/", method = "get", operation_id = "listRooms")]
    async fn list(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        /// `true`: the public rooms instead of one's own.
        public: Query<Option<bool>>,
        /// The last page's `nextCursor`.
        after: Query<Option<RoomId>>,
        /// 1 to 200; 50 where it is left out.
        limit: Query<Option<u32>>,
    ) -> Result<Found<RoomPage>, Problem> {
        let limit = check_limit(limit.0)?;
        // One more than asked for shows whether there is more.
        let mut items: Vec<MyRoom> = if public.0 == Some(true) {
            let rooms = edge.reads.public_rooms(after.0, limit + 1).await?;
            rooms
                .into_iter()
                .map(|room| MyRoom::new(room, None))
                .collect()
        } else {
            let rooms = edge
                .reads
                .rooms_of(caller.user(), after.0, limit + 1)
                .await?;
            rooms
                .into_iter()
                .map(|(room, member)| MyRoom::new(room, Some(&member)))
                .collect()
        };
        let has_more = items.len() > limit as usize;
        items.truncate(limit as usize);
        Ok(Found::of(&RoomPage {
            next_cursor: Cursor(items.last().filter(|_| has_more).map(|room| room.id)),
            items,
            has_more,
        }))
    }

    /// See a room
    ///
    /// Anyone may see a public room, and its members a private or direct one; to others it does not exist.
    #[oai(path = "/:room", method = "get", operation_id = "getRoom")]
    async fn get(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
    ) -> Result<Found<MyRoom>, Problem> {
        let (room, member) = access::visible(&edge, room.0, caller.user()).await?;
        let unread = match &member {
            Some(member) => Some(edge.reads.unread(room.id, member.read_seq).await?),
            None => None,
        };
        Ok(Found::of(&MyRoom {
            unread,
            ..MyRoom::new(room, member.as_ref())
        }))
    }

    /// Rename a room
    ///
    /// For admins and the owner.
    #[oai(path = "/:room", method = "patch", operation_id = "updateRoom")]
    async fn update(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        body: Body<RoomPatch>,
    ) -> Result<Changed<RoomView>, Problem> {
        let Body(RoomPatch { mut name }) = body;
        fields::room_name(&mut name)?;
        let write = Write {
            edge: &edge,
            user: caller.user(),
            room: room.0,
            need: Need::Role(Role::Admin),
        };
        Ok(write.change(room.0, RoomCommand::Rename { name }).await?)
    }

    /// Delete a room
    ///
    /// For the owner. The room and its messages are there for nobody from then on.
    #[oai(path = "/:room", method = "delete", operation_id = "deleteRoom")]
    async fn delete(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
    ) -> Result<Gone, Problem> {
        let write = Write {
            edge: &edge,
            user: caller.user(),
            room: room.0,
            need: Need::Role(Role::Owner),
        };
        Ok(write.clear(room.0, RoomCommand::DeleteRoom).await?)
    }

    /// Join a public room
    ///
    /// Someone who is a member already stays what they are.
    #[oai(path = "/:room/join", method = "post", operation_id = "joinRoom")]
    async fn join(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
    ) -> Result<Changed<MemberView>, Problem> {
        let write = Write {
            edge: &edge,
            user: caller.user(),
            room: room.0,
            need: Need::Sight,
        };
        Ok(write.change(room.0, RoomCommand::Join).await?)
    }

    /// Leave a room
    ///
    /// The owner cannot, before another member is the owner. Someone who left a direct room is in it again when they ask
    /// for it, or when the other one does and `rooms.add_members` lets them.
    #[oai(path = "/:room/leave", method = "post", operation_id = "leaveRoom")]
    async fn leave(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
    ) -> Result<Gone, Problem> {
        let write = Write {
            edge: &edge,
            user: caller.user(),
            room: room.0,
            need: Need::Sight,
        };
        Ok(write.clear(room.0, RoomCommand::Leave).await?)
    }
}

fn check_members(kind: RoomKind, user: UserId, members: &[UserId]) -> Result<()> {
    match (kind, members) {
        (RoomKind::Direct, [other]) if *other != user => Ok(()),
        (RoomKind::Direct, _) => Err(Error::field(
            "members",
            "must hold exactly one user other than yourself",
        )),
        (_, members) if members.len() > MAX_FIRST_MEMBERS => Err(Error::field(
            "members",
            format!("must hold at most {MAX_FIRST_MEMBERS}; add the others afterwards"),
        )),
        _ => Ok(()),
    }
}
