//! The rest of an account's end. The account itself is erased in one transaction (`job::account`); what hangs on it ends
//! here, each step by itself: its sockets, what was to be sent to it, and its places in rooms. The command is
//! acknowledged after the last step, and every step that is done already has nothing left to do: a worker that dies
//! in between leaves the rest to the next one.

use super::batch::{Runner, Told, commit, encode};
use crate::{
    bus::Channel,
    error::Result,
    job::{
        Notice,
        room::{RoomCommand, RoomJob},
    },
    model::{RoomId, Timestamp, UserId},
};

/// Rooms that are left in one transaction: few enough that their other members hardly wait.
const ROOMS_AT_ONCE: u32 = 50;

impl Runner {
    /// `None` when the worker must stop first.
    pub(super) async fn farewell(&mut self, user: UserId, at: Timestamp) -> Option<Result<()>> {
        let mut told = Told::default();
        match self.patiently(|| self.worker.store.logins_of(user)).await? {
            Ok(logins) => {
                let closed = logins.into_iter().map(|login| {
                    let notice = Notice::LoginClosed { login };
                    (Channel::Everyone, encode(&notice))
                });
                told.notices.extend(closed);
            }
            Err(error) => return Some(Err(error)),
        }
        self.tell(told).await;
        if let Err(error) = self.patiently(|| self.worker.notifier.forget(user)).await? {
            return Some(Err(error));
        }
        let mut after = None;
        loop {
            let page = self
                .patiently(|| self.worker.store.member_of(user, after, ROOMS_AT_ONCE))
                .await?;
            let rooms = match page {
                Ok(rooms) => rooms,
                Err(error) => return Some(Err(error)),
            };
            let Some(last) = rooms.last() else {
                return Some(Ok(()));
            };
            after = Some(*last);
            if let Err(error) = self.leave(user, at, &rooms).await? {
                return Some(Err(error));
            }
        }
    }

    /// Whoever owns the rooms' partitions is not asked: as everywhere, the rooms' locks say whose number is next.
    async fn leave(&mut self, user: UserId, at: Timestamp, rooms: &[RoomId]) -> Option<Result<()>> {
        let jobs: Vec<RoomJob> = rooms
            .iter()
            .map(|room| RoomJob {
                room: *room,
                actor: user,
                at,
                command: RoomCommand::Depart,
            })
            .collect();
        let jobs: Vec<&RoomJob> = jobs.iter().collect();
        let applied = match self.patiently(|| commit(&self.worker, &jobs)).await? {
            Ok(applied) => applied,
            Err(error) => return Some(Err(error)),
        };
        // The cached events still have the old name in them.
        self.stale.extend(rooms);
        self.tell(Told {
            events: applied.events,
            notices: Vec::new(),
        })
        .await;
        Some(Ok(()))
    }
}
