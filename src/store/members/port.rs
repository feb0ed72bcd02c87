//! The port of members. They are written by [batches](crate::store::BatchWrites).

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{Epoch, Member, Room, RoomId, UserId},
};

/// A room with the membership and unread count of one user, as `joinRoom` needs it.
#[derive(Debug, Clone)]
pub struct RoomEntry {
    /// Not deleted.
    pub room: Room,
    pub member: Option<Member>,
    /// [`MessageReads::unread`](crate::store::MessageReads::unread) of a member; 0 for others.
    pub unread: u32,
    /// The epoch that the room's numbers belong to.
    pub epoch: Epoch,
}

#[async_trait]
pub trait MemberReads: Send + Sync {
    /// The room, and the user's membership in it: one round trip, for every check of rights.
    async fn membership(
        &self,
        room: RoomId,
        user: UserId,
    ) -> Result<Option<(Room, Option<Member>)>>;
    /// The [`RoomEntry`] of each pair of room and user, in the order of `who`, which may have any length.
    async fn entries(&self, who: &[(RoomId, UserId)]) -> Result<Vec<Option<RoomEntry>>>;
    /// The pairs of `who` in which the user is a member and the room is not deleted, in any order. Any number of pairs.
    async fn are_members(&self, who: &[(RoomId, UserId)]) -> Result<Vec<(RoomId, UserId)>>;
    /// Members in the order of their user ids, starting above `after`.
    async fn members(&self, room: RoomId, after: Option<UserId>, limit: u32)
    -> Result<Vec<Member>>;
    /// The user's rooms in the order of their ids, starting above `after`.
    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u32,
    ) -> Result<Vec<(Room, Member)>>;
}

/// The reads of members that workers need.
#[async_trait]
pub trait MemberRooms: Send + Sync {
    /// Rooms that are not deleted and have the user as a member, in the order of their ids, starting above `after`.
    async fn member_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u32,
    ) -> Result<Vec<RoomId>>;
}
