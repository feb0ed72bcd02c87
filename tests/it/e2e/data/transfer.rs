//! `chat migrate --from-standalone`: every row of every table arrives, clients resume on the cluster, and what was
//! accepted before is stored.

use std::path::Path;

use chat::{
    sqlite::Database as Sqlite,
    transfer::{self, NOT_COPIED, Table},
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row as _, SqliteConnection};
use uuid::Uuid;

use super::{names, numbered, say_all};
use crate::guide;
use crate::harness::{
    Chat, Kind,
    deployment::{Database, Nowhere},
    eventually,
    process::Ended,
};

/// The row of this table is made by its migration, and there is one.
const ONE_ROW: &str = "store_epoch";
const ROWS: usize = 3;

#[track_caller]
fn refused(ended: &Ended, why: &str) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(why), "{why}: {ended:?}");
}

/// Fills every table of the schema with rows of every type, without knowing the tables: a table or column that is added
/// to one database only, or has a type that cannot be copied, fails here.
#[tokio::test]
async fn every_row_of_every_table_is_copied() {
    let (nowhere, database) = (Nowhere::new(), Database::create().await);
    let data = nowhere.dir().join("data");
    std::fs::create_dir(&data).expect("a directory");
    let file = data.join("chat.db");
    Sqlite::open(&file).await.expect("a database").close().await;
    let env = [("DATABASE_URL", database.url.as_str())];
    let migrated = nowhere.program(&["migrate"], &env).run().await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");

    let mut source = SqliteConnection::connect(&format!("sqlite://{}", file.display()))
        .await
        .expect("the file");
    let mut target = PgConnection::connect(&database.url)
        .await
        .expect("the database");
    let tables = transfer::plan(&mut source, &mut target)
        .await
        .expect("a plan");
    assert!(tables.len() > 15, "{tables:?}");
    let mut expected = Vec::new();
    for table in &tables {
        if table.name != ONE_ROW {
            fill(&mut source, table).await;
        }
        let rows = texts_of_sqlite(&mut source, table).await;
        assert!(!rows.is_empty(), "{}", table.name);
        expected.push(rows);
    }
    for (add, remove) in [
        ("CREATE TABLE added (id BLOB)", "DROP TABLE added"),
        (
            "ALTER TABLE users ADD COLUMN added TEXT",
            "ALTER TABLE users DROP COLUMN added",
        ),
    ] {
        source.execute(add).await.expect("SQL");
        let refused = transfer::plan(&mut source, &mut target).await;
        let why = refused.expect_err("not in PostgreSQL").for_operator();
        assert!(why.contains("added"), "{why}");
        source.execute(remove).await.expect("SQL");
    }
    // Other reasons than these are written down first.
    let skipped: Vec<&str> = NOT_COPIED.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        skipped,
        ["_sqlx_migrations", "queue", "jobs", "dead_letters"]
    );
    source.close().await.expect("closed");

    let arguments = ["migrate", "--from-standalone", "data", "--json"];
    let moved = nowhere.program(&arguments, &env).run().await;
    assert_eq!(moved.code, Some(0), "{moved:?}");
    let moved: Value = serde_json::from_str(&moved.stdout).expect("JSON");
    assert_eq!(moved["tables"].as_array().map(Vec::len), Some(tables.len()));
    for (table, expected) in tables.iter().zip(expected) {
        let found = texts_of_postgres(&mut target, table).await;
        assert_eq!(found, expected, "{}", table.name);
    }

    let again = nowhere.program(&arguments, &env).run().await;
    refused(&again, "already");
    let missing = ["migrate", "--from-standalone", "nothing"];
    refused(&nowhere.program(&missing, &env).run().await, "nothing");
}

/// A value for each of a table's columns, by its type.
async fn fill(source: &mut SqliteConnection, table: &Table) {
    let info = "SELECT name, type, \"notnull\" FROM pragma_table_info(?)";
    let info = sqlx::query(info)
        .bind(&table.name)
        .fetch_all(&mut *source)
        .await
        .expect("SQL");
    let types: Vec<String> = table
        .columns
        .iter()
        .map(|column| format!("{:?}", column.kind))
        .collect();
    for row in 0..ROWS {
        let values: Vec<String> = table
            .columns
            .iter()
            .zip(&types)
            .map(|(column, kind)| {
                let found = info
                    .iter()
                    .find(|info| info.get::<String, _>("name") == column.name);
                let is_nullable = found.expect("the column").get::<i64, _>("notnull") == 0;
                if is_nullable && row == ROWS - 1 {
                    return "NULL".to_owned();
                }
                let id = Uuid::new_v4();
                match kind.as_str() {
                    "Id" => format!("x'{}'", id.simple()),
                    "Ids" => format!("'[\"{id}\", \"{}\"]'", Uuid::new_v4()),
                    "Number" => format!("{}", 1_000_000_007 * (row as i64 + 1)),
                    "Flag" => format!("{}", row % 2),
                    // As jsonb prints it, with characters that COPY escapes.
                    "Text" => {
                        format!(r#"'["{id}", "back\\slash", "tab\tnewline\n", "ü 😀 {row}"]'"#)
                    }
                    "Time" => format!("{}", 1_764_436_393_123 + row),
                    "Bytes" => format!("x'00ff0a5c{}'", id.simple()),
                    other => panic!("no value for {other}"),
                }
            })
            .collect();
        let names: Vec<&str> = table
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        let insert = format!(
            "INSERT INTO {} ({}) VALUES ({})",
            table.name,
            names.join(", "),
            values.join(", ")
        );
        source.execute(AssertSqlSafe(insert)).await.expect("a row");
    }
}

/// All rows as texts, sorted. `of` is the text of a column of a type.
fn select(table: &Table, of: impl Fn(&str, &str) -> String) -> AssertSqlSafe<String> {
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            let text = of(&column.name, &format!("{:?}", column.kind));
            format!("coalesce({text}, 'null')")
        })
        .collect();
    let row = columns.join(" || ' | ' || ");
    AssertSqlSafe(format!("SELECT {row} FROM {}", table.name))
}

async fn texts_of_sqlite(source: &mut SqliteConnection, table: &Table) -> Vec<String> {
    let select = select(table, |name, kind| match kind {
        // `hex(NULL)` is an empty text.
        "Id" | "Bytes" => format!("lower(nullif(hex({name}), ''))"),
        "Ids" => format!(
            "replace(replace(replace(replace({name}, '[', ''), ']', ''), '\"', ''), ' ', '')"
        ),
        _ => format!("CAST({name} AS TEXT)"),
    });
    let rows = sqlx::query_scalar(select).fetch_all(source).await;
    sorted(rows.expect("SQL"))
}

async fn texts_of_postgres(target: &mut PgConnection, table: &Table) -> Vec<String> {
    let select = select(table, |name, kind| match kind {
        "Id" => format!("replace({name}::text, '-', '')"),
        "Bytes" => format!("encode({name}, 'hex')"),
        "Ids" => format!("array_to_string({name}, ',')"),
        "Flag" => format!("{name}::int::text"),
        "Time" => format!("(extract(epoch FROM {name}) * 1000)::bigint::text"),
        _ => format!("{name}::text"),
    });
    let rows = sqlx::query_scalar(select).fetch_all(target).await;
    sorted(rows.expect("SQL"))
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

#[tokio::test]
async fn clients_of_a_standalone_server_continue_on_a_cluster() {
    let mut old = Chat::plan(Kind::Standalone)
        .set("auth.secret", "")
        .start()
        .await;
    let (ada, bob) = (old.register("ada").await, old.register("bob").await);
    let room = old.room(&ada, "private", &[&bob]).await;
    let socket = old.connect(0, &ada).await;
    let joined = socket.join(room, None).await.expect("joined");
    let stored = numbered("stored", 100);
    say_all(&socket, room, &stored).await;
    eventually("all are stored", async || {
        (names(&old, &ada, room).await.len() == 100).then_some(())
    })
    .await;
    let page = old
        .rest_as(0, &ada)
        .get(&format!("/v1/rooms/{room}/messages?limit=1"))
        .await
        .ok(200);
    let message = page["items"][0]["id"].as_str().expect("an id").to_owned();
    let reaction = format!("/v1/rooms/{room}/messages/{message}/reactions/%F0%9F%91%8D");
    let reacted = old.rest_as(0, &bob).put(&reaction, json!({})).await;
    assert!(reacted.status < 300, "{reacted:?}");
    let changes = format!("/v1/rooms/{room}/changes?limit=200");

    let secret = std::fs::read_to_string(old.dir().join("data/secret")).expect("the secret");
    let mut new = Chat::plan(Kind::Cluster)
        .edges(1)
        .workers(1)
        .set("auth.secret", secret.trim())
        .start()
        .await;
    let data = old.dir().join("data");
    let shown = data.to_string_lossy().into_owned();
    let arguments = ["migrate", "--from-standalone", &shown, "--json"];
    refused(
        &new.program("migrate", &arguments).run().await,
        "another chat process",
    );

    // It accepts commands without storing them, as if it had been killed at once.
    stop(&mut old).await;
    old.edges[0]
        .restart_set("CHAT__WORKER__JOBS", "maintenance")
        .await;
    let socket = old.connect(0, &ada).await;
    socket.join(room, None).await.expect("joined");
    let queued = numbered("queued", 50);
    say_all(&socket, room, &queued).await;
    stop(&mut old).await;
    add_task(&data).await;

    for process in new.edges.iter_mut().chain(&mut new.workers) {
        process.sigterm();
        process.ended().await;
    }
    let moved = new.program("migrate", &arguments).run().await;
    assert_eq!(moved.code, Some(0), "{moved:?}");
    let moved: Value = serde_json::from_str(&moved.stdout).expect("JSON");
    assert_eq!(
        (&moved["commands"], &moved["tasks"]),
        (&json!(50), &json!(1)),
        "{moved}"
    );
    assert_eq!(moved["secret"], "same");
    let depths = new
        .program("queue", &["queue", "list", "--json"])
        .run()
        .await;
    let depths: Value = serde_json::from_str(&depths.stdout).expect("JSON");
    let tasks = depths.as_array().expect("a list").iter().find(|depth| {
        depth["queue"]
            .as_str()
            .is_some_and(|name| name.ends_with(".job.notify"))
    });
    assert_eq!(
        tasks.unwrap_or_else(|| panic!("{depths}"))["ready"],
        1,
        "{depths}"
    );
    new.workers[0].restart().await;
    new.edges[0].restart().await;

    // The tokens are those of before.
    let all: Vec<String> = stored.iter().chain(&queued).cloned().collect();
    assert_eq!(names(&new, &bob, room).await, all);
    let feed = new.rest_as(0, &bob).get(&changes).await.ok(200);
    assert!(feed.to_string().contains("\u{1F44D}"), "{feed}");
    let mut socket = new.connect(0, &ada).await;
    let head = joined["seq"].as_i64().expect("a number");
    // 100 messages and the reaction.
    let resume = json!({"room": room, "afterSeq": head + 101, "epoch": joined["epoch"]});
    let resumed = socket.call("joinRoom", resume).await.expect("joined");
    assert!(socket.events("reset").is_empty());
    assert_eq!(resumed["epoch"], joined["epoch"]);
    assert_eq!(
        resumed["messages"].as_array().map(Vec::len),
        Some(50),
        "{resumed}"
    );
    socket.say(room, "new", "hello").await;
    assert_eq!(socket.event("newMessage").await["seq"], head + 152);
    let login = json!({"username": "bob", "password": bob.password});
    new.rest(0).post("/v1/auth/login", login).await.ok(200);
}

async fn stop(chat: &mut Chat) {
    chat.edges[0].sigterm();
    assert_eq!(chat.edges[0].ended().await, Some(0));
}

/// A task of a notification, as a worker leaves it. Its content does not matter: none takes it.
async fn add_task(data: &Path) {
    let database = Sqlite::open(&data.join("chat.db"))
        .await
        .expect("the database");
    let mut transaction = database.write().await.expect("a transaction");
    transaction
        .execute("INSERT INTO jobs (queue, due, payload) VALUES ('notify', 0, x'7b7d')")
        .await
        .expect("SQL");
    transaction.commit().await.expect("committed");
    database.close().await;
}

/// A trigger would run while the rest of the queue is stored, and before the rows are copied.
#[tokio::test]
async fn a_schema_that_chat_did_not_make_is_refused() {
    let (nowhere, database) = (Nowhere::new(), Database::create().await);
    let data = nowhere.dir().join("data");
    std::fs::create_dir(&data).expect("a directory");
    let file = data.join("chat.db");
    Sqlite::open(&file).await.expect("a database").close().await;
    let mut source = SqliteConnection::connect(&format!("sqlite://{}", file.display()))
        .await
        .expect("the file");
    let trigger = "CREATE TRIGGER users AFTER INSERT ON users BEGIN DELETE FROM users; END";
    source.execute(trigger).await.expect("SQL");
    source.close().await.expect("closed");
    let env = [("DATABASE_URL", database.url.as_str())];
    let args = ["migrate", "--from-standalone", "data"];
    let ended = nowhere.program(&args, &env).run().await;
    refused(&ended, "trigger users");
}

#[tokio::test]
async fn dead_letters_are_not_left_behind() {
    let (nowhere, target) = (Nowhere::new(), Database::create().await);
    let data = nowhere.dir().join("data");
    std::fs::create_dir(&data).expect("a directory");
    let database = Sqlite::open(&data.join("chat.db"))
        .await
        .expect("a database");
    let mut transaction = database.write().await.expect("a transaction");
    transaction
        .execute("INSERT INTO dead_letters (id, at, reason, partition, payload) VALUES (x'01', 0, 'a test', 0, x'00')")
        .await
        .expect("SQL");
    transaction.commit().await.expect("committed");
    database.close().await;
    let env = [("DATABASE_URL", target.url.as_str())];
    let arguments = ["migrate", "--from-standalone", "data"];
    refused(&nowhere.program(&arguments, &env).run().await, "dead list");
    let purge = ["queue", "--data", "data", "dead", "purge", "--all"];
    let purged = nowhere.program(&purge, &env).run().await;
    assert_eq!(purged.code, Some(0), "{purged:?}");
    let moved = guide::run("from-standalone", nowhere.dir(), &env, &[]).await;
    assert_eq!(moved.code, Some(0), "{moved:?}");
    assert!(moved.stdout.contains("messages"), "{moved:?}");
}
