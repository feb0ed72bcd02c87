//! `/v1/rooms/{room}/members`, `/bans` and `/mutes`.

use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    Tags,
    access::{self, Caller, Need, Shared, Write},
    payload::{Body, Changed, Cursor, Found, Gone, Pending, RawJson},
    problem::Problem,
    query::PageCursor,
};
use crate::{
    command::room::RoomCommand,
    edge::{Edge, submit::SubmitResult},
    error::{Error, Result},
    model::{Role, RoomId, Timestamp, UserId},
    protocol::{MemberView, check_limit},
};

pub struct MembersApi;

/// The role to give the member.
#[derive(Deserialize, Object)]
#[oai(rename = "SetMember")]
struct SetMember {
    role: Role,
}

/// The end of a ban or mute.
#[derive(Deserialize, Object)]
#[oai(rename = "Until")]
struct Until {
    /// Must be in the future. If absent, it lasts until it is lifted.
    until: Option<Timestamp>,
}

/// A page of members, ordered by user id.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "MemberPage")]
struct MemberPage {
    items: Vec<MemberView>,
    /// Pass it as `cursor` to get the next page; `null` on the last page.
    next_cursor: Cursor<UserId>,
    /// Whether there is a next page.
    has_more: bool,
}

#[OpenApi(prefix_path = "/v1/rooms", tag = "Tags::Members")]
impl MembersApi {
    /// List members
    ///
    /// For members. Ordered by user id.
    #[oai(path = "/:room/members", method = "get", operation_id = "listMembers")]
    async fn list(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        /// The `nextCursor` of the previous page.
        cursor: Query<Option<PageCursor<UserId>>>,
        /// The same as `cursor`, for clients of earlier versions. Not used if there is a `cursor`.
        after: Query<Option<UserId>>,
        /// 1 to 200. Default: 50.
        limit: Query<Option<u32>>,
    ) -> Result<Found<MemberPage>, Problem> {
        let limit = check_limit(limit.0)?;
        let after = cursor.0.map(|cursor| cursor.0).or(after.0);
        access::member(&edge, room.0, caller.user()).await?;
        // Reads one more than requested to learn whether there is another page.
        let mut members = edge.reads.members(room.0, after, limit + 1).await?;
        let has_more = members.len() > limit as usize;
        members.truncate(limit as usize);
        Ok(Found::of(&MemberPage {
            items: members.iter().map(MemberView::from).collect(),
            next_cursor: Cursor(
                members
                    .last()
                    .filter(|_| has_more)
                    .map(|member| member.user.id),
            ),
            has_more,
        }))
    }

    /// Add a member or change a role
    ///
    /// Admins may add plain members; only the owner may assign other roles or change an existing role. Assigning
    /// `owner` transfers the ownership, and the previous owner becomes an admin. Whether users can be added without
    /// their consent depends on the server's `rooms.add_members`. A new member sees the room's whole history; one who
    /// was removed and is added again also sees the messages in between.
    #[oai(
        path = "/:room/members/:user",
        method = "put",
        operation_id = "setMember"
    )]
    async fn set(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        user: Path<UserId>,
        body: Body<SetMember>,
    ) -> Result<Changed<MemberView>, Problem> {
        let command = RoomCommand::SetMember {
            user: user.0,
            role: body.0.role,
        };
        Ok(by_admin(&edge, &caller, room.0)
            .change(user.0, command)
            .await?)
    }

    /// Remove a member
    ///
    /// Admins may remove plain members, and the owner may remove any member. Removing yourself is leaving the room.
    #[oai(
        path = "/:room/members/:user",
        method = "delete",
        operation_id = "removeMember"
    )]
    async fn remove(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        user: Path<UserId>,
    ) -> Result<Gone, Problem> {
        let command = RoomCommand::RemoveMember { user: user.0 };
        let write = if user.0 == caller.user() {
            Write {
                need: Need::Sight,
                ..by_admin(&edge, &caller, room.0)
            }
        } else {
            by_admin(&edge, &caller, room.0)
        };
        Ok(write.clear(user.0, command).await?)
    }

    /// Ban a user
    ///
    /// Removes the user if they are a member, and prevents them from joining or being added until the ban ends. For
    /// admins and the owner; the target must have a lower role.
    #[oai(path = "/:room/bans/:user", method = "put", operation_id = "banUser")]
    async fn ban(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        user: Path<UserId>,
        body: Body<Until>,
    ) -> Result<Gone, Problem> {
        let until = in_future(body.0.until)?;
        let command = RoomCommand::Ban {
            user: user.0,
            until,
        };
        Ok(by_admin(&edge, &caller, room.0)
            .clear(user.0, command)
            .await?)
    }

    /// Lift a ban
    ///
    /// For admins and the owner.
    #[oai(
        path = "/:room/bans/:user",
        method = "delete",
        operation_id = "unbanUser"
    )]
    async fn lift_ban(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        user: Path<UserId>,
    ) -> Result<Gone, Problem> {
        let command = RoomCommand::LiftBan { user: user.0 };
        Ok(by_admin(&edge, &caller, room.0)
            .clear(user.0, command)
            .await?)
    }

    /// Mute a member
    ///
    /// A muted member can read but not write until the mute ends, even after leaving and rejoining. A user who is not a
    /// member can be muted in advance; the response is then 204. For admins and the owner; the target must have a lower
    /// role.
    #[oai(
        path = "/:room/mutes/:user",
        method = "put",
        operation_id = "muteMember"
    )]
    async fn mute(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        user: Path<UserId>,
        body: Body<Until>,
    ) -> Result<Muted, Problem> {
        let until = Some(in_future(body.0.until)?.unwrap_or(Timestamp::MAX));
        Ok(mute(&edge, &caller, room.0, user.0, until).await?)
    }

    /// Unmute a member
    ///
    /// For admins and the owner.
    #[oai(
        path = "/:room/mutes/:user",
        method = "delete",
        operation_id = "unmuteMember"
    )]
    async fn unmute(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        user: Path<UserId>,
    ) -> Result<Muted, Problem> {
        Ok(mute(&edge, &caller, room.0, user.0, None).await?)
    }
}

/// The result of muting or unmuting.
#[derive(ApiResponse)]
enum Muted {
    /// The member's new state.
    #[oai(status = 200)]
    Member(RawJson<MemberView>),
    /// The write was enqueued and will be done.
    #[oai(status = 202)]
    Accepted(RawJson<Pending>),
    /// The user is not a member; the change takes effect when they join.
    #[oai(status = 204)]
    Absent,
}

async fn mute(
    edge: &Edge,
    caller: &Caller,
    room: RoomId,
    user: UserId,
    until: Option<Timestamp>,
) -> Result<Muted> {
    let write = by_admin(edge, caller, room);
    Ok(match write.call(RoomCommand::Mute { user, until }).await? {
        SubmitResult::Done(Some(member)) => Muted::Member(RawJson::of_raw(member)),
        SubmitResult::Done(None) => Muted::Absent,
        SubmitResult::Accepted => Muted::Accepted(RawJson::of(&Pending::new(user))),
    })
}

fn by_admin<'a>(edge: &'a Edge, caller: &Caller, room: RoomId) -> Write<'a> {
    Write {
        edge,
        user: caller.user(),
        room,
        need: Need::Role(Role::Admin),
    }
}

fn in_future(until: Option<Timestamp>) -> Result<Option<Timestamp>> {
    match until {
        Some(until) if until <= Timestamp::now() => {
            Err(Error::field("until", "must be in the future"))
        }
        until => Ok(until),
    }
}
