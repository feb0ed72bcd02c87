//! A WebSocket of the public protocol. Everything that waits for the server has a deadline.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

const CONNECT: Duration = Duration::from_secs(10);

pub struct Wire {
    stream: WebSocketStream<TcpStream>,
    next: u64,
}

/// A frame of the server.
pub enum Frame {
    Ack(u64, Result<Value, Value>),
    Event(String, Value),
    /// With the delay that the server requests before the next connection, in milliseconds.
    Closed(Option<u64>),
}

impl Wire {
    /// Connects to `address` and authenticates.
    pub async fn connect(address: &str, token: &str) -> Option<Wire> {
        let connecting = async {
            let stream = TcpStream::connect(address).await.ok()?;
            stream.set_nodelay(true).ok()?;
            let mut request = format!("ws://{address}/ws").into_client_request().ok()?;
            let bearer = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
            request.headers_mut().insert("authorization", bearer);
            let (stream, _) = client_async(request, stream).await.ok()?;
            let mut wire = Wire { stream, next: 0 };
            match wire.frame().await {
                Frame::Event(name, _) if name == "connected" => Some(wire),
                _ => None,
            }
        };
        timeout(CONNECT, connecting).await.ok()?
    }

    /// Sends a request and returns its number; `None` if the connection does not take it.
    pub async fn send(&mut self, event: &str, data: &Value) -> Option<u64> {
        self.next += 1;
        let text = json!({"id": self.next, "event": event, "data": data}).to_string();
        let sending = self.stream.send(Message::text(text));
        timeout(CONNECT, sending).await.ok()?.ok()?;
        Some(self.next)
    }

    /// The next frame. It can be dropped while it waits.
    pub async fn frame(&mut self) -> Frame {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    let Ok(mut frame) = serde_json::from_str::<Value>(&text) else {
                        return Frame::Closed(None);
                    };
                    if let Some(id) = frame["ack"].as_u64() {
                        let answer = if frame["ok"] == true {
                            Ok(frame["data"].take())
                        } else {
                            Err(frame["error"].take())
                        };
                        return Frame::Ack(id, answer);
                    }
                    let name = frame["event"].as_str().unwrap_or_default().to_owned();
                    return Frame::Event(name, frame["data"].take());
                }
                Some(Ok(Message::Close(close))) => {
                    let hint = close.and_then(|close| {
                        let reason: Value = serde_json::from_str(&close.reason).ok()?;
                        reason["retryAfterMs"].as_u64()
                    });
                    return Frame::Closed(hint);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Frame::Closed(None),
            }
        }
    }
}
