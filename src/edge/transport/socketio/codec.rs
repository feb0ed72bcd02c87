//! The Socket.IO codec: CONNECT and its answer, events, acknowledgements, heartbeats and endings. The stock client
//! reconnects after a closed transport but not after DISCONNECT, so DISCONNECT is sent only where reconnecting cannot
//! help.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::packet::{Event, Malformed, Message, Packet};
use crate::{
    config::Config,
    edge::{
        credentials::bearer,
        outbound::{Encoding, Ending, Item, Outbox, RequestId},
        session::Greeting,
        transport::connection::{Codec, Heartbeat, Input, Over},
    },
    error::{Code, Error, Result},
    protocol::{Close, ConnectedLimits, Request, WireError, raw},
};

/// Rejected CONNECTs on one connection before it is closed.
const MAX_REFUSED: u32 = 20;

pub struct SocketIo {
    config: Arc<Config>,
    /// The handshake's Authorization header.
    header: Option<String>,
    connected: bool,
    refused: u32,
    /// A ping is unanswered.
    pinged: bool,
    /// Outstanding binary messages of a packet that is already answered.
    attachments: usize,
}

impl SocketIo {
    pub fn new(config: Arc<Config>, header: Option<String>) -> Self {
        SocketIo {
            config,
            header,
            connected: false,
            refused: 0,
            pinged: false,
            attachments: 0,
        }
    }

    fn message(&mut self, packet: &str) -> Result<Input, Malformed> {
        if self.attachments > 0 {
            return Err(Malformed);
        }
        match Message::parse(packet)? {
            Message::Connect("/", auth) if !self.connected => {
                Ok(Input::Open(None, self.token(auth)?))
            }
            Message::Connect("/", _) => Err(Malformed),
            Message::Connect(namespace, _) => {
                let answer = format!("44{namespace},{{\"message\":\"Invalid namespace\"}}");
                Ok(match self.refused() {
                    Ok(()) => Input::Reply(text(answer)),
                    Err(over) => Input::End(over),
                })
            }
            Message::Disconnect("/") if self.connected => {
                self.connected = false;
                Ok(Input::Leave)
            }
            // A namespace that was rejected or has just been left.
            Message::Disconnect(_) => Ok(Input::Nothing),
            Message::Event("/", event) if self.connected => {
                self.attachments = event.attachments;
                Ok(read_event(&event))
            }
            Message::Event(..) => Err(Malformed),
            Message::Ack { attachments } => {
                self.attachments = attachments;
                Ok(Input::Nothing)
            }
        }
    }

    /// Counts a rejected CONNECT.
    fn refused(&mut self) -> Result<(), Over> {
        self.refused += 1;
        if self.refused > MAX_REFUSED {
            Err(Over::with(Close::Malformed))
        } else {
            Ok(())
        }
    }

    /// The token of `auth: {token}`, or of the handshake's header.
    fn token(&self, auth: &str) -> Result<Result<String>, Malformed> {
        #[derive(Deserialize)]
        struct Credentials {
            token: Option<serde_json::Value>,
        }
        let token = match auth {
            "" => None,
            auth => {
                serde_json::from_str::<Credentials>(auth)
                    .map_err(|_| Malformed)?
                    .token
            }
        };
        let token = match token {
            None | Some(serde_json::Value::Null) => self.header.clone(),
            Some(serde_json::Value::String(token)) => Some(token),
            Some(_) => return Ok(Err(Error::unauthorized("auth.token must be a string"))),
        };
        Ok(token
            .map(|token| match bearer(&token) {
                Some(bare) => bare.to_owned(),
                None => token,
            })
            .ok_or_else(|| {
                Error::unauthorized(
                    "no access token: connect with io(url, {auth: {token}}) or an Authorization header; never put it in the URL",
                )
            }))
    }
}

fn read_event(event: &Event) -> Input {
    if event.attachments > 0 {
        let error = Error::malformed("no event takes binary data; send text and numbers");
        return Input::Bad(event.ack, error);
    }
    match Request::parse(&event.name, event.data) {
        Ok(request) => Input::Request(event.ack, request),
        Err(error) => Input::Bad(event.ack, error),
    }
}

fn text(text: String) -> Item {
    Item::Text(text.into())
}

fn emit(event: &str, data: &impl Serialize) -> Item {
    text(format!("42[\"{event}\",{}]", raw(data).get()))
}

/// Renders an EVENT packet.
fn packet(event: &str, data: &str) -> Utf8Bytes {
    format!("42[\"{event}\",{data}]").into()
}

impl Codec for SocketIo {
    const TRANSPORT: &'static str = "socketio";

    fn read(&mut self, text: &str) -> Input {
        let input = match Packet::parse(text) {
            Ok(Packet::Message(message)) => self.message(message),
            Ok(Packet::Pong) => {
                self.pinged = false;
                Ok(Input::Alive(self.config.socketio.ping_interval))
            }
            Ok(Packet::Noop) => Ok(Input::Nothing),
            Ok(Packet::Close) => Ok(Input::End(Over::Gone)),
            Ok(Packet::Binary) => return self.read_binary(),
            Err(Malformed) => Err(Malformed),
        };
        input.unwrap_or_else(|Malformed| Input::End(Over::with(Close::Malformed)))
    }

    fn read_binary(&mut self) -> Input {
        match self.attachments.checked_sub(1) {
            Some(left) => {
                self.attachments = left;
                Input::Nothing
            }
            None => Input::End(Over::because(
                Close::Malformed,
                "nothing announced binary data",
            )),
        }
    }

    fn render(item: &Item) -> Utf8Bytes {
        match item {
            Item::Event(event) => event.rendered(Encoding::SocketIo, packet),
            Item::Text(text) => text.clone(),
            Item::Ack {
                id: Some(id),
                ok: true,
                body,
            } => format!("43{id}[{{\"ok\":true,\"data\":{body}}}]").into(),
            Item::Ack {
                id: Some(id),
                ok: false,
                body,
            } => format!("43{id}[{{\"ok\":false,\"error\":{body}}}]").into(),
            // Without an acknowledgement id, errors and the result of a join are sent as events.
            Item::Ack {
                id: None,
                ok: false,
                body,
            } => format!("42[\"exception\",{body}]").into(),
            Item::Ack {
                id: None,
                ok: true,
                body,
            } => format!("42[\"joined\",{body}]").into(),
        }
    }

    fn greeting(&mut self, _: RequestId) -> Greeting {
        self.connected = true;
        let (edge, socketio) = (&self.config.edge, &self.config.socketio);
        Greeting {
            first: Some(text(format!(
                "40{{\"sid\":\"{}\"}}",
                Uuid::new_v4().simple()
            ))),
            limits: ConnectedLimits {
                max_frame_bytes: socketio.max_payload,
                max_body_bytes: edge.max_body_bytes,
                ping_interval_ms: socketio.ping_interval.as_millis() as u64,
            },
        }
    }

    fn refuse(&mut self, outbox: &Outbox, _: RequestId, error: Error) -> Result<(), Over> {
        self.connected = false;
        self.refused()?;
        let message = json!({"message": error.message, "data": WireError::from(&error)});
        outbox.push(text(format!("44{message}")));
        Ok(())
    }

    fn too_late(&mut self, _: &Outbox) -> Over {
        Over::because(Close::Unauthorized, "no CONNECT packet came in time")
    }

    fn last_items(&self, ending: &Ending, into: &mut VecDeque<Item>) {
        if !self.connected {
            return;
        }
        let code = match ending.close {
            Close::Restarting => {
                let hint = if ending.reason.starts_with('{') {
                    &ending.reason
                } else {
                    "{}"
                };
                into.push_back(text(format!("42[\"restarting\",{hint}]")));
                return;
            }
            Close::Slow
            | Close::Idle
            | Close::Malformed
            | Close::Protocol
            | Close::Unsupported
            | Close::NotUtf8
            | Close::TooBig => return,
            Close::Bye => None,
            Close::Unauthorized => Some(Code::Unauthorized),
            Close::Forbidden => Some(Code::Forbidden),
            Close::RateLimited => Some(Code::RateLimited),
        };
        if let Some(code) = code {
            let exception = json!({"code": code, "message": ending.reason});
            into.push_back(emit("exception", &exception));
        }
        into.push_back(Item::Text(Utf8Bytes::from_static("41")));
    }

    fn first_heartbeat(&self) -> Duration {
        self.config.socketio.ping_interval
    }

    /// Only a pong answers a ping; other traffic does not count.
    fn heartbeat(&mut self, _: Duration) -> (Heartbeat, Duration) {
        if std::mem::replace(&mut self.pinged, true) {
            return (Heartbeat::Dead, Duration::ZERO);
        }
        let ping = Item::Text(Utf8Bytes::from_static("2"));
        (Heartbeat::Send(ping), self.config.socketio.ping_timeout)
    }

    fn pong_due(&self) -> Option<Duration> {
        self.pinged.then_some(self.config.socketio.ping_timeout)
    }
}
