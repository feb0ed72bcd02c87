//! Payloads that no worker can parse, among valid ones: they are dead-lettered with their reason, and the valid ones
//! are stored.

use chat::{command::partition_of, sqlite::Database};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Chat, Kind, both_ways, eventually, process::Ended, server};

both_ways!(unreadable_payloads_are_dead_lettered);

/// As in `Plan::start`.
const PARTITIONS: u16 = 4;
/// As in `config.toml`.
const STANDALONE_PARTITIONS: u16 = 8;

/// Writes raw payloads to the room's partition.
pub async fn publish(chat: &Chat, room: Uuid, payloads: &[&[u8]]) {
    if chat.kind == Kind::Standalone {
        // Inserted by a second process; the running server polls for such rows.
        let file = chat.dir().join("data/chat.db");
        let database = Database::open(&file).await.expect("the database");
        for payload in payloads {
            let mut transaction = database.write().await.expect("the writer");
            sqlx::query("INSERT INTO queue (partition, messages, payload) VALUES (?, 1, ?)")
                .bind(i64::from(partition_of(room, STANDALONE_PARTITIONS)))
                .bind(*payload)
                .execute(&mut *transaction)
                .await
                .expect("it is added");
            transaction.commit().await.expect("it is there");
        }
        database.close().await;
        return;
    }
    let broker = server("AMQP_URL");
    let connection = Connection::connect(&broker, ConnectionProperties::default())
        .await
        .expect("the broker");
    let channel = connection.create_channel().await.expect("a channel");
    let options = ConfirmSelectOptions::default();
    channel.confirm_select(options).await.expect("confirms");
    let queue = format!("{}.p.{}", chat.prefix(), partition_of(room, PARTITIONS));
    for payload in payloads {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let sent = channel.basic_publish(
            "".into(),
            queue.as_str().into(),
            options,
            payload,
            properties,
        );
        let confirmed = sent.await.expect("sent").await.expect("confirmed");
        assert!(confirmed.is_ack(), "{confirmed:?}");
    }
}

pub async fn run(chat: &Chat, args: &[&str]) -> String {
    let ended = ended(chat, args).await;
    assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
    ended.stdout
}

async fn ended(chat: &Chat, args: &[&str]) -> Ended {
    let data = chat.dir().join("data");
    let mut args = args.to_vec();
    if chat.kind == Kind::Standalone {
        args.splice(1..1, ["--data", data.to_str().expect("a path")]);
    }
    chat.program("queue", &args).run().await
}

pub async fn dead_letters(chat: &Chat) -> Vec<Value> {
    let listed = run(chat, &["queue", "--json", "dead", "list"]).await;
    serde_json::from_str(&listed).unwrap_or_else(|error| panic!("{error}: {listed}"))
}

pub async fn until_dead_letters(chat: &Chat, count: usize) -> Vec<Value> {
    eventually("the dead letters", || async {
        let letters = dead_letters(chat).await;
        (letters.len() >= count).then_some(letters)
    })
    .await
}

async fn unreadable_payloads_are_dead_lettered(kind: Kind) {
    let mut chat = Chat::start(kind).await;
    let ada = chat.register("ada").await;
    let room = chat.room(&ada, "public", &[]).await;
    let mut socket = chat.connect(0, &ada).await;
    socket.join(room, None).await.expect("joined");
    // All of them wait in one queue, valid and invalid ones alternating.
    for worker in &mut chat.workers {
        worker.kill9().await;
    }
    socket.say(room, "1", "one").await;
    publish(&chat, room, &[b"\xffpoison", br#"{"v":99,"new":true}"#]).await;
    socket.say(room, "2", "two").await;
    publish(&chat, room, &[b"{}\n{\"v\":98}"]).await;
    socket.say(room, "3", "three").await;
    for worker in &mut chat.workers {
        worker.restart().await;
    }
    for name in ["1", "2", "3"] {
        assert_eq!(socket.event("newMessage").await["clientMsgId"], name);
    }

    let dead = until_dead_letters(&chat, 4).await;
    let reasons: Vec<&str> = dead.iter().filter_map(|l| l["reason"].as_str()).collect();
    let newer = |version: u8| {
        reasons
            .iter()
            .any(|r| r.contains(&format!("version {version}")))
    };
    assert!(newer(99) && newer(98), "{reasons:?}");
    let unreadable = reasons.iter().filter(|r| r.contains("cannot be read"));
    assert_eq!(unreadable.count(), 2, "{reasons:?}");
    assert_eq!(dead.len(), 4, "{dead:#?}");
    let newest = dead
        .iter()
        .find(|l| l["payload"] == json!(r#"{"v":99,"new":true}"#));
    let id = newest.expect("it is there")["id"].as_str().expect("an id");
    let shown = run(&chat, &["queue", "dead", "show", id]).await;
    assert!(shown.contains("update the workers"), "{shown}");

    // The log has a line for each, with its id and reason.
    let processes = chat.workers.iter().chain(&chat.edges);
    let logs: String = processes.map(|process| process.log()).collect();
    for letter in &dead {
        let id = letter["id"].as_str().expect("an id");
        let line = logs.lines().find(|line| line.contains(id));
        let line = line.unwrap_or_else(|| panic!("no line for {id}"));
        assert!(line.contains("WARN") && line.contains("reason="), "{line}");
    }
    let unknown = Uuid::new_v4().to_string();
    for command in ["replay", "purge"] {
        let ended = ended(&chat, &["queue", "dead", command, &unknown]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(
            ended.stderr.contains("there is no such dead letter"),
            "{ended:?}"
        );
    }

    // A replayed payload still cannot be parsed and becomes a new dead letter.
    run(&chat, &["queue", "dead", "replay", id]).await;
    eventually("the replayed payload to be dead-lettered again", || async {
        let letters = dead_letters(&chat).await;
        let fresh = letters
            .iter()
            .any(|l| l["id"] != json!(id) && l["payload"] == json!(r#"{"v":99,"new":true}"#));
        (fresh && letters.len() == 4).then_some(())
    })
    .await;
    run(&chat, &["queue", "dead", "purge", "--all"]).await;
    assert!(dead_letters(&chat).await.is_empty());
    socket.say(room, "4", "four").await;
    let last = socket.event("newMessage").await;
    assert_eq!(
        (&last["clientMsgId"], &last["seq"]),
        (&json!("4"), &json!(5))
    );
}
