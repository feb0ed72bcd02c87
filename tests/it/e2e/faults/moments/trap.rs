//! Wrappers of a worker's ports: at a chosen step of a batch, a call never returns or returns an error.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chat::{
    error::{Error, Result},
    model::*,
    queue::{Consumer, Delivery, Depth, Load, Partition, Queue},
    store::{self, *},
};
use tokio::sync::Notify;

/// The step of a batch at which the trap springs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing of the batch is stored.
    Taken,
    /// The rooms are locked or read.
    Seen,
    /// Before the commit of the batch's changes.
    BeforeCommit,
    Committed,
    Told,
    Acknowledged,
    /// The consumer delivers nothing from the beginning, without an error.
    Silent,
}

pub const MOMENTS: [Moment; 6] = [
    Moment::Taken,
    Moment::Seen,
    Moment::BeforeCommit,
    Moment::Committed,
    Moment::Told,
    Moment::Acknowledged,
];

/// Springs once.
pub struct Trap {
    pub moment: Moment,
    /// The call never returns; otherwise it fails.
    pub deadly: bool,
    pub set: AtomicBool,
    pub sprung: Notify,
}

impl Trap {
    async fn pass(&self, moment: Moment) -> Result<()> {
        if moment != self.moment || !self.set.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        self.sprung.notify_one();
        if self.deadly {
            std::future::pending::<()>().await;
        }
        Err(Error::busy("the answer was lost", Duration::ZERO))
    }
}

pub struct Trapped<T: ?Sized> {
    pub inner: Arc<T>,
    pub trap: Arc<Trap>,
}

struct TrappedTransaction(Box<dyn Transaction>, Arc<Trap>);

#[async_trait]
impl Transaction for TrappedTransaction {
    async fn commit(self: Box<Self>, changes: Changes) -> Result<()> {
        self.1.pass(Moment::BeforeCommit).await?;
        self.0.commit(changes).await?;
        self.1.pass(Moment::Committed).await
    }
}

#[async_trait]
impl BatchWrites for Trapped<dyn Writes> {
    async fn begin(&self, scope: &Scope) -> Result<(Facts, Box<dyn Transaction>)> {
        self.trap.pass(Moment::Taken).await?;
        let (facts, transaction) = self.inner.begin(scope).await?;
        self.trap.pass(Moment::Seen).await?;
        Ok((
            facts,
            Box::new(TrappedTransaction(transaction, self.trap.clone())),
        ))
    }
    async fn preview(&self, scope: &Scope) -> Result<Facts> {
        self.trap.pass(Moment::Taken).await?;
        let facts = self.inner.preview(scope).await?;
        self.trap.pass(Moment::Seen).await?;
        Ok(facts)
    }
    async fn append(&self, before: &HashMap<RoomId, Seq>, changes: &Changes) -> Result<()> {
        // Appending reads nothing: rooms and members are cached.
        self.trap.pass(Moment::Taken).await?;
        self.trap.pass(Moment::Seen).await?;
        self.trap.pass(Moment::BeforeCommit).await?;
        self.inner.append(before, changes).await?;
        self.trap.pass(Moment::Committed).await
    }
}

#[async_trait]
impl AccountWrites for Trapped<dyn Writes> {
    async fn register(&self, new: &NewAccount) -> Result<store::Applied> {
        self.inner.register(new).await
    }
    async fn update_account(&self, user: UserId, patch: &AccountPatch) -> Result<store::Applied> {
        self.inner.update_account(user, patch).await
    }
    async fn names(&self, user: UserId) -> Result<Option<User>> {
        self.inner.names(user).await
    }
    async fn erase_account(&self, user: UserId, at: Timestamp) -> Result<store::Applied> {
        self.inner.erase_account(user, at).await
    }
}

#[async_trait]
impl EpochReads for Trapped<dyn Writes> {
    async fn epoch(&self) -> Result<Epoch> {
        self.inner.epoch().await
    }
    async fn positions(&self, delivered: &[Delivered]) -> Result<Vec<Position>> {
        self.inner.positions(delivered).await
    }
}

#[async_trait]
impl EpochWrites for Trapped<dyn Writes> {
    async fn replace_epoch(
        &self,
        from: Epoch,
        to: Epoch,
        delivered: &[Delivered],
    ) -> Result<Replacement> {
        self.inner.replace_epoch(from, to, delivered).await
    }
}

#[async_trait]
impl LoginWrites for Trapped<dyn Writes> {
    async fn open_login(
        &self,
        login: &Login,
        password_hash: Option<&str>,
    ) -> Result<store::Applied> {
        self.inner.open_login(login, password_hash).await
    }
    async fn rotate_login(&self, rotation: &Rotation) -> Result<store::Applied> {
        self.inner.rotate_login(rotation).await
    }
    async fn close_login(&self, user: UserId, login: LoginId) -> Result<store::Applied> {
        self.inner.close_login(user, login).await
    }
    async fn close_logins(
        &self,
        user: UserId,
        except: Option<LoginId>,
        at: Timestamp,
    ) -> Result<store::Applied> {
        self.inner.close_logins(user, except, at).await
    }
    async fn set_password(
        &self,
        user: UserId,
        new: &NewPassword,
        except: Option<LoginId>,
        at: Timestamp,
    ) -> Result<store::Applied> {
        self.inner.set_password(user, new, except, at).await
    }
    async fn revoked_by(&self, user: UserId, at: Timestamp) -> Result<Vec<LoginId>> {
        self.inner.revoked_by(user, at).await
    }
    async fn logins_of(&self, user: UserId) -> Result<Vec<LoginId>> {
        self.inner.logins_of(user).await
    }
}

#[async_trait]
impl MemberRooms for Trapped<dyn Writes> {
    async fn member_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u32,
    ) -> Result<Vec<RoomId>> {
        self.inner.member_of(user, after, limit).await
    }
}

#[async_trait]
impl Expiry for Trapped<dyn Writes> {
    async fn expire(&self, after: Duration, keep: Duration) -> Result<store::Expired> {
        self.inner.expire(after, keep).await
    }
}

#[async_trait]
impl Queue for Trapped<dyn Queue> {
    async fn consume(&self, partition: Partition) -> Result<Box<dyn Consumer>> {
        let consumer = self.inner.consume(partition).await?;
        let sprung = self.trap.moment == Moment::Silent;
        let silent = sprung && self.trap.set.swap(false, Ordering::SeqCst);
        Ok(Box::new(TrappedConsumer(
            consumer,
            self.trap.clone(),
            silent,
        )))
    }
    async fn depths(&self) -> Result<Vec<Depth>> {
        self.inner.depths().await
    }
    async fn load(&self) -> Result<Load> {
        self.inner.load().await
    }
    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
}

struct TrappedConsumer(Box<dyn Consumer>, Arc<Trap>, bool);

#[async_trait]
impl Consumer for TrappedConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        if self.2 {
            return std::future::pending().await;
        }
        self.0.next().await
    }
    fn try_next(&mut self) -> Option<Delivery> {
        if self.2 { None } else { self.0.try_next() }
    }
    /// Events are published before this call.
    async fn ack_through(&mut self, tag: u64) -> Result<()> {
        self.1.pass(Moment::Told).await?;
        self.0.ack_through(tag).await?;
        self.1.pass(Moment::Acknowledged).await
    }
    async fn close(self: Box<Self>) {
        self.0.close().await;
    }
}
