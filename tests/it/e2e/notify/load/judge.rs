//! Compares the requests that the provider received with the delivery log.

use std::collections::HashMap;

use serde_json::Value;

use crate::harness::provider::Asked;

/// A row of the delivery log.
pub struct Row {
    pub state: String,
    pub reason: String,
    pub delivery: String,
    pub attempts: Vec<Value>,
}

impl Row {
    pub fn read(row: &Value) -> Row {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        Row {
            state: text("state"),
            reason: text("reason"),
            delivery: text("delivery"),
            attempts: row["attempts"].as_array().cloned().unwrap_or_default(),
        }
    }

    pub fn is_final(&self) -> bool {
        ["sent", "dead"].contains(&self.state.as_str())
    }

    /// Attempts whose outcome is unknown according to the delivery log.
    fn unclear(&self) -> usize {
        let unclear = |attempt: &&Value| {
            let said = attempt["answer"].as_str().unwrap_or_default();
            ["no answer", "the connection", "the provider did not answer"]
                .iter()
                .any(|words| said.starts_with(words))
        };
        self.attempts.iter().filter(unclear).count()
    }
}

pub type Rows = HashMap<String, Row>;

pub struct Figures {
    pub deliveries: usize,
    pub dead: usize,
    pub twice: usize,
}

/// Asserts that the provider's requests and the delivery log agree.
pub fn judge(messages: &[String], rows: &Rows, asked: &[Asked]) -> Figures {
    let mut requests: HashMap<String, Vec<&Asked>> = HashMap::new();
    for asked in asked {
        requests
            .entry(asked.notification())
            .or_default()
            .push(asked);
    }
    let mut deliveries: HashMap<&str, (&Row, Vec<usize>)> = HashMap::new();
    for (i, message) in messages.iter().enumerate() {
        let row = &rows[message];
        let entry = deliveries.entry(&row.delivery);
        entry.or_insert((row, Vec::new())).1.push(i);
    }
    let (mut dead, mut twice) = (0, 0);
    for (id, (row, contents)) in &deliveries {
        let said = || format!("{id}: {}, {}, {:?}", row.state, row.reason, row.attempts);
        let came = requests.remove(*id).unwrap_or_default();
        // An attempt is recorded before its request is sent.
        assert!(
            came.len() <= row.attempts.len(),
            "{} requests: {}",
            came.len(),
            said()
        );
        let taken: Vec<_> = came.iter().filter(|asked| asked.taken()).collect();
        match row.state.as_str() {
            "sent" => {
                assert!(!taken.is_empty(), "was never accepted: {}", said());
                assert!(
                    taken.len() <= 1 + row.unclear(),
                    "accepted {} times: {}",
                    taken.len(),
                    said()
                );
            }
            _ => {
                dead += 1;
                assert!(
                    taken.len() <= row.unclear(),
                    "accepted {} times: {}",
                    taken.len(),
                    said()
                );
            }
        }
        twice += usize::from(taken.len() > 1);
        for asked in taken {
            let text = asked.text();
            let there: Vec<usize> = text
                .split("message-")
                .skip(1)
                .filter_map(|rest| rest.split('-').next()?.parse().ok())
                .collect();
            // A mail shows 20 messages and the number of the others.
            assert_eq!(there.len(), contents.len().min(20), "{}: {text}", said());
            assert!(
                there.iter().all(|i| contents.contains(i)),
                "{}: {text}",
                said()
            );
        }
    }
    let unknown: Vec<_> = requests.keys().collect();
    assert!(
        unknown.is_empty(),
        "requests missing in the delivery log: {unknown:?}"
    );
    Figures {
        deliveries: deliveries.len(),
        dead,
        twice,
    }
}
