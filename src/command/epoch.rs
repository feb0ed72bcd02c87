//! The command with which an edge reports that the store has lost history, and its effect: a new epoch.
//!
//! An edge creates it from what it delivered to sockets and what it then read from the store; nothing that a client
//! sends leads to one. The worker compares again, with the database that it writes to.

use serde::{Deserialize, Serialize};

use super::{Notice, Outcome, Refusal, account::Ran};
use crate::{
    error::{Code, Result},
    model::{Delivered, Epoch, LostHistory},
    store::{Replacement, Writes},
    telemetry::metrics,
};

/// Rooms in one report: enough to find out what happened.
pub const MAX_REPORTED: usize = 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EpochCommand {
    /// Replaces the epoch `from` by `to` if the store does not have what was delivered in `from`.
    Replace {
        from: Epoch,
        to: Epoch,
        /// At most [`MAX_REPORTED`].
        delivered: Vec<Delivered>,
    },
}

/// Applies the command. An `Err` is a store failure; the command is retried unchanged.
pub async fn run(store: &dyn Writes, command: &EpochCommand) -> Result<Ran> {
    let EpochCommand::Replace {
        from,
        to,
        delivered,
    } = command;
    let (outcome, epoch) = match store.replace_epoch(*from, *to, delivered).await? {
        Replacement::Done(lost) => {
            metrics().history_resets.inc();
            report(*to, &lost);
            (Outcome::Done(None), *to)
        }
        // A redelivered command, or another attempt of the edge: the loss has been logged and counted.
        Replacement::Repeated => (Outcome::Done(None), *to),
        Replacement::Superseded(epoch) => (Outcome::Done(None), epoch),
        Replacement::Refuted => {
            tracing::warn!(
                "an edge reads older rows than it has delivered: it may be connected to a standby that is behind"
            );
            let refusal = Refusal::new(Code::Conflict, "the database has lost nothing");
            (Outcome::Refused(refusal), *from)
        }
    };
    Ok(Ran {
        outcome,
        notices: vec![Notice::EpochChanged { epoch }],
    })
}

fn report(epoch: Epoch, lost: &[LostHistory]) {
    let rooms: Vec<String> = lost
        .iter()
        .map(|one| {
            format!(
                "{} delivered up to {}, now at {}",
                one.room, one.delivered, one.head
            )
        })
        .collect();
    tracing::error!(
        %epoch,
        rooms = rooms.join("; "),
        "the database has lost history: messages that were stored and delivered are missing from it. A standby that \
         was behind was promoted, or an older backup was restored. Clients load the affected rooms anew; the missing \
         messages are not stored again. Look for them in the former primary before that is overwritten, and check the \
         replication: only a synchronous standby has every transaction"
    );
}
