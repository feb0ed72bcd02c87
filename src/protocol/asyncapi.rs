//! The AsyncAPI 3 specification of the sockets, generated from the types that parse and write the frames.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{
    close::CLOSE_CODES,
    events::{EventDescription, describe_events},
    requests::{RequestDescription, WireError, describe_requests},
};

/// The whole specification as pretty-printed JSON; deterministic for a given version.
pub fn spec() -> String {
    let mut schemas = SchemaSettings::draft07()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let mut messages = Map::new();
    let mut operations = Map::new();

    for RequestDescription {
        event,
        data,
        answer,
        summary,
    } in describe_requests(&mut schemas)
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

    for EventDescription {
        name: event,
        data,
        summary,
    } in describe_events(&mut schemas)
    {
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
                "description": "Authenticate with an Authorization: Bearer header, with ?ticket= (POST /v1/auth/ticket), or with a first auth frame. There are no subprotocols: do not offer any. The server selects none of those offered in Sec-WebSocket-Protocol (RFC 6455, section 4.2.2), and the connection works in browsers; some clients fail it, such as ws for Node with \"Server sent no subprotocol\".",
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

/// The close codes as a Markdown table.
fn closes() -> String {
    let mut text = "| close code | meaning |\n|---|---|\n".to_owned();
    for (close, meaning) in CLOSE_CODES {
        text.push_str(&format!("| {} | {meaning} |\n", close.code()));
    }
    text
}
