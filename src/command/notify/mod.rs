//! Notifications, from a stored message to a provider's answer; every decision is stored in a row.
//!
//! A batch of messages enqueues one [`Task::Evaluate`], due after `notify.delay`. It finds the members whom the messages
//! concern and who have not read them. For each, the messages join the open delivery of the channel; each delivery is
//! one [`Task::Deliver`], due after `notify.digest_window`. The delivery's record is written before and after each
//! request to the provider. Tasks may be repeated or interrupted at any point: ids are derived, records change under a
//! version number, and unfinished attempts are detected.

mod command;
mod conclude;
mod deliver;
mod evaluate;
mod limiter;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use command::{NotifyCommand, run as run_command};

use crate::{
    bus::{Coordination, Presence},
    config::Config,
    error::{Error, Result},
    model::{MessageId, UserId, notify::ChannelKind},
    notify::Channels,
    queue::{DeadLetters, NewTask, TaskQueue, Tasks},
    store::notify::NotifyWrites,
};

/// Lifetime of an address verification code.
pub const CODE_TTL: Duration = Duration::from_secs(600);
/// Lifetime of a token that resets a password.
pub const RESET_TTL: Duration = Duration::from_secs(3600);
/// Reasons for cancelled notifications.
const GONE: &str = "the account was deleted";
const LEFT: &str = "no member of the room any more";
/// Page size when the deliveries of a deleted account are read.
const DELIVERY_PAGE: u32 = 200;
/// Maximum messages per [`Task::Evaluate`].
const EVALUATE_AT_ONCE: usize = 500;

/// The payload of a task queue.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Task {
    /// Evaluates which members have to be notified of these messages. `again` counts earlier evaluations.
    #[serde(rename = "look")]
    Evaluate {
        messages: Vec<MessageId>,
        #[serde(default)]
        again: u32,
    },
    Deliver {
        delivery: Uuid,
    },
    /// Delivers the code of a verification or the token of a password reset, which is stored nowhere else.
    Verify {
        delivery: Uuid,
        code: String,
    },
}

/// Omits codes: failed tasks are logged.
impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Task::Evaluate { messages, again } => {
                write!(f, "Evaluate({} messages, {again})", messages.len())
            }
            Task::Deliver { delivery } => write!(f, "Deliver({delivery})"),
            Task::Verify { delivery, .. } => write!(f, "Verify({delivery})"),
        }
    }
}

impl Task {
    fn task(&self, queue: TaskQueue, delay: Duration) -> Result<NewTask> {
        Ok(NewTask {
            queue,
            payload: serde_json::to_vec(self).map_err(Error::internal)?.into(),
            delay,
        })
    }
}

pub fn queue_of(channel: ChannelKind) -> TaskQueue {
    match channel {
        ChannelKind::Email => TaskQueue::Email,
        ChannelKind::Sms => TaskQueue::Sms,
    }
}

/// The result of a task.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Done,
    /// Repeat the task after this delay.
    Again(Duration),
}

/// The dependencies of notification tasks and commands.
pub struct Notifier {
    pub config: Arc<Config>,
    pub store: Arc<dyn NotifyWrites>,
    pub tasks: Arc<dyn Tasks>,
    pub coordination: Arc<dyn Coordination>,
    pub presence: Arc<dyn Presence>,
    pub dead: Arc<dyn DeadLetters>,
    channels: Channels,
    email: limiter::ProviderLimiter,
    sms: limiter::ProviderLimiter,
}

impl Notifier {
    /// # Errors
    /// If a channel's settings are invalid.
    pub fn new(
        config: Arc<Config>,
        store: Arc<dyn NotifyWrites>,
        tasks: Arc<dyn Tasks>,
        coordination: Arc<dyn Coordination>,
        presence: Arc<dyn Presence>,
        dead: Arc<dyn DeadLetters>,
    ) -> Result<Notifier> {
        let notify = &config.notify;
        let limiter =
            |channel, per_second| limiter::ProviderLimiter::new(channel, per_second, notify);
        Ok(Notifier {
            channels: crate::notify::connect(&config)?,
            email: limiter(ChannelKind::Email, notify.email.per_second),
            sms: limiter(ChannelKind::Sms, notify.sms.per_second),
            config,
            store,
            tasks,
            coordination,
            presence,
            dead,
        })
    }

    fn limiter(&self, channel: ChannelKind) -> &limiter::ProviderLimiter {
        match channel {
            ChannelKind::Email => &self.email,
            ChannelKind::Sms => &self.sms,
        }
    }

    /// Enqueues the notification tasks of the stored messages. Durable when it returns `Ok`.
    pub async fn stored(&self, messages: &[MessageId]) -> Result<()> {
        let delay = self.config.notify.delay;
        let tasks = messages.chunks(EVALUATE_AT_ONCE).map(|messages| {
            let task = Task::Evaluate {
                messages: messages.to_vec(),
                again: 0,
            };
            task.task(TaskQueue::Notify, delay)
        });
        self.tasks.push(tasks.collect::<Result<_>>()?).await
    }

    /// Runs a task. Only a retryable error justifies running the same task again.
    pub async fn run(&self, payload: &[u8]) -> Result<Next> {
        let task: Task = serde_json::from_slice(payload).map_err(Error::internal)?;
        match task {
            Task::Evaluate { messages, again } => evaluate::run(self, &messages, again).await,
            Task::Deliver { delivery } => deliver::run(self, delivery, None).await,
            Task::Verify { delivery, code } => deliver::run(self, delivery, Some(&code)).await,
        }
    }

    /// After an account deletion: cancels the account's pending deliveries and removes its addresses from sent ones. A
    /// delivery that is being attempted ends at its next step.
    pub async fn erase_user(&self, user: UserId) -> Result<()> {
        let mut after = None;
        loop {
            let some = self.store.deliveries_to(user, after, DELIVERY_PAGE);
            let some = some.await?;
            let Some(last) = some.last() else {
                return Ok(());
            };
            after = Some(last.id);
            for delivery in some {
                deliver::erase(self, delivery).await?;
            }
        }
    }

    /// Enqueues the same payload again.
    pub async fn again(&self, queue: TaskQueue, payload: Bytes, delay: Duration) -> Result<()> {
        let task = NewTask {
            queue,
            payload,
            delay,
        };
        self.tasks.push(vec![task]).await
    }

    async fn push(&self, task: &Task, queue: TaskQueue, delay: Duration) -> Result<()> {
        self.tasks.push(vec![task.task(queue, delay)?]).await
    }

    /// The public base URL, without a trailing slash.
    fn public_url(&self) -> String {
        let edge = &self.config.edge;
        edge.public_url
            .clone()
            .unwrap_or_else(|| format!("http://{}:{}", edge.host, edge.port))
    }
}
