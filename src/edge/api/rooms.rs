//! `/v1/rooms`: create, find, change, join and leave rooms.

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
    query::PageCursor,
};
use crate::{
    command::room::RoomCommand,
    edge::rate_limit::cost,
    error::{Error, Result},
    model::{self, Member, Role, Room, RoomId, RoomKind, Seq, Timestamp, UserId},
    protocol::{MemberView, RoomView, check_limit},
};

/// The most members that a room can be created with; more can be added one by one.
const MAX_FIRST_MEMBERS: usize = 100;

pub struct RoomsApi;

/// A new room.
#[derive(Deserialize, Object)]
#[oai(rename = "NewRoom")]
struct NewRoom {
    kind: RoomKind,
    /// 1 to 128 bytes; must be absent for a direct room.
    name: Option<String>,
    /// The initial members besides the caller: at most 100, and exactly one for a direct room.
    #[serde(default)]
    #[oai(default)]
    members: Vec<UserId>,
}

/// Fields to change.
#[derive(Deserialize, Object)]
#[oai(rename = "RoomPatch")]
struct RoomPatch {
    /// 1 to 128 bytes.
    name: String,
}

/// A room and the caller's membership in it.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "MyRoom")]
struct MyRoom {
    id: RoomId,
    kind: RoomKind,
    /// Empty for a direct room.
    name: String,
    /// The number of the room's newest event.
    seq: Seq,
    created_by: UserId,
    created_at: Timestamp,
    /// The caller's role; absent if the caller is not a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    role: Option<Role>,
    /// The caller's read position; absent if the caller is not a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    read_seq: Option<Seq>,
    /// The caller is muted until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    muted_until: Option<Timestamp>,
    /// The number of messages above `readSeq`, counted up to 1,000. Only in the response for a single room.
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

/// A page of rooms, ordered by id.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "RoomPage")]
struct RoomPage {
    items: Vec<MyRoom>,
    /// Pass it as `cursor` to get the next page; `null` on the last page.
    next_cursor: Cursor<RoomId>,
    /// Whether there is a next page.
    has_more: bool,
}

#[OpenApi(prefix_path = "/v1/rooms", tag = "Tags::Rooms")]
impl RoomsApi {
    /// Create a room
    ///
    /// The caller becomes the owner. Names are not unique: several rooms may have the same name, and a room is
    /// identified by its `id`. A direct room has exactly two members and no owner; creating one that exists returns the
    /// existing room. If an account is deleted, its direct rooms remain with their history for the other member alone,
    /// who can still read, write and leave; none can be created with a deleted account. A repeat with the same
    /// `Idempotency-Key` returns the existing room, as long as the caller may see it. Whether users can be added
    /// without their consent depends on the server's `rooms.add_members`.
    #[oai(path = "/", method = "post", operation_id = "createRoom")]
    async fn create(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        /// 1 to 128 visible ASCII characters, preferably a new UUID.
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
    /// The caller's rooms or, with `public=true`, all public rooms. Ordered by id.
    #[oai(path = "/", method = "get", operation_id = "listRooms")]
    async fn list(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        /// `true`: list all public rooms instead of the caller's.
        public: Query<Option<bool>>,
        /// The `nextCursor` of the previous page.
        cursor: Query<Option<PageCursor<RoomId>>>,
        /// The same as `cursor`, for clients of earlier versions. Not used if there is a `cursor`.
        after: Query<Option<RoomId>>,
        /// 1 to 200. Default: 50.
        limit: Query<Option<u32>>,
    ) -> Result<Found<RoomPage>, Problem> {
        let limit = check_limit(limit.0)?;
        let after = cursor.0.map(|cursor| cursor.0).or(after.0);
        // Reads one more than requested to learn whether there is another page.
        let mut items: Vec<MyRoom> = if public.0 == Some(true) {
            let rooms = edge.reads.public_rooms(after, limit + 1).await?;
            rooms
                .into_iter()
                .map(|room| MyRoom::new(room, None))
                .collect()
        } else {
            let rooms = edge.reads.rooms_of(caller.user(), after, limit + 1).await?;
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

    /// Get a room
    ///
    /// Public rooms are visible to all users, private and direct rooms only to their members; otherwise the error is
    /// `not_found`.
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
    /// For the owner. The room and its messages are no longer accessible.
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
    /// If the caller is already a member, their role does not change.
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
    /// The owner must transfer the ownership to another member first. A user who left a direct room rejoins it by
    /// creating it again; the other user can also add them back by creating it, if `rooms.add_members` allows it.
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
