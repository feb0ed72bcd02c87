//! The observations of a run's sockets, and their way to the tally.
//!
//! The tally polls every few milliseconds: waking it for each frame would cost as much as reading the frame.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;

use super::plan::MessageNo;
use crate::{
    error::Error,
    judge::{Seq, SubscriptionNo},
};

/// In the order in which it happened.
pub(super) enum Observation {
    /// The message is about to be sent.
    Sent(MessageNo),
    Answered {
        message: MessageNo,
        /// Since the intended send.
        after: Duration,
        /// The error code of a refusal.
        refused: Option<String>,
    },
    Delivered {
        subscription: SubscriptionNo,
        seq: Seq,
        change_seq: Seq,
        message: MessageNo,
        after: Duration,
    },
    /// Any other durable event.
    Other {
        subscription: SubscriptionNo,
        change_seq: Seq,
    },
    /// A socket ended; the run fails.
    Ended(Error),
}

/// The receiving end.
pub(super) struct Observations(Arc<Mutex<Vec<Observation>>>);

/// The sending end.
#[derive(Clone)]
pub(super) struct Recorder(Weak<Mutex<Vec<Observation>>>);

impl Observations {
    pub fn new() -> (Observations, Recorder) {
        let recorded = Arc::new(Mutex::default());
        let recorder = Recorder(Arc::downgrade(&recorded));
        (Observations(recorded), recorder)
    }

    /// Everything recorded since the last call.
    pub fn take(&self) -> Vec<Observation> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Recorder {
    /// Records and empties `observed`. `false` once the receiving end is gone.
    pub fn record(&self, observed: &mut Vec<Observation>) -> bool {
        let Some(recorded) = self.0.upgrade() else {
            return false;
        };
        if !observed.is_empty() {
            recorded.lock().append(observed);
        }
        true
    }
}
