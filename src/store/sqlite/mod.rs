//! The store of a standalone node. It shares the file's single writer with the queue, so a batch holds every lock
//! there is. A list travels into a statement as one JSON text, which keeps statements fixed (and prepared) whatever
//! its length; `jsonb_each` (SQLite 3.51, bundled) takes it apart as fast as bound values would arrive. It decides
//! nothing; see [`crate::store`].

mod accounts;
mod expire;
mod notify;
mod reads;
mod rows;
mod transaction;

use std::sync::Arc;

use crate::{error::Result, sqlite::Database};

/// Clones share the same connections.
#[derive(Debug, Clone)]
pub struct Store {
    database: Database,
    /// Notifications stand in the writer's line one at a time: a message waits for one of them, and not for all.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Store {
    pub fn new(database: Database) -> Self {
        Store {
            database,
            turn: Arc::default(),
        }
    }
}

/// `items` as a JSON array, for `jsonb_each`.
fn json<T: serde::Serialize>(items: impl Iterator<Item = T>) -> Result<String> {
    use serde::ser::{SerializeSeq, Serializer};
    let mut text = Vec::with_capacity(4096);
    let mut serializer = serde_json::Serializer::new(&mut text);
    let written = (|| {
        let mut list = serializer.serialize_seq(None)?;
        for item in items {
            list.serialize_element(&item)?;
        }
        list.end()
    })();
    written.map_err(crate::error::Error::internal)?;
    String::from_utf8(text).map_err(crate::error::Error::internal)
}
