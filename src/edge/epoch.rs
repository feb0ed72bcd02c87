//! Reports of lost history, from this edge's hub to a worker, which replaces the epoch of the store.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::Instant;
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

/// Pause after an attempt without an answer; it doubles up to [`MAX_PAUSE`] until another report arrives.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Submits reports, one after the other, until the shutdown.
pub async fn submit_reports(
    mut reports: Reports,
    submit: Arc<Submitter>,
    hub: Arc<Hub>,
    shutdown: CancellationToken,
) {
    let handling = async {
        let mut next = reports.recv().await;
        while let Some(report) = next {
            next = match handle(report, &mut reports, &submit, &hub).await {
                Some(later) => Some(later),
                None => reports.recv().await,
            };
        }
    };
    shutdown.run_until_cancelled(handling).await;
}

/// Submits a report until a worker has answered it or the epoch has changed. Once an attempt got no answer, the rooms
/// of later reports are closed at once and added to the next attempt. Returns those that the answer does not cover.
async fn handle(
    mut report: Report,
    reports: &mut Reports,
    submit: &Submitter,
    hub: &Hub,
) -> Option<Report> {
    // The same in every attempt, so that a repeated command is recognised.
    let to = Epoch::new_v4();
    let mut handled = hub.handled();
    let mut later: Option<Report> = None;
    let mut unanswered = false;
    let mut pause = PAUSE;
    loop {
        if let Some(newer) = later.take() {
            let epoch = report.epoch;
            report = merge(report, newer, hub);
            if report.epoch != epoch {
                return Some(report);
            }
        }
        let is_new = pause == PAUSE;
        let answered = {
            let mut attempt = pin!(attempt(&report, to, is_new, submit, hub));
            loop {
                tokio::select! {
                    biased;
                    Some(newer) = reports.recv(), if unanswered => {
                        hub.end_lost();
                        later = Some(add(later, newer, hub));
                        pause = PAUSE;
                    }
                    answered = &mut attempt => break answered,
                }
            }
        };
        if answered {
            return later;
        }
        unanswered = true;
        let mut wake = Instant::now() + pause;
        // Doubled before the wait, in which a report may reset it.
        pause = (pause * 2).min(MAX_PAUSE);
        loop {
            tokio::select! {
                biased;
                Some(newer) = reports.recv() => {
                    hub.end_lost();
                    later = Some(add(later, newer, hub));
                    pause = PAUSE;
                    // Never later than planned: frequent reports do not defer the next attempt.
                    wake = wake.min(Instant::now() + PAUSE);
                }
                Ok(()) = handled.changed() => {
                    if hub.epoch() != Some(report.epoch) {
                        hub.end_lost();
                        return later;
                    }
                }
                () = tokio::time::sleep_until(wake) => break,
            }
        }
    }
}

/// Submits a report once. Returns whether it has been handled.
async fn attempt(report: &Report, to: Epoch, is_new: bool, submit: &Submitter, hub: &Hub) -> bool {
    // The report of another edge may have been handled first.
    if hub.read_epoch().await.is_ok_and(|now| now != report.epoch) {
        hub.end_lost();
        return true;
    }
    let rooms = report.delivered.len();
    if is_new {
        tracing::warn!(epoch = %report.epoch, rooms, "events that were delivered are missing in the database; reporting it to a worker");
    } else {
        tracing::debug!(epoch = %report.epoch, rooms, "no worker has answered the report of lost history; submitting it again");
    }
    let command = Command::Epoch(EpochCommand::Replace {
        from: report.epoch,
        to,
        delivered: report
            .delivered
            .iter()
            .take(MAX_REPORTED)
            .copied()
            .collect(),
    });
    match submit.call(UserId::nil(), command).await {
        Ok(SubmitResult::Done(_)) => {
            if let Err(error) = hub.read_epoch().await {
                tracing::debug!(error = %error.chain(), "the new epoch could not be read");
            }
            hub.end_lost();
            true
        }
        Err(error) if error.code == Code::Conflict => {
            tracing::warn!(error = %error.chain(), "the report of lost history was refuted: this edge may read from a standby that is behind");
            // All of its rooms, not only those that were sent.
            hub.refuted(report);
            true
        }
        // The affected rooms are closed without waiting for a worker.
        Ok(SubmitResult::Accepted) | Err(_) => {
            hub.end_lost();
            false
        }
    }
}

fn add(reports: Option<Report>, newer: Report, hub: &Hub) -> Report {
    match reports {
        Some(older) => merge(older, newer, hub),
        None => newer,
    }
}

/// Merges reports whose rooms have ended: they are needed as evidence only, so that no more are kept than are sent.
fn merge(older: Report, newer: Report, hub: &Hub) -> Report {
    if older.epoch != newer.epoch {
        // The other one is of an epoch that has been replaced.
        return if hub.epoch() == Some(older.epoch) {
            older
        } else {
            newer
        };
    }
    let mut merged = newer;
    merged.delivered.extend(older.delivered);
    merged.delivered.truncate(MAX_REPORTED);
    merged
}
