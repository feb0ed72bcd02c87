//! Reports of lost history, from this edge's hub to a worker, which replaces the epoch of the store.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    hub::{Hub, Report, Reports},
    submit::{SubmitResult, Submitter},
};
use crate::{
    command::{
        Command,
        epoch::{EpochCommand, MAX_REPORTED},
    },
    error::Code,
    model::{Epoch, UserId},
};

/// Pause after the first attempt without an answer; it doubles up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Submits reports, one after the other, until the shutdown.
pub async fn submit_reports(
    mut reports: Reports,
    submit: Arc<Submitter>,
    hub: Arc<Hub>,
    shutdown: CancellationToken,
) {
    while let Some(Some(report)) = shutdown.run_until_cancelled(reports.recv()).await {
        let handling = handle(report, &submit, &hub);
        if shutdown.run_until_cancelled(handling).await.is_none() {
            return;
        }
    }
}

/// Submits a report until a worker has answered it or the epoch has changed.
async fn handle(mut report: Report, submit: &Submitter, hub: &Hub) {
    report.delivered.truncate(MAX_REPORTED);
    let replace = EpochCommand::Replace {
        from: report.epoch,
        // The same in every attempt, so that a repeated command is recognised.
        to: Epoch::new_v4(),
        delivered: report.delivered.clone(),
    };
    let mut pause = PAUSE;
    loop {
        // The report of another edge may have been handled first.
        if hub.read_epoch().await.is_ok_and(|now| now != report.epoch) {
            return hub.end_lost();
        }
        let rooms = report.delivered.len();
        tracing::warn!(epoch = %report.epoch, rooms, "events that were delivered are missing in the database; reporting it to a worker");
        let command = Command::Epoch(replace.clone());
        match submit.call(UserId::nil(), command).await {
            Ok(SubmitResult::Done(_)) => {
                if let Err(error) = hub.read_epoch().await {
                    tracing::debug!(error = %error.chain(), "the new epoch could not be read");
                }
                return hub.end_lost();
            }
            Err(error) if error.code == Code::Conflict => {
                tracing::warn!(error = %error.chain(), "the report of lost history was refuted: this edge may read from a standby that is behind");
                return hub.refuted(&report);
            }
            // The affected rooms are closed without waiting for a worker.
            Ok(SubmitResult::Accepted) | Err(_) => hub.end_lost(),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
