//! The implementation of the port for tasks.

use async_trait::async_trait;

use super::queue::SqliteQueue;
use crate::{
    error::Result,
    queue::{NewTask, TaskConsumer, TaskQueue, Tasks},
};

#[async_trait]
impl Tasks for SqliteQueue {
    async fn push(&self, tasks: Vec<NewTask>) -> Result<()> {
        self.tasks.push(tasks).await
    }

    async fn take(&self, queue: TaskQueue, at_once: u16) -> Result<Box<dyn TaskConsumer>> {
        Ok(Box::new(self.tasks.consume(queue, at_once)))
    }
}
