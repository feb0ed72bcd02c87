//! The clean-up after an account was deleted. The account itself is erased in one transaction (`command::account`); then its
//! sockets are closed, its deliveries cancelled and its memberships ended, each step by itself. The command is acknowledged
//! after the last step and every step is idempotent: if the worker dies in between, the next one completes the clean-up.

use super::{batch::Runner, commit::commit, outcomes::Outcomes};
use crate::{
    bus::Channel,
    command::{
        Notice,
        room::{RoomCommand, RoomEnvelope},
    },
    error::Result,
    model::{RoomId, Timestamp, UserId},
};

/// Rooms left in one transaction, which locks them.
const ROOMS_AT_ONCE: u32 = 50;

impl Runner {
    /// `None` if the worker must stop first.
    pub(super) async fn clean_up_account(
        &mut self,
        user: UserId,
        at: Timestamp,
    ) -> Option<Result<()>> {
        let mut outcomes = Outcomes::default();
        match self
            .until_answered(|| self.worker.store.logins_of(user))
            .await?
        {
            Ok(logins) => {
                for login in logins {
                    outcomes.notify(Channel::Everyone, &Notice::LoginClosed { login });
                }
            }
            Err(error) => return Some(Err(error)),
        }
        self.publish(outcomes).await;
        if let Err(error) = self
            .until_answered(|| self.worker.notifier.erase_user(user))
            .await?
        {
            return Some(Err(error));
        }
        let mut after = None;
        loop {
            let page = self
                .until_answered(|| self.worker.store.member_of(user, after, ROOMS_AT_ONCE))
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

    /// Works on rooms of any partition: the rooms' locks guard their order.
    async fn leave(&mut self, user: UserId, at: Timestamp, rooms: &[RoomId]) -> Option<Result<()>> {
        let envelopes: Vec<RoomEnvelope> = rooms
            .iter()
            .map(|room| RoomEnvelope {
                room: *room,
                actor: user,
                at,
                command: RoomCommand::LeaveByDeletion,
            })
            .collect();
        let envelopes: Vec<&RoomEnvelope> = envelopes.iter().collect();
        let applied = match self
            .until_answered(|| commit(&self.worker, &envelopes))
            .await?
        {
            Ok(applied) => applied,
            Err(error) => return Some(Err(error)),
        };
        // The cached events contain the old name.
        self.stale.extend(rooms);
        self.publish(Outcomes {
            events: applied.events,
            notices: Vec::new(),
        })
        .await;
        Some(Ok(()))
    }
}
