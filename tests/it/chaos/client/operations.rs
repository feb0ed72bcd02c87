//! The operations of a client. The seed determines the kind, the room and the other choices of each operation; which
//! messages exist for it depends on the run.

use serde_json::{Value, json};

use super::{Client, State, WINDOW};
use crate::chaos::record::{Action, EMOJIS, Event, Outcome, subject};

#[derive(Clone, Copy)]
enum Kind {
    Send,
    Edit,
    Delete,
    React,
    Read,
}

const KINDS: [(Kind, usize); 5] = [
    (Kind::Send, 55),
    (Kind::Edit, 14),
    (Kind::Delete, 4),
    (Kind::React, 20),
    (Kind::Read, 7),
];

/// Errors that faults and memberships that end explain.
const EXPECTED: [&str; 5] = ["busy", "not_found", "forbidden", "conflict", "rate_limited"];

impl Client {
    /// The next operation to send: its number, event and data.
    pub(super) fn next_operation(&mut self) -> Option<(usize, &'static str, Value)> {
        if self.waiting.len() >= WINDOW {
            return None;
        }
        if let Some(again) = self.repeat() {
            return Some(again);
        }
        if self.shared.is_quiet() {
            return None;
        }
        // All numbers are drawn, so that the next operation does not depend on what is possible now.
        let kind = self.random.weighted(&KINDS);
        let room = self.random.below(self.rooms.len());
        let (pick, choice) = (self.random.below(1 << 16), self.random.below(1 << 16));
        let state = &mut self.rooms[room];
        if state.state != State::Live {
            return None;
        }
        let position = state.view.position;
        let id = self.shared.rooms[room].id;
        let picked = |from: usize| (from > 0).then(|| pick % from);
        let (action, event, data) = match kind {
            Kind::Send => {
                self.said += 1;
                let name = format!("c{}-{}", self.number, self.said);
                let body = format!("{name} {}", ".".repeat(pick % 300));
                let data = json!({"room": id, "body": body, "clientMsgId": name});
                (Action::Send { name, body }, "sendMessage", data)
            }
            Kind::Edit => {
                let message = state.own[picked(state.own.len())?];
                self.said += 1;
                let body = format!("c{}-{} edited", self.number, self.said);
                let data = json!({"room": id, "id": message, "body": body});
                (Action::Edit { message, body }, "editMessage", data)
            }
            Kind::Delete => {
                // Some messages stay to be edited.
                let message = state.own.remove(picked(state.own.len().saturating_sub(3))?);
                let data = json!({"room": id, "id": message});
                (Action::Delete { message }, "deleteMessage", data)
            }
            Kind::React => {
                let message = state.any[picked(state.any.len())?];
                let (emoji, on) = (choice % EMOJIS.len(), choice % 5 < 3);
                let data = json!({"room": id, "id": message, "emoji": EMOJIS[emoji], "on": on});
                (Action::React { message, emoji, on }, "react", data)
            }
            Kind::Read => {
                let seq = position;
                (
                    Action::Read { seq },
                    "markRead",
                    json!({"room": id, "seq": seq}),
                )
            }
        };
        let (shared, connection) = (&self.shared, self.connection);
        let op = shared.begin(self.number, room, action, connection, position);
        Some((op, event, data))
    }

    /// A send whose outcome is unknown, if its room is live again.
    fn repeat(&mut self) -> Option<(usize, &'static str, Value)> {
        let live = |room: usize| self.rooms[room].state == State::Live;
        let mut book = self.shared.book();
        let at = self.again.iter().position(|op| live(book.ops[*op].room))?;
        let number = self.again.remove(at)?;
        let op = &mut book.ops[number];
        let Action::Send { name, body } = &op.action else {
            return None;
        };
        let data =
            json!({"room": self.shared.rooms[op.room].id, "body": body, "clientMsgId": name});
        op.attempts += 1;
        Some((number, "sendMessage", data))
    }

    pub(super) fn operation_answered(&mut self, number: usize, answer: Result<Value, Value>) {
        let (room, action) = {
            let book = self.shared.book();
            (book.ops[number].room, book.ops[number].action.clone())
        };
        let is_send = matches!(action, Action::Send { .. });
        let outcome = match answer {
            Ok(data) if !is_send && data["status"] == "accepted" => Outcome::Accepted,
            Ok(data) => {
                let id = subject(Event::New, &data);
                if is_send {
                    let own = &mut self.rooms[room].own;
                    own.push(id);
                    // Old messages are left alone, so that the list stays short.
                    if own.len() > 30 {
                        own.remove(0);
                    }
                }
                Outcome::Done {
                    id: Some(id).filter(|id| !id.is_nil()),
                    change: data["changeSeq"].as_i64(),
                }
            }
            Err(error) => {
                self.check_refusal(&format!("{action:?}"), &error);
                match error["code"].as_str().unwrap_or_default() {
                    "busy" | "rate_limited" => {
                        if is_send {
                            self.again.push_back(number);
                        }
                        Outcome::Unknown
                    }
                    code => Outcome::Refused(code.to_owned()),
                }
            }
        };
        self.shared.answer(number, outcome);
    }

    pub(super) fn check_refusal(&self, request: &str, error: &Value) {
        let code = error["code"].as_str().unwrap_or_default();
        if code == "busy" {
            let busy = &self.shared.busy;
            busy.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if !EXPECTED.contains(&code) {
            let client = self.number;
            self.shared
                .surprise(format!("client {client}: {request} was answered {error}"));
        }
    }
}
