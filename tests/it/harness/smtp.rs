//! An independent SMTP server: `tests/node/smtp.mjs`. `scripts/test` installs its packages.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
};

use super::DEADLINE;

/// Stopped when dropped.
pub struct MailServer {
    pub port: u64,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl MailServer {
    pub async fn start() -> MailServer {
        let mut child = super::node::script("smtp.mjs", "smtp-server");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut server = MailServer {
            port: 0,
            stdin: child.stdin.take().expect("stdin is piped"),
            lines: BufReader::new(stdout).lines(),
            _child: child,
        };
        let port = server.next("port").await;
        server.port = port.as_u64().expect("a number");
        server
    }

    /// The next line of this kind; other lines are skipped.
    async fn next(&mut self, kind: &str) -> Value {
        let said = async {
            loop {
                let line = self.lines.next_line().await.expect("its output");
                let line = line.expect("the mail server is running");
                let mut line: Value = serde_json::from_str(&line).expect("JSON");
                if !line[kind].is_null() {
                    return line[kind].take();
                }
            }
        };
        tokio::time::timeout(DEADLINE, said)
            .await
            .unwrap_or_else(|_| panic!("the mail server says nothing of {kind}"))
    }

    /// The replies to the next RCPT commands with this address, 0 for none within 2.5 s; after those it is accepted.
    pub async fn answer(&mut self, address: &str, codes: &[u16]) {
        let line = format!("{}\n", json!({"address": address, "codes": codes}));
        let written = self.stdin.write_all(line.as_bytes()).await;
        written.expect("the mail server reads");
        self.next("told").await;
    }

    pub async fn mail(&mut self) -> Value {
        self.next("mail").await
    }
}
