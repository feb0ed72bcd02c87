//! The server's protocol as far as the benchmarks speak it: bodies of REST requests, and requests over sockets.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

/// The two protocols of the server's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Ws,
    Socketio,
}

impl Transport {
    /// A request as the text of a frame. The server answers with the same `id`.
    pub(crate) fn request(self, id: u64, event: &str, data: &impl Serialize) -> String {
        match self {
            Transport::Ws => json!({"id": id, "event": event, "data": data}).to_string(),
            Transport::Socketio => format!("42{id}{}", json!([event, data])),
        }
    }

    /// How the text of a `newMessage` event begins.
    pub(crate) fn new_message_prefix(self) -> &'static [u8] {
        match self {
            Transport::Ws => b"{\"event\":\"newMessage\"",
            Transport::Socketio => b"42[\"newMessage\"",
        }
    }

    /// How the text of an answer to request `id` begins: a positive one, and any.
    pub(crate) fn answer_prefixes(self, id: u64) -> (String, String) {
        match self {
            Transport::Ws => (
                format!("{{\"ack\":{id},\"ok\":true"),
                format!("{{\"ack\":{id},"),
            ),
            Transport::Socketio => (format!("43{id}[{{\"ok\":true"), format!("43{id}[")),
        }
    }
}

/// `POST /v1/auth/register`.
#[derive(Serialize)]
pub(crate) struct Registration<'a> {
    pub username: &'a str,
    pub password: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Registered {
    pub access_token: String,
    pub user: Identified,
}

/// A resource of which only the id is of interest.
#[derive(Deserialize)]
pub(crate) struct Identified {
    pub id: Uuid,
}

/// `POST /v1/rooms`.
#[derive(Serialize)]
pub(crate) struct NewRoom<'a> {
    pub kind: &'a str,
    pub name: &'a str,
}

/// A request without arguments.
#[derive(Serialize)]
pub(crate) struct Empty {}

/// `POST /v1/rooms/{id}/messages`.
#[derive(Serialize)]
pub(crate) struct NewMessage<'a> {
    pub body: &'a str,
}

/// An answer other than 2xx (RFC 9457).
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Problem {
    pub retry_after_ms: Option<u64>,
}

/// The first packet of a Socket.IO connection.
#[derive(Serialize)]
pub(crate) struct Authentication<'a> {
    pub token: &'a str,
}

/// The socket request `joinRoom`.
#[derive(Serialize)]
pub(crate) struct JoinRoom {
    pub room: Uuid,
}

/// The socket request `sendMessage`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SendMessage<'a> {
    pub room: Uuid,
    pub body: &'a str,
    pub client_msg_id: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_protocol() {
        let room = Uuid::nil();
        let send = SendMessage {
            room,
            body: "x",
            client_msg_id: "7",
        };
        let data = format!("{{\"body\":\"x\",\"clientMsgId\":\"7\",\"room\":\"{room}\"}}");
        assert_eq!(
            Transport::Ws.request(3, "sendMessage", &send),
            format!("{{\"data\":{data},\"event\":\"sendMessage\",\"id\":3}}")
        );
        assert_eq!(
            Transport::Socketio.request(3, "sendMessage", &send),
            format!("423[\"sendMessage\",{data}]")
        );
    }

    #[test]
    fn answers_are_read_with_what_else_they_hold() {
        let text = format!(
            "{{\"accessToken\":\"t\",\"refreshToken\":\"r\",\"user\":{{\"id\":\"{}\",\"username\":\"u\"}}}}",
            Uuid::nil()
        );
        let registered: Registered = serde_json::from_str(&text).unwrap();
        assert_eq!(registered.access_token, "t");
        assert_eq!(registered.user.id, Uuid::nil());
        let problem: Problem = serde_json::from_str("{\"code\":\"busy\"}").unwrap();
        assert_eq!(problem.retry_after_ms, None);
    }
}
