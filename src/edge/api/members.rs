//! `/v1/rooms/{room}/members`, and the bans and mutes beside it.

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
};
use crate::{
    edge::{Edge, submit::Answer},
    error::{Error, Result},
    job::room::RoomCommand,
    model::{Role, RoomId, Timestamp, UserId},
    protocol::{MemberView, check_limit},
};

pub struct MembersApi;

/// What someone is in the room.
#[derive(Deserialize, Object)]
#[oai(rename = "SetMember")]
struct SetMember {
    role: Role,
}

/// How long it lasts.
#[derive(Deserialize, Object)]
#[oai(rename = "Until")]
struct Until {
    /// In the future; left out, it lasts until it is lifted.
    until: Option<Timestamp>,
}

/// A page of members, by user id.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "MemberPage")]
struct MemberPage {
    items: Vec<MemberView>,
    /// The next page's `after`; `null` on the last page.
    next_cursor: Cursor<UserId>,
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
        /// The last page's `nextCursor`.
        after: Query<Option<UserId>>,
        /// 1 to 200; 50 where it is left out.
        limit: Query<Option<u32>>,
    ) -> Result<Found<MemberPage>, Problem> {
        let limit = check_limit(limit.0)?;
        access::member(&edge, room.0, caller.user()).await?;
        // One more than asked for shows whether there is more.
        let mut members = edge.reads.members(room.0, after.0, limit + 1).await?;
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
    /// Admins add plain members; only the owner gives another role or changes one. Whoever is made the owner
    /// replaces the one before, who becomes an admin. Who may be added unasked is a setting of the server
    /// (`rooms.add_members`).
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
    /// Admins remove plain members, the owner anyone; removing oneself is leaving.
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
    /// They are removed if they are a member, and cannot join or be added until then. For admins and the owner, on
    /// people below their own role.
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
    /// They can read but not write until then, also after leaving and coming back. Someone who is not a member can be
    /// muted for when they come, which is answered with 204. For admins and the owner, on people below their own role.
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

    /// Let a member speak again
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

/// What a mute came to.
#[derive(ApiResponse)]
enum Muted {
    /// The member.
    #[oai(status = 200)]
    Member(RawJson<MemberView>),
    /// The queue holds it: it will be done, whatever fails now.
    #[oai(status = 202)]
    Accepted(RawJson<Pending>),
    /// They are not a member: it counts when they come.
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
        Answer::Done(Some(member)) => Muted::Member(RawJson::of_raw(member)),
        Answer::Done(None) => Muted::Absent,
        Answer::Accepted => Muted::Accepted(RawJson::of(&Pending::new(user))),
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
