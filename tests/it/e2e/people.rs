//! Users and rooms that several tests need.

use chat::sqlite::Database;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::harness::{Chat, Kind, Rest, Socket, User, eventually};

/// Ada on the first edge and Bob on the second, both live in a public room of Ada's.
pub struct Pair {
    pub ada: User,
    pub bob: User,
    pub room: Uuid,
    pub adas: Socket,
    pub bobs: Socket,
}

pub async fn pair(chat: &Chat) -> Pair {
    let (ada, bob) = tokio::join!(chat.register("ada"), chat.register("bob"));
    let room = chat.room(&ada, "public", &[]).await;
    let (adas, bobs) = (chat.connect(0, &ada).await, chat.connect(1, &bob).await);
    adas.join(room, None).await.expect("the owner joins");
    bobs.join(room, None).await.expect("anyone joins");
    Pair {
        ada,
        bob,
        room,
        adas,
        bobs,
    }
}

/// Waits until the room's head over REST is `seq`.
pub async fn room_reaches(rest: &Rest, room: Uuid, seq: i64) {
    eventually("the room's head", || async {
        let room = rest.get(&format!("/v1/rooms/{room}")).await.ok(200);
        (room["seq"].as_i64() >= Some(seq)).then_some(())
    })
    .await;
}

pub fn seqs(items: &Value) -> Vec<i64> {
    let items = items.as_array().expect("a list");
    items
        .iter()
        .map(|item| item["seq"].as_i64().expect("a seq"))
        .collect()
}

/// Runs these statements in one transaction of the deployment's database, while its processes run.
pub async fn write_rows(chat: &Chat, statements: &[String]) {
    match chat.kind {
        Kind::Cluster => {
            let mut connection = PgConnection::connect(chat.database_url())
                .await
                .expect("the database");
            let mut transaction = connection.begin().await.expect("a transaction");
            for sql in statements {
                let sql = AssertSqlSafe(sql.clone());
                transaction.execute(sql).await.expect("SQL");
            }
            transaction.commit().await.expect("committed");
        }
        Kind::Standalone => {
            let file = chat.dir().join("data/chat.db");
            let database = Database::open(&file).await.expect("the database");
            let mut transaction = database.write().await.expect("a transaction");
            for sql in statements {
                let sql = AssertSqlSafe(sql.clone());
                transaction.execute(sql).await.expect("SQL");
            }
            transaction.commit().await.expect("committed");
            database.close().await;
        }
    }
}
