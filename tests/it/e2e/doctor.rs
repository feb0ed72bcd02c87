//! `chat doctor` against real servers and simulated providers.

use serde_json::{Value, json};

use crate::harness::{
    Chat, Kind,
    deployment::{Nowhere, SECRET},
    process::{Ended, Program},
    provider::{Asked, Does, Provider},
    server,
};

/// The findings of one check, from `chat doctor --json`.
fn findings<'a>(report: &'a Value, check: &str) -> Vec<&'a Value> {
    let all = report["findings"].as_array().expect("a list of findings");
    all.iter().filter(|found| found["check"] == check).collect()
}

#[track_caller]
fn status(report: &Value, check: &str) -> String {
    let found = findings(report, check);
    assert!(!found.is_empty(), "no {check} in {report}");
    let worst = ["problem", "warning", "ok"]
        .into_iter()
        .find(|status| found.iter().any(|one| one["status"] == *status));
    worst.expect("a known status").to_owned()
}

async fn report(program: &Program) -> (Ended, Value) {
    let ended = program.run().await;
    let report = serde_json::from_str(&ended.stdout).expect("JSON");
    (ended, report)
}

fn with(mut program: Program, settings: &[(&str, &str)]) -> Program {
    for (name, value) in settings {
        program.env.retain(|(known, _)| known != name);
        program.env.push(((*name).to_owned(), (*value).to_owned()));
    }
    program
}

#[tokio::test]
async fn a_healthy_cluster_has_no_problem() {
    let chat = Chat::plan(Kind::Cluster).edges(1).workers(1).start().await;
    let doctor = chat.program("doctor", &["doctor", "--json"]);
    let (ended, found) = report(&doctor).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    for check in [
        "PostgreSQL",
        "schema",
        "Redis",
        "RabbitMQ",
        "queues",
        "open files",
    ] {
        assert_ne!(status(&found, check), "problem", "{found}");
    }
    // The advice is there exactly where something is to be done.
    for finding in found["findings"].as_array().expect("a list") {
        assert_eq!(
            finding["status"] == "ok",
            finding.get("advice").is_none(),
            "{finding}"
        );
    }
    let text = chat.program("doctor", &["doctor"]).run().await;
    assert_eq!(text.code, Some(0), "{}", text.stdout);
    assert!(text.stdout.contains("accepts writes"), "{}", text.stdout);
    assert!(!text.stdout.contains(SECRET), "{}", text.stdout);
}

#[tokio::test]
async fn each_node_and_each_login_is_checked() {
    let chat = Chat::plan(Kind::Cluster).edges(0).workers(0).start().await;
    let doctor = chat.program("doctor", &["doctor", "--json"]);
    let amqp = server("AMQP_URL");
    let two = format!("{amqp},amqp://chat:hunter2@127.0.0.1:1/%2f");
    let wrong = format!(
        "http://guest:hunter2@{}",
        crate::harness::deployment::authority(&server("RABBITMQ_API_URL"))
    );
    let doctor = with(
        doctor,
        &[
            ("AMQP_URL", &two),
            ("RABBITMQ_API_URL", &format!("{wrong}/api")),
            ("REDIS_URL", "redis://127.0.0.1:1"),
            ("CHAT__AUTH__SECRET", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ],
    );
    let (ended, found) = report(&doctor).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert_eq!(found["status"], "problem");
    let nodes = findings(&found, "RabbitMQ");
    let statuses: Vec<_> = nodes.iter().map(|node| node["status"].clone()).collect();
    assert_eq!(statuses, ["ok", "problem"], "{found}");
    // No edge or worker was started, and the check created nothing.
    let queues = findings(&found, "queues");
    let text = queues[0]["text"].as_str().expect("a text");
    assert!(text.contains("there are none"), "{text}");
    let listed = chat.program("queue", &["queue", "list"]).run().await;
    assert_eq!(listed.code, Some(1), "{listed:?}");
    assert!(listed.stderr.contains("there are no queues"), "{listed:?}");
    assert_eq!(status(&found, "autoscale.api_url"), "problem");
    assert_eq!(status(&found, "Redis"), "problem");
    assert_eq!(status(&found, "auth.secret"), "warning");
    assert!(!ended.stdout.contains("hunter2"), "{}", ended.stdout);

    let other = [
        ("RABBITMQ_API_URL", &*server("RABBITMQ_API_URL")),
        ("DATABASE_URL", "postgres://chat:hunter2@127.0.0.1:1/chat"),
        ("CHAT__DATABASE__READ_URL", chat.database_url()),
    ];
    let (_, found) = report(&with(doctor, &other)).await;
    let text = findings(&found, "PostgreSQL")[0]["text"].to_string();
    assert!(text.contains("refused"), "{text}");
    let replica = findings(&found, "database.read_url")[0];
    assert_eq!(replica["status"], "warning", "{replica}");
    let text = replica["text"].to_string();
    assert!(text.contains("is no standby"), "{text}");
    assert_eq!(status(&found, "autoscale.api_url"), "ok", "{found}");
    assert_ne!(status(&found, "queue members"), "problem", "{found}");
}

#[tokio::test]
async fn providers_are_asked_whether_they_accept_the_keys() {
    let (mail, sms) = (Provider::start().await, Provider::start().await);
    let answers =
        |status: u16, body: &'static str| move |_: usize, _: &Asked| Does::Answer(status, "", body);
    mail.does(answers(
        200,
        "{\"scopes\":[\"mail.send\",\"templates.read\"]}",
    ));
    sms.does(answers(200, "{\"status\":\"active\"}"));
    let nowhere = Nowhere::new();
    let env = [
        ("CHAT__NOTIFY__EMAIL__PROVIDER", "sendgrid"),
        ("CHAT__NOTIFY__EMAIL__FROM", "Chat <chat@example.com>"),
        ("CHAT__NOTIFY__EMAIL__API_KEY", "SG.hunter2"),
        ("CHAT__NOTIFY__EMAIL__BASE_URL", &mail.url),
        ("CHAT__NOTIFY__SMS__PROVIDER", "twilio"),
        ("CHAT__NOTIFY__SMS__FROM", "+15550006789"),
        ("CHAT__NOTIFY__SMS__ACCOUNT_SID", "AC123"),
        ("CHAT__NOTIFY__SMS__AUTH_TOKEN", "hunter2"),
        ("CHAT__NOTIFY__SMS__BASE_URL", &sms.url),
    ];
    let doctor = nowhere.program(&["doctor", "--data", "data", "--json"], &env);
    let (ended, found) = report(&doctor).await;
    let statuses = |found: &Value| ["e-mail", "text messages"].map(|check| status(found, check));
    assert_eq!(statuses(&found), ["ok", "ok"], "{found}");
    assert_eq!(status(&found, "edge.public_url"), "warning", "{found}");
    let asked = mail.asked();
    assert_eq!(asked.len(), 1);
    assert!(!ended.stdout.contains("hunter2"), "{}", ended.stdout);

    mail.does(answers(200, "{\"scopes\":[\"templates.read\"]}"));
    sms.does(answers(200, "{\"status\":\"suspended\"}"));
    let (ended, found) = report(&doctor).await;
    assert_eq!(ended.code, Some(1));
    assert_eq!(statuses(&found), ["problem", "problem"], "{found}");

    mail.does(answers(401, "{}"));
    sms.does(answers(401, "{}"));
    let (_, found) = report(&doctor).await;
    assert_eq!(statuses(&found), ["problem", "problem"], "{found}");
    let advice = findings(&found, "e-mail")[0]["advice"].clone();
    assert!(
        advice.as_str().is_some_and(|text| text.contains("api_key")),
        "{advice}"
    );
}

#[tokio::test]
async fn messages_name_the_thing_and_the_way_out() {
    let nowhere = Nowhere::new();
    let secret = "PASSWORD=hunter2 and more";
    std::fs::write(
        nowhere.dir().join(".env"),
        format!("# a comment\nA=1\n\n{secret}\nB=2\n"),
    )
    .expect("a file");
    let ended = nowhere.program(&["config", "--check"], &[]).run().await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.stderr.contains("line 4 is not NAME=value"),
        "{ended:?}"
    );
    assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
    std::fs::remove_file(nowhere.dir().join(".env")).expect("it is there");

    let url = server("DATABASE_URL");
    let (servers, _) = url.rsplit_once('/').expect("a path");
    let missing = format!("{servers}/no_such_database");
    let env = [
        ("DATABASE_URL", missing.as_str()),
        ("CHAT__START__TIMEOUT", "100ms"),
    ];
    let ended = nowhere.program(&["migrate"], &env).run().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for text in ["no_such_database", "createdb"] {
        assert!(ended.stderr.contains(text), "no {text} in {ended:?}");
    }

    let chat = Chat::start(Kind::Standalone).await;
    let data = chat.dir().join("data").display().to_string();
    let listed = nowhere
        .program(&["queue", "--data", &data, "--json", "list"], &[])
        .run()
        .await;
    let depths: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let first = &depths.as_array().expect("a list")[0];
    assert_eq!(*first, json!({"queue": "p.0", "ready": 0, "consumers": 1}));
}
