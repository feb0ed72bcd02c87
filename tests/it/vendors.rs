//! Compares signature checks with the providers' own libraries: what they sign must be accepted, what they refuse must
//! be refused. `scripts/test` installs them.

use std::{collections::BTreeMap, path::Path, process::Command};

use chat::notify::webhook::{sendgrid_signed, twilio_signed};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(tag = "vendor", rename_all = "lowercase")]
enum Case {
    SendGrid {
        key: String,
        timestamp: String,
        body: String,
        signature: String,
        valid: bool,
    },
    Twilio {
        key: String,
        url: String,
        form: BTreeMap<String, String>,
        signature: String,
        valid: bool,
    },
}

#[test]
fn webhook_signatures_are_verified_like_the_providers_libraries() {
    let dir = Path::new(crate::support::ROOT).join("tests/node");
    assert!(
        dir.join("node_modules/twilio").is_dir(),
        "the providers' libraries are not installed: run the tests with scripts/test, or npm ci in tests/node"
    );
    let ended = Command::new("node")
        .arg("signatures.mjs")
        .current_dir(dir)
        .output()
        .expect("node can be started");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    // Valid and invalid signatures of both providers.
    let mut seen = [[0; 2]; 2];
    for line in said.lines() {
        let case: Case = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let (which, valid, ours) = match &case {
            Case::SendGrid {
                key,
                timestamp,
                body,
                signature,
                valid,
            } => {
                let now = timestamp.parse().expect("seconds");
                let ours = sendgrid_signed(key, signature, timestamp, body.as_bytes(), now);
                (0, *valid, ours)
            }
            Case::Twilio {
                key,
                url,
                form,
                signature,
                valid,
            } => (1, *valid, twilio_signed(key, signature, url, form)),
        };
        assert_eq!(ours, valid, "{case:?}");
        seen[which][usize::from(valid)] += 1;
    }
    assert!(seen.iter().flatten().all(|count| *count > 0), "{seen:?}");
}
