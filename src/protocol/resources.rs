//! Resources as REST and sockets show them.

use poem_openapi::Object;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Member, Role, Room, RoomId, RoomKind, Seq, Timestamp, User, UserId};

/// A room as its members see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Object, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Room")]
pub struct RoomView {
    pub id: RoomId,
    pub kind: RoomKind,
    /// Empty for a direct room. Not unique: `id` identifies a room.
    pub name: String,
    /// The number of the newest event.
    pub seq: Seq,
    pub created_by: UserId,
    pub created_at: Timestamp,
}

impl From<&Room> for RoomView {
    fn from(room: &Room) -> Self {
        RoomView {
            id: room.id,
            kind: room.kind,
            name: room.name.clone(),
            seq: room.head,
            created_by: room.created_by,
            created_at: room.created_at,
        }
    }
}

/// A member of a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Object, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Member")]
pub struct MemberView {
    pub user: User,
    pub role: Role,
    pub joined_at: Timestamp,
    /// The highest number that this member has read.
    pub read_seq: Seq,
    /// The member may not write before this time. Omitted if the member is not muted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub muted_until: Option<Timestamp>,
}

impl From<&Member> for MemberView {
    fn from(member: &Member) -> Self {
        MemberView {
            user: member.user.clone(),
            role: member.role,
            joined_at: member.joined_at,
            read_seq: member.read_seq,
            muted_until: member.muted_until,
        }
    }
}
