//! Checks requests against the providers' OpenAPI descriptions: Prism, as a validating proxy in front of the fake
//! provider, forwards only conforming requests. `CHAT_PROVIDERS` names a folder with `sendgrid_mail_v3.json` and
//! `twilio_messages_2010.json` as the providers publish them; the test is skipped if it is unset, and otherwise
//! `scripts/test` installs Prism.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
};

use super::{
    is, row, say,
    sms::{NUMBER, SID, by_text_message, prefer_text_messages},
    start, verify,
};
use crate::harness::{
    DEADLINE, Kind, eventually,
    provider::{Does, Provider},
};

struct Prism {
    url: String,
    _child: Child,
}

impl Prism {
    /// Starts Prism in front of `provider`; it is stopped when dropped.
    async fn start(description: &Path, provider: &Provider) -> Prism {
        let program = Path::new(crate::support::ROOT)
            .join("tests/node-prism/node_modules/@stoplight/prism-cli/dist/index.js");
        assert!(
            program.is_file(),
            "Prism is not installed: run the tests with scripts/test, or npm ci in tests/node-prism"
        );
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            free.local_addr().expect("its address").port()
        };
        let mut child = Command::new("node")
            .arg(program)
            .arg("proxy")
            .arg(description)
            .args([&provider.url, "--errors", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node can be started");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(stdout).lines();
        let listening = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("listening") {
                    return;
                }
            }
            panic!("Prism ended");
        };
        let listening = tokio::time::timeout(DEADLINE, listening).await;
        listening.expect("Prism listens");
        // Drain its output, so that it does not block.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Prism {
            url: format!("http://127.0.0.1:{port}"),
            _child: child,
        }
    }
}

fn descriptions() -> Option<PathBuf> {
    let folder = std::env::var_os("CHAT_PROVIDERS").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: CHAT_PROVIDERS does not name the providers' descriptions");
    }
    folder
}

#[tokio::test]
async fn mails_conform_to_sendgrids_openapi_description() {
    let Some(folder) = descriptions() else { return };
    let mail = Provider::start().await;
    let prism = Prism::start(&folder.join("sendgrid_mail_v3.json"), &mail).await;
    // Control: Prism rejects a request that the description does not allow.
    let wrong = reqwest::Client::new()
        .post(format!("{}/v3/mail/send", prism.url))
        .bearer_auth("SG.test")
        .json(&json!({"subject": "no sender, no recipient"}))
        .send();
    assert_eq!(wrong.await.expect("an answer").status(), 422);
    assert_eq!(mail.count(), 0);

    let change = [
        ("notify.email.base_url", prism.url.as_str()),
        ("notify.email.sandbox", "true"),
    ];
    let chat = start(Kind::Standalone, &mail, &change).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    verify(&chat, &bob, &mail, "email", "bob@example.com").await;
    let room = chat.room(&ada, "direct", &[&bob]).await;
    let message = say(&chat, &ada, room, "hello").await;
    let told = row(&chat, &ada, &message, is("sent")).await;
    assert_eq!(told["attempts"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(mail.count(), 1);
}

#[tokio::test]
async fn text_messages_conform_to_twilios_openapi_description() {
    let Some(folder) = descriptions() else { return };
    let (mail, sms) = (Provider::start().await, Provider::start().await);
    let prism = Prism::start(&folder.join("twilio_messages_2010.json"), &sms).await;
    let wrong = reqwest::Client::new()
        .post(format!(
            "{}/2010-04-01/Accounts/{SID}/Messages.json",
            prism.url
        ))
        .basic_auth(SID, Some("token"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("From=%2B15550006789&Body=nobody&ValidityPeriod=soon")
        .send();
    assert_eq!(wrong.await.expect("an answer").status(), 422);
    assert_eq!(sms.count(), 0);

    sms.does(|_, _| {
        Does::Answer(
            201,
            "Content-Type: application/json\r\n",
            r#"{"sid":"SM0123456789abcdef0123456789abcdef"}"#,
        )
    });
    let mut change = by_text_message(&sms).to_vec();
    change.push(("notify.sms.base_url", &prism.url));
    let chat = start(Kind::Standalone, &mail, &change).await;
    let (ada, bob) = (chat.register("ada").await, chat.register("bob").await);
    verify(&chat, &bob, &sms, "sms", NUMBER).await;
    prefer_text_messages(&chat, &bob).await;
    let room = chat.room(&ada, "direct", &[&bob]).await;
    let message = say(&chat, &ada, room, "hello").await;
    let told = row(&chat, &ada, &message, is("sent")).await;
    assert_eq!(told["attempts"].as_array().map(Vec::len), Some(1), "{told}");
    eventually("the message came", async || {
        (sms.count() == 1).then_some(())
    })
    .await;
}
