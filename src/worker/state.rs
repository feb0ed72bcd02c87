//! The state that all parts of one worker share.

use std::sync::Arc;

use super::membership_cache::MembershipCache;
use crate::{
    bus::{Coordination, PubSub},
    command::notify::Notifier,
    config::Config,
    queue::{DeadLetters, Queue},
    store::Writes,
};

pub struct Worker {
    pub config: Arc<Config>,
    pub queue: Arc<dyn Queue>,
    pub dead: Arc<dyn DeadLetters>,
    pub store: Arc<dyn Writes>,
    pub pubsub: Arc<dyn PubSub>,
    pub coordination: Arc<dyn Coordination>,
    pub notifier: Notifier,
    pub memberships: MembershipCache,
}
