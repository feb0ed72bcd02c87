//! Notifications: from a stored message to a provider's answer, with a row for every decision on the way.
//!
//! A batch of messages leaves one [`Task::Look`] behind, due after `notify.delay`. It asks, for all of them at once,
//! whom they concern and who has not read them; each of those joins the open delivery of their channel, and each
//! delivery is one [`Task::Deliver`], due after `notify.digest_window`. What it does to the delivery is put down
//! before and after the provider is asked. Tasks may come twice, or be broken off anywhere: ids are derived, records
//! change under a version, and an attempt that nobody finished is seen.

mod command;
mod deliver;
mod gate;
mod look;

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

/// How long a code that proves an address is good.
pub const CODE_TTL: Duration = Duration::from_secs(600);
/// Why somebody is not told.
const GONE: &str = "the account was deleted";
const LEFT: &str = "no member of the room any more";
/// Deliveries of a deleted account that are read at once.
const FORGET_AT_ONCE: u32 = 200;
/// Messages in one [`Task::Look`].
const LOOK_AT_ONCE: usize = 500;

/// What waits in the queues for jobs.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Task {
    /// Were these read? Who has to be told? `again` counts the looks before.
    Look {
        messages: Vec<MessageId>,
        #[serde(default)]
        again: u32,
    },
    Deliver {
        delivery: Uuid,
    },
    /// Delivers a code, which stands nowhere but here.
    Verify {
        delivery: Uuid,
        code: String,
    },
}

/// Without codes: a task is logged when it fails.
impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Task::Look { messages, again } => {
                write!(f, "Look({} messages, {again})", messages.len())
            }
            Task::Deliver { delivery } => write!(f, "Deliver({delivery})"),
            Task::Verify { delivery, .. } => write!(f, "Verify({delivery})"),
        }
    }
}

impl Task {
    fn job(&self, queue: TaskQueue, delay: Duration) -> Result<NewTask> {
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

/// What became of a task.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Done,
    /// The same task once more, after this.
    Again(Duration),
}

/// Everything that tasks and commands work with.
pub struct Notifier {
    pub config: Arc<Config>,
    pub store: Arc<dyn NotifyWrites>,
    pub tasks: Arc<dyn Tasks>,
    pub coordination: Arc<dyn Coordination>,
    pub presence: Arc<dyn Presence>,
    pub dead: Arc<dyn DeadLetters>,
    channels: Channels,
    email: gate::Gate,
    sms: gate::Gate,
}

impl Notifier {
    /// # Errors
    /// Where a channel's settings cannot be used.
    pub fn new(
        config: Arc<Config>,
        store: Arc<dyn NotifyWrites>,
        tasks: Arc<dyn Tasks>,
        coordination: Arc<dyn Coordination>,
        presence: Arc<dyn Presence>,
        dead: Arc<dyn DeadLetters>,
    ) -> Result<Notifier> {
        let notify = &config.notify;
        let gate = |channel, per_second| gate::Gate::new(channel, per_second, notify);
        Ok(Notifier {
            channels: crate::notify::connect(&config)?,
            email: gate(ChannelKind::Email, notify.email.per_second),
            sms: gate(ChannelKind::Sms, notify.sms.per_second),
            config,
            store,
            tasks,
            coordination,
            presence,
            dead,
        })
    }

    fn gate(&self, channel: ChannelKind) -> &gate::Gate {
        match channel {
            ChannelKind::Email => &self.email,
            ChannelKind::Sms => &self.sms,
        }
    }

    /// Leaves word that these messages were stored. Durable when it returns `Ok`.
    pub async fn stored(&self, messages: &[MessageId]) -> Result<()> {
        let delay = self.config.notify.delay;
        let jobs = messages.chunks(LOOK_AT_ONCE).map(|messages| {
            let task = Task::Look {
                messages: messages.to_vec(),
                again: 0,
            };
            task.job(TaskQueue::Notify, delay)
        });
        self.tasks.push(jobs.collect::<Result<_>>()?).await
    }

    /// Does what a job's payload says. A retryable error, and nothing else, is worth the same task again.
    pub async fn run(&self, payload: &[u8]) -> Result<Next> {
        let task: Task = serde_json::from_slice(payload).map_err(Error::internal)?;
        match task {
            Task::Look { messages, again } => look::run(self, &messages, again).await,
            Task::Deliver { delivery } => deliver::run(self, delivery, None).await,
            Task::Verify { delivery, code } => deliver::run(self, delivery, Some(&code)).await,
        }
    }

    /// The account was deleted: what still waits for it ends, and the addresses go from what was sent. What is being
    /// sent at this moment ends at its next step.
    pub async fn forget(&self, user: UserId) -> Result<()> {
        let mut after = None;
        loop {
            let some = self.store.deliveries_to(user, after, FORGET_AT_ONCE);
            let some = some.await?;
            let Some(last) = some.last() else {
                return Ok(());
            };
            after = Some(last.id);
            for delivery in some {
                deliver::forget(self, delivery).await?;
            }
        }
    }

    /// The same payload once more.
    pub async fn again(&self, queue: TaskQueue, payload: Bytes, delay: Duration) -> Result<()> {
        let job = NewTask {
            queue,
            payload,
            delay,
        };
        self.tasks.push(vec![job]).await
    }

    async fn push(&self, task: &Task, queue: TaskQueue, delay: Duration) -> Result<()> {
        self.tasks.push(vec![task.job(queue, delay)?]).await
    }

    /// Where people reach us, without a slash at its end.
    fn public_url(&self) -> String {
        let edge = &self.config.edge;
        edge.public_url
            .clone()
            .unwrap_or_else(|| format!("http://{}:{}", edge.host, edge.port))
    }
}
