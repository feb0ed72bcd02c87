//! The port as a whole: the traits of the subjects together.

use async_trait::async_trait;

use super::{
    AccountReads, AccountWrites, BatchWrites, EpochReads, EpochWrites, Expiry, LoginReads,
    LoginWrites, MemberReads, MemberRooms, MessageReads, ReactionReads, RoomReads,
    sql::{Access, Database, Session, sql},
};
use crate::error::Result;

/// The reads of edges.
#[async_trait]
pub trait Reads:
    AccountReads + LoginReads + RoomReads + MemberReads + MessageReads + EpochReads + ReactionReads
{
    /// `Ok` when the store answers a query.
    async fn ping(&self) -> Result<()>;
}

#[async_trait]
impl<D: Database> Reads for D {
    async fn ping(&self) -> Result<()> {
        let mut session = self.open(Access::Read).await?;
        session.execute(sql("SELECT 1")).await.map(drop)
    }
}

/// The writes of workers. Room commands go through [`BatchWrites`] in batches, account commands one at a time.
pub trait Writes:
    BatchWrites + AccountWrites + LoginWrites + MemberRooms + Expiry + EpochReads + EpochWrites
{
}

impl<T> Writes for T where
    T: BatchWrites + AccountWrites + LoginWrites + MemberRooms + Expiry + EpochReads + EpochWrites
{
}
