//! The AsyncAPI 3 specification of the sockets, generated from the types that parse and write the frames.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    Accepted, Auth, Close, Connected, DeleteMessage, EditMessage, Gap, JoinRoom, Joined, LeaveRoom,
    MarkRead, MemberEvent, MemberView, React, ReadUpdated, RoomEvent, SendFailed, SendMessage,
    WireError,
};
use crate::model::Message;

/// A client request: the event, its data, the data of a successful answer, and a summary.
struct Asked {
    event: &'static str,
    data: Value,
    answer: Value,
    summary: &'static str,
}

/// The whole specification as pretty-printed JSON; deterministic for a given version.
pub fn spec() -> String {
    let mut schemas = SchemaSettings::draft07()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let mut messages = Map::new();
    let mut operations = Map::new();
    let empty = json!({ "type": "object", "properties": {} });

    let asked = [
        asked::<Auth>(
            &mut schemas,
            "auth",
            empty.clone(),
            "Authenticates the socket. Must be the first frame if the handshake had no credentials; later, a newer token of the same user is accepted.",
        ),
        asked_for::<JoinRoom, Joined>(
            &mut schemas,
            "joinRoom",
            "Subscribes this socket to a room, and joins the user to it if it is public. Returns the events after afterSeq, or the latest messages without it. Live events follow once hasMore is false.",
        ),
        asked::<LeaveRoom>(
            &mut schemas,
            "leaveRoom",
            empty.clone(),
            "Unsubscribes this socket from a room. The membership remains.",
        ),
        asked_for::<SendMessage, Accepted>(
            &mut schemas,
            "sendMessage",
            "Sends a message. Acknowledged once the queue has stored it durably; newMessage follows when the message is stored, or sendFailed if a worker refuses it. A repeated clientMsgId is the same message and is stored once.",
        ),
        asked_for::<EditMessage, Message>(
            &mut schemas,
            "editMessage",
            "Changes the body of a message. Only for its sender.",
        ),
        asked_for::<DeleteMessage, Message>(
            &mut schemas,
            "deleteMessage",
            "Deletes a message. For its sender, admins and the owner of the room.",
        ),
        asked_for::<React, Message>(
            &mut schemas,
            "react",
            "Adds a reaction, or removes it with on: false. A message has at most 50 different reactions.",
        ),
        asked_for::<MarkRead, MemberView>(
            &mut schemas,
            "markRead",
            "Marks all messages up to seq as read.",
        ),
        Asked {
            event: "disconnect",
            data: empty.clone(),
            answer: empty,
            summary: "Closes the socket with 1001.",
        },
    ];
    for Asked {
        event,
        data,
        answer,
        summary,
    } in asked
    {
        let frame = json!({
            "type": "object",
            "required": ["event"],
            "properties": {
                "id": { "type": "integer", "minimum": 0, "description": "Requests an acknowledgement with this number." },
                "event": { "const": event },
                "data": data,
            },
        });
        let reply = json!({
            "type": "object",
            "required": ["ack", "ok"],
            "properties": {
                "ack": { "type": ["integer", "null"] },
                "ok": { "type": "boolean" },
                "data": answer,
                "error": schemas.subschema_for::<WireError>(),
            },
        });
        messages.insert(
            event.into(),
            json!({ "summary": summary, "payload": frame }),
        );
        messages.insert(
            format!("{event}Ack"),
            json!({ "summary": format!("The answer to {event}."), "payload": reply }),
        );
        operations.insert(
            event.into(),
            json!({
                "action": "receive",
                "summary": summary,
                "channel": { "$ref": "#/channels/ws" },
                "messages": [{ "$ref": format!("#/channels/ws/messages/{event}") }],
                "reply": {
                    "channel": { "$ref": "#/channels/ws" },
                    "messages": [{ "$ref": format!("#/channels/ws/messages/{event}Ack") }],
                },
            }),
        );
    }

    let told = [
        told::<Connected>(
            &mut schemas,
            "connected",
            "The first event: the user of this socket, and its limits.",
        ),
        told::<Message>(
            &mut schemas,
            "newMessage",
            "A message was stored. Sent to the sender as well, who recognises it by clientMsgId.",
        ),
        told::<Message>(&mut schemas, "messageUpdated", "A message's body changed."),
        told::<Message>(
            &mut schemas,
            "messageDeleted",
            "A message was deleted; its body is empty.",
        ),
        told::<Message>(
            &mut schemas,
            "reactionUpdated",
            "A message's reactions changed.",
        ),
        told::<MemberEvent>(&mut schemas, "memberJoined", "A user became a member."),
        told::<MemberEvent>(
            &mut schemas,
            "memberLeft",
            "A membership ended. The user's sockets get no further events of the room.",
        ),
        told::<RoomEvent>(
            &mut schemas,
            "roomUpdated",
            "The room's name, a member's role or mute changed, or the room was deleted.",
        ),
        told::<ReadUpdated>(
            &mut schemas,
            "readUpdated",
            "A member's read position advanced. The event has no changeSeq and is not recovered; the list of members has the current positions.",
        ),
        told::<Gap>(
            &mut schemas,
            "gap",
            "Events of a room that cannot be delivered.",
        ),
        told::<SendFailed>(
            &mut schemas,
            "sendFailed",
            "A send was accepted and then refused by a worker.",
        ),
    ];
    for (event, data, summary) in told {
        let frame = json!({
            "type": "object",
            "required": ["event", "data"],
            "properties": { "event": { "const": event }, "data": data },
        });
        messages.insert(
            event.into(),
            json!({ "summary": summary, "payload": frame }),
        );
        operations.insert(
            format!("on{}{}", event[..1].to_uppercase(), &event[1..]),
            json!({
                "action": "send",
                "summary": summary,
                "channel": { "$ref": "#/channels/ws" },
                "messages": [{ "$ref": format!("#/channels/ws/messages/{event}") }],
            }),
        );
    }

    let names: Map<String, Value> = messages
        .keys()
        .map(|name| {
            let reference = json!({ "$ref": format!("#/components/messages/{name}") });
            (name.clone(), reference)
        })
        .collect();
    let spec = json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "chat sockets",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT" },
            "description": format!("Events of the plain WebSocket at /ws: JSON text frames.\n\n{}", closes()),
        },
        "defaultContentType": "application/json",
        "channels": {
            "ws": {
                "address": "/ws",
                "description": "Authenticate with an Authorization: Bearer header, with ?ticket= (POST /v1/auth/ticket), or with a first auth frame.",
                "messages": names,
            },
        },
        "operations": operations,
        "components": { "messages": messages, "schemas": schemas.take_definitions(true) },
    });
    let mut text = format!("{spec:#}");
    text.push('\n');
    text
}

fn asked<D: JsonSchema>(
    schemas: &mut SchemaGenerator,
    event: &'static str,
    answer: Value,
    summary: &'static str,
) -> Asked {
    Asked {
        event,
        data: schemas.subschema_for::<D>().into(),
        answer,
        summary,
    }
}

fn asked_for<D: JsonSchema, A: JsonSchema>(
    schemas: &mut SchemaGenerator,
    event: &'static str,
    summary: &'static str,
) -> Asked {
    let answer = schemas.subschema_for::<A>().into();
    asked::<D>(schemas, event, answer, summary)
}

fn told<D: JsonSchema>(
    schemas: &mut SchemaGenerator,
    event: &'static str,
    summary: &'static str,
) -> (&'static str, Value, &'static str) {
    (event, schemas.subschema_for::<D>().into(), summary)
}

/// The close codes as a Markdown table.
fn closes() -> String {
    let rows = [
        (Close::Bye, "The client sent disconnect."),
        (
            Close::Protocol,
            "A frame violates RFC 6455. Do not reconnect before the client is fixed.",
        ),
        (
            Close::Unsupported,
            "A binary frame; only text is supported. Do not reconnect before the client is fixed.",
        ),
        (
            Close::NotUtf8,
            "A text frame is not UTF-8. Do not reconnect before the client is fixed.",
        ),
        (Close::TooBig, "A frame exceeds edge.max_frame_bytes."),
        (
            Close::Restarting,
            "The edge restarts. Reconnect and resume after the delay in the reason: {\"retryAfterMs\": …}.",
        ),
        (
            Close::Unauthorized,
            "Credentials are missing or invalid, or the login has ended. Do not reconnect without new ones.",
        ),
        (
            Close::Forbidden,
            "The user lacks the right. Do not reconnect.",
        ),
        (
            Close::Slow,
            "The client read too slowly: more than edge.send_queue_bytes were waiting, or nothing was read for edge.write_timeout. Reconnect and resume.",
        ),
        (
            Close::Idle,
            "The client did not answer pings. Reconnect and resume.",
        ),
        (
            Close::RateLimited,
            "The client kept exceeding the rate limit, or the user has too many open sockets. Do not reconnect at once.",
        ),
        (
            Close::Malformed,
            "Input is not JSON or does not follow this specification. Do not reconnect before the client is fixed.",
        ),
    ];
    let mut text = "| close code | meaning |\n|---|---|\n".to_owned();
    for (close, meaning) in rows {
        text.push_str(&format!("| {} | {meaning} |\n", close.code()));
    }
    text
}
