//! A fresh store, and short ways to fill it.

use std::{
    collections::{BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use crate::support::soon;
use chat::{
    error::Result,
    model::*,
    sqlite::Database,
    store::{self, postgres::PreparedStatements, *},
};
use futures_util::FutureExt;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, postgres::PgConnectOptions};

/// Any fixed moment does: stores must not order anything by the clock.
pub fn t0() -> Timestamp {
    at(1_700_000_000_123)
}

pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

#[derive(Clone)]
pub struct Fixture {
    pub reads: Arc<dyn Reads>,
    pub writes: Arc<dyn Writes>,
    pub notify: Arc<dyn store::notify::NotifyWrites>,
    pub raw: Raw,
}

/// The database itself, for rows that the port does not write.
#[derive(Clone)]
pub enum Raw {
    Postgres(String),
    Sqlite(Database),
}

impl Raw {
    pub async fn execute(&self, sql: String) {
        let sql = AssertSqlSafe(sql);
        match self {
            Raw::Postgres(url) => {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                connection.execute(sql).await.unwrap();
                connection.close().await.unwrap();
            }
            Raw::Sqlite(database) => {
                let mut transaction = database.write().await.unwrap();
                transaction.execute(sql).await.unwrap();
                transaction.commit().await.unwrap();
            }
        }
    }
}

/// The record of a later version's migration.
pub const NEWER: &str = "INSERT INTO _sqlx_migrations \
     (version, description, success, checksum, execution_time) VALUES (9999, 'later', true, '', 1)";

/// A database on the server of `DATABASE_URL`.
pub struct Server {
    admin: PgConnectOptions,
    name: String,
    pub url: String,
}

impl Server {
    pub async fn new() -> Self {
        let url = std::env::var("DATABASE_URL").expect(
            "DATABASE_URL is not set, and the PostgreSQL half of the suite needs a server: \
             run `scripts/services up postgres` and `eval \"$(scripts/services env)\"`",
        );
        let admin: PgConnectOptions = url.parse().expect("DATABASE_URL is a PostgreSQL address");
        let name = format!("chat_test_{}", new_id().simple());
        let mut connection = admin.connect().await.expect("DATABASE_URL answers");
        connection
            .execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .await
            .expect("the user of DATABASE_URL may create databases");
        connection.close().await.unwrap();
        let url = admin.clone().database(&name).to_url_lossy().to_string();
        Server { admin, name, url }
    }

    pub async fn drop(self) {
        let mut connection = self.admin.connect().await.unwrap();
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // While autovacuum works in it, only a superuser may end its connection.
        let gone = async {
            while let Err(error) = connection.execute(AssertSqlSafe(sql.clone())).await {
                let code = error.as_database_error().and_then(|error| error.code());
                assert_eq!(code.as_deref(), Some("42501"), "{error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        soon("the database can be dropped", gone).await;
        connection.close().await.unwrap();
    }
}

/// Runs `test`, then cleans up whether it succeeded or not.
pub async fn on_postgres<F: Future<Output = ()>>(test: impl FnOnce(Fixture) -> F) {
    on_postgres_with(PreparedStatements::Auto, test).await;
}

pub async fn on_postgres_with<F: Future<Output = ()>>(
    prepared: PreparedStatements,
    test: impl FnOnce(Fixture) -> F,
) {
    let server = Server::new().await;
    let wait = Duration::from_secs(20);
    let store = store::postgres::Store::connect_with(&[&server.url], 4, wait, prepared).unwrap();
    store.migrate().await.unwrap();
    let fixture = Fixture {
        reads: Arc::new(store.clone()),
        writes: Arc::new(store.clone()),
        notify: Arc::new(store.clone()),
        raw: Raw::Postgres(server.url.clone()),
    };
    let outcome = AssertUnwindSafe(test(fixture)).catch_unwind().await;
    store.close().await;
    server.drop().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

pub async fn on_sqlite<F: Future<Output = ()>>(test: impl FnOnce(Fixture) -> F) {
    let directory = std::env::temp_dir().join(format!("chat_test_{}", new_id().simple()));
    std::fs::create_dir(&directory).unwrap();
    let database = Database::open(&directory.join("chat.db")).await.unwrap();
    let store = store::sqlite::Store::new(database.clone());
    let fixture = Fixture {
        reads: Arc::new(store.clone()),
        writes: Arc::new(store.clone()),
        notify: Arc::new(store),
        raw: Raw::Sqlite(database.clone()),
    };
    let outcome = AssertUnwindSafe(test(fixture)).catch_unwind().await;
    database.close().await;
    std::fs::remove_dir_all(&directory).unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

pub fn account(username: &str) -> NewAccount {
    NewAccount {
        account: Account {
            user: User {
                id: new_id(),
                username: username.to_owned(),
                display_name: format!("{username} the First"),
            },
            email: None,
            phone: None,
            created_at: t0(),
        },
        password_hash: "$argon2id$…".to_owned(),
    }
}

pub fn room(kind: RoomKind, owner: &User) -> Room {
    Room {
        id: new_id(),
        kind,
        name: "Tea".to_owned(),
        head: 0,
        created_by: owner.id,
        created_at: t0(),
        deleted: false,
    }
}

pub fn member(room: RoomId, user: &User, role: Role) -> Member {
    Member {
        room,
        user: user.clone(),
        role,
        joined_at: t0(),
        read_seq: 0,
        muted_until: None,
    }
}

pub fn message(room: RoomId, sender: &User, seq: Seq, body: &str) -> Message {
    let client_msg_id = format!("c{seq}");
    Message {
        id: message_id(room, sender.id, &client_msg_id),
        room,
        seq,
        change_seq: seq,
        sender: sender.clone(),
        body: body.to_owned(),
        client_msg_id,
        reply_to: None,
        mentions: Vec::new(),
        reactions: Vec::new(),
        metadata: None,
        created_at: at(t0().millis() + seq),
        edited_at: None,
        deleted_at: None,
    }
}

pub fn entry(room: RoomId, seq: Seq, kind: EventKind, message: Option<MessageId>) -> FeedEntry {
    FeedEntry {
        room,
        seq,
        kind,
        message,
        data: message.is_none().then(|| format!("{{\"n\":{seq}}}")),
        detail: None,
        at: t0(),
    }
}

/// Messages have no `PartialEq`; they are compared as they go over the wire.
pub fn wire(message: &Message) -> String {
    serde_json::to_string(message).unwrap()
}

pub fn wires(messages: &[Message]) -> Vec<String> {
    messages.iter().map(wire).collect()
}

impl Fixture {
    pub async fn user(&self, username: &str) -> User {
        let new = account(username);
        assert_eq!(self.writes.register(&new).await.unwrap(), Applied::Done);
        new.account.user
    }

    /// Stores a room as it is, with its owner.
    pub async fn put_room(&self, room: Room, owner: &User) -> RoomId {
        let id = room.id;
        let changes = Changes {
            members: vec![member(id, owner, Role::Owner)],
            rooms: vec![room],
            ..Changes::default()
        };
        self.commit([id], changes).await.unwrap();
        id
    }

    pub async fn public_room(&self, owner: &User) -> RoomId {
        self.put_room(room(RoomKind::Public, owner), owner).await
    }

    /// Locks `rooms` and writes `changes`.
    pub async fn commit(
        &self,
        rooms: impl IntoIterator<Item = RoomId>,
        changes: Changes,
    ) -> Result<()> {
        let (_, transaction) = self.writes.begin(&scope(rooms)).await?;
        transaction.commit(changes).await
    }

    /// New messages `seqs` of one room, its head moved to the last.
    pub async fn say(
        &self,
        room: RoomId,
        sender: &User,
        seqs: std::ops::RangeInclusive<Seq>,
    ) -> Vec<Message> {
        let new: Vec<Message> = seqs
            .clone()
            .map(|seq| message(room, sender, seq, &format!("message {seq}")))
            .collect();
        let changes = Changes {
            heads: HashMap::from([(room, *seqs.end())]),
            new_messages: new.clone(),
            ..Changes::default()
        };
        self.commit([room], changes).await.unwrap();
        new
    }

    /// The facts of this scope; the transaction is dropped.
    pub async fn facts(&self, scope: &Scope) -> Facts {
        self.writes.begin(scope).await.unwrap().0
    }
}

pub fn scope(rooms: impl IntoIterator<Item = RoomId>) -> Scope {
    Scope {
        rooms: BTreeSet::from_iter(rooms),
        ..Scope::default()
    }
}
