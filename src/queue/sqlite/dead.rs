//! Dead letters: a table beside the queue's.

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Row as _;
use uuid::Uuid;

use super::queue::SqliteQueue;
use crate::{
    error::Result,
    model::Timestamp,
    queue::{DeadLetter, DeadLetters, EncodedBatch, Partition, Publisher, Selection},
    sqlite::failure,
};

/// Letters read at once for a replay: their payloads are held in memory.
const PAGE: i64 = 100;

#[async_trait]
impl DeadLetters for SqliteQueue {
    async fn put(&self, letter: &DeadLetter, original: Bytes) -> Result<()> {
        let mut transaction = self.shared.database.write().await?;
        // The same letter may be put again when its command is redelivered.
        sqlx::query(
            "INSERT INTO dead_letters (id, at, reason, partition, payload) VALUES (?, ?, ?, ?, ?) \
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(letter.id)
        .bind(letter.at.millis())
        .bind(&letter.reason)
        .bind(i64::from(letter.partition))
        .bind(&original[..])
        .execute(&mut *transaction)
        .await
        .map_err(failure)?;
        transaction.commit().await.map_err(failure)
    }

    async fn list(&self, limit: u32) -> Result<Vec<DeadLetter>> {
        let rows = sqlx::query(
            "SELECT id, at, reason, partition, payload FROM dead_letters ORDER BY position LIMIT ?",
        )
        .bind(i64::from(limit))
        .fetch_all(self.shared.database.readers())
        .await
        .map_err(failure)?;
        let letters = rows.iter().map(|row| DeadLetter {
            id: row.get(0),
            at: Timestamp::from_millis(row.get(1)),
            reason: row.get(2),
            partition: partition(row.get(3)),
            payload: String::from_utf8_lossy(row.get(4)).into_owned(),
        });
        Ok(letters.collect())
    }

    async fn replay(&self, which: Selection) -> Result<u64> {
        let mut done = 0;
        let mut after = 0;
        loop {
            let letters = self.replayable(&which, after).await?;
            let Some(newest) = letters.last().map(|letter| letter.position) else {
                return Ok(done);
            };
            for letter in letters {
                let batch = EncodedBatch::again(letter.payload)?;
                self.publish(letter.partition, batch).await?;
                self.delete(&Selection::One(letter.id)).await?;
                done += 1;
            }
            after = newest;
        }
    }

    async fn purge(&self, which: Selection) -> Result<u64> {
        self.delete(&which).await
    }
}

struct Replayable {
    position: i64,
    id: Uuid,
    partition: Partition,
    payload: Bytes,
}

impl SqliteQueue {
    async fn replayable(&self, which: &Selection, after: i64) -> Result<Vec<Replayable>> {
        let rows = sqlx::query(
            "SELECT position, id, partition, payload FROM dead_letters \
             WHERE position > ? AND (? IS NULL OR id = ?) ORDER BY position LIMIT ?",
        )
        .bind(after)
        .bind(one(which))
        .bind(one(which))
        .bind(PAGE)
        .fetch_all(self.shared.database.readers())
        .await
        .map_err(failure)?;
        let letters = rows.iter().map(|row| Replayable {
            position: row.get(0),
            id: row.get(1),
            partition: partition(row.get(2)),
            payload: Bytes::from(row.get::<Vec<u8>, _>(3)),
        });
        Ok(letters.collect())
    }

    async fn delete(&self, which: &Selection) -> Result<u64> {
        let mut transaction = self.shared.database.write().await?;
        let done = sqlx::query("DELETE FROM dead_letters WHERE ? IS NULL OR id = ?")
            .bind(one(which))
            .bind(one(which))
            .execute(&mut *transaction)
            .await
            .map_err(failure)?;
        transaction.commit().await.map_err(failure)?;
        Ok(done.rows_affected())
    }
}

fn one(which: &Selection) -> Option<Uuid> {
    match which {
        Selection::All => None,
        Selection::One(id) => Some(*id),
    }
}

/// `put` stores only valid partitions.
fn partition(stored: i64) -> Partition {
    Partition::try_from(stored).unwrap_or(Partition::MAX)
}
