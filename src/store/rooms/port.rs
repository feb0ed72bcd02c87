//! The port of rooms. They are written by [batches](crate::store::BatchWrites).

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{Position, Room, RoomId, Seq},
};

#[async_trait]
pub trait RoomReads: Send + Sync {
    /// A room that is not deleted.
    async fn room(&self, room: RoomId) -> Result<Option<Room>>;
    /// Public rooms by room id, those above `after`.
    async fn public_rooms(&self, after: Option<RoomId>, limit: u32) -> Result<Vec<Room>>;
    /// The newest number of each room that exists and is not deleted; any number of rooms.
    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>>;
    /// The newest number of each room that exists, deleted ones included, with the event that has it; any number of
    /// rooms.
    async fn tips(&self, rooms: &[RoomId]) -> Result<Vec<Position>>;
}
