//! The port of members. They are written by [batches](crate::store::BatchWrites).

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{Member, Room, RoomId, UserId},
};

/// A room as a user finds it on joining it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Not deleted.
    pub room: Room,
    pub member: Option<Member>,
    /// [`MessageReads::unread`](crate::store::MessageReads::unread) of a member; 0 for others.
    pub unread: u32,
}

#[async_trait]
pub trait MemberReads: Send + Sync {
    /// The room, and the user's membership in it: one round trip, for every check of rights.
    async fn membership(
        &self,
        room: RoomId,
        user: UserId,
    ) -> Result<Option<(Room, Option<Member>)>>;
    /// The entry of each of these users into a room, in the order asked; any number of them.
    async fn entries(&self, who: &[(RoomId, UserId)]) -> Result<Vec<Option<Entry>>>;
    /// Those of these pairs where the user is a member and the room is not deleted, in any order; any number of pairs.
    async fn are_members(&self, who: &[(RoomId, UserId)]) -> Result<Vec<(RoomId, UserId)>>;
    /// Members by user id, those above `after`.
    async fn members(&self, room: RoomId, after: Option<UserId>, limit: u32)
    -> Result<Vec<Member>>;
    /// Rooms the user is in, by room id, those above `after`.
    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u32,
    ) -> Result<Vec<(Room, Member)>>;
}

/// What workers read of members.
#[async_trait]
pub trait MemberRooms: Send + Sync {
    /// Rooms that are not deleted and have the user as a member, by id, those above `after`.
    async fn member_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u32,
    ) -> Result<Vec<RoomId>>;
}
