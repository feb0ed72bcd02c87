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
            "Authenticates: the first frame of a socket that brought no other credentials.",
        ),
        asked_for::<JoinRoom, Joined>(
            &mut schemas,
            "joinRoom",
            "Takes a place in a room; joins it if it is public. With afterSeq, answers with what was missed. Live events follow the answer.",
        ),
        asked::<LeaveRoom>(
            &mut schemas,
            "leaveRoom",
            empty.clone(),
            "Gives up this socket's place. Membership stays.",
        ),
        asked_for::<SendMessage, Accepted>(
            &mut schemas,
            "sendMessage",
            "Sends a message. Acknowledged once the queue holds it durably; newMessage follows when it is stored. The same clientMsgId names the same message for ever.",
        ),
        asked_for::<EditMessage, Message>(
            &mut schemas,
            "editMessage",
            "Changes the body of one's own message.",
        ),
        asked_for::<DeleteMessage, Message>(
            &mut schemas,
            "deleteMessage",
            "Deletes one's own message, or as an admin anyone's.",
        ),
        asked_for::<React, Message>(
            &mut schemas,
            "react",
            "Gives a reaction, or takes it back with on: false.",
        ),
        asked_for::<MarkRead, MemberView>(
            &mut schemas,
            "markRead",
            "Says that everything up to seq is read.",
        ),
        Asked {
            event: "disconnect",
            data: empty.clone(),
            answer: empty,
            summary: "Says goodbye: the socket closes with 1001.",
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
                "id": { "type": "integer", "minimum": 0, "description": "Asks for an answer with the same number." },
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
            "The first event: who this socket is, and its limits.",
        ),
        told::<Message>(
            &mut schemas,
            "newMessage",
            "A message was stored; for its sender, with clientMsgId, the receipt.",
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
        told::<MemberEvent>(&mut schemas, "memberJoined", "Someone became a member."),
        told::<MemberEvent>(
            &mut schemas,
            "memberLeft",
            "Someone left or was removed; their sockets get nothing more of the room.",
        ),
        told::<RoomEvent>(
            &mut schemas,
            "roomUpdated",
            "The room's name, a member's role or mute changed, or the room was deleted.",
        ),
        told::<ReadUpdated>(
            &mut schemas,
            "readUpdated",
            "A member has read up to a number. It has no changeSeq: whoever misses it asks for the members.",
        ),
        told::<Gap>(
            &mut schemas,
            "gap",
            "Events of a room that cannot be delivered.",
        ),
        told::<SendFailed>(
            &mut schemas,
            "sendFailed",
            "A send that was accepted and then refused.",
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
        (Close::Bye, "The client said goodbye."),
        (
            Close::Protocol,
            "A frame was not one that a client may send (RFC 6455). Do not reconnect before it is mended.",
        ),
        (
            Close::Unsupported,
            "A binary frame: send text. Do not reconnect before it is mended.",
        ),
        (
            Close::NotUtf8,
            "A text frame was not UTF-8. Do not reconnect before it is mended.",
        ),
        (
            Close::TooBig,
            "A frame was larger than edge.max_frame_bytes.",
        ),
        (
            Close::Restarting,
            "The edge restarts; the reason is {\"retryAfterMs\": …}: come back then and resume.",
        ),
        (
            Close::Unauthorized,
            "No good credentials, or the login ended. Do not reconnect before you have others.",
        ),
        (Close::Forbidden, "You may not. Do not reconnect."),
        (
            Close::Slow,
            "You did not read fast enough: more than edge.send_queue_bytes waited, or nothing was read for edge.write_timeout. Reconnect and resume.",
        ),
        (
            Close::Idle,
            "You did not answer pings. Reconnect and resume.",
        ),
        (
            Close::RateLimited,
            "You kept sending faster than allowed, or you have as many sockets open as you may. Do not reconnect at once.",
        ),
        (
            Close::Malformed,
            "What you sent is no request: not JSON, or not as described here. Do not reconnect before it is mended.",
        ),
    ];
    let mut text = "| close code | meaning |\n|---|---|\n".to_owned();
    for (close, meaning) in rows {
        text.push_str(&format!("| {} | {meaning} |\n", close.code()));
    }
    text
}
