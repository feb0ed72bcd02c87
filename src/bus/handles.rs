//! All four ports of one implementation, for the place that connects parts.

use std::sync::Arc;

use super::{Coordination, Presence, PubSub, RecentEvents};

/// Handles to one bus. Each consumer is handed only the ports that it uses.
#[derive(Clone)]
pub struct Handles {
    pub pubsub: Arc<dyn PubSub>,
    pub recent: Arc<dyn RecentEvents>,
    pub coordination: Arc<dyn Coordination>,
    pub presence: Arc<dyn Presence>,
}

impl Handles {
    pub fn new<B>(bus: Arc<B>) -> Handles
    where
        B: PubSub + RecentEvents + Coordination + Presence + 'static,
    {
        Handles {
            pubsub: bus.clone(),
            recent: bus.clone(),
            coordination: bus.clone(),
            presence: bus,
        }
    }
}
