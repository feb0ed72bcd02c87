//! Engine.IO sessions: the handshake, and the map of polling sessions by id. A session is in the map for as long as
//! HTTP requests may name it: from its handshake until its task ends or it is upgraded. Removing it ends its task, so
//! nothing leaks.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use parking_lot::Mutex;
use poem::{Request, Response, http::header};
use serde_json::json;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    codec::SocketIo,
    refused::{Refused, payload},
};
use crate::edge::{
    Edge,
    outbound::{Item, Outbox},
    transport::{
        connection::{Admitted, Connection},
        link::Link,
        polling::{Incoming, Polling, WaitingPoll},
        socket,
    },
};

/// Posts that may wait while the session handles another.
const POSTS: usize = 4;

pub struct Engine {
    pub(super) edge: Arc<Edge>,
    polling: Mutex<HashMap<Uuid, Arc<Handle>>>,
}

/// The requests' side of a polling session.
pub(super) struct Handle {
    pub sid: Uuid,
    /// The only sender: once the map drops the handle, the channel closes and the task ends.
    pub incoming: mpsc::Sender<Incoming>,
    pub poll: Arc<WaitingPoll>,
    pub outbox: Arc<Outbox>,
    /// A post is being read.
    pub posting: AtomicBool,
    /// A WebSocket is probing for the upgrade.
    pub upgrading: AtomicBool,
}

impl Engine {
    pub fn new(edge: Arc<Edge>) -> Arc<Self> {
        Arc::new(Engine {
            edge,
            polling: Mutex::default(),
        })
    }

    /// `GET ?transport=polling` without `sid`.
    pub(super) fn open_polling(self: &Arc<Self>, request: &Request) -> Result<Response, Refused> {
        let admitted = Admitted::anonymous(&self.edge, request)?;
        let sid = Uuid::new_v4();
        let outbox = self.edge.outbox();
        let (sender, incoming) = mpsc::channel(POSTS);
        let poll = Arc::new(WaitingPoll::default());
        {
            let mut polling = self.polling.lock();
            // Polling sessions have no connection of their own to count. In practice only authenticated sessions reach
            // this limit: that of unauthenticated ones is lower.
            if polling.len() >= self.edge.config.edge.max_connections {
                return Err(Refused::Full);
            }
            let handle = Handle {
                sid,
                incoming: sender,
                poll: poll.clone(),
                outbox: outbox.clone(),
                posting: AtomicBool::new(false),
                upgrading: AtomicBool::new(false),
            };
            polling.insert(sid, Arc::new(handle));
        }
        let engine = self.clone();
        let remove = move || engine.remove(sid);
        let link = Link::Polling(Polling::new(remove, incoming, poll));
        let (edge, codec) = (self.edge.clone(), self.codec(request));
        let connection = Connection::new(edge, codec, link, outbox, admitted);
        self.edge.tasks.spawn(connection.serve(None));
        Ok(payload(self.handshake(sid, &["websocket"])))
    }

    /// `GET ?transport=websocket` without `sid`.
    pub(super) fn open_websocket(&self, request: &Request) -> Result<Response, Refused> {
        let admitted = Admitted::anonymous(&self.edge, request)?;
        let (response, upgrading) = socket::accept(request).map_err(Refused::Handshake)?;
        let outbox = self.edge.outbox();
        outbox.push(Item::Text(self.handshake(Uuid::new_v4(), &[]).into()));
        let (edge, codec) = (self.edge.clone(), self.codec(request));
        let beginning = Box::pin(async move {
            let socket = upgrading.finish(edge.config.socketio.max_payload).await?;
            let link = Link::WebSocket(socket);
            Some(Connection::new(edge, codec, link, outbox, admitted))
        });
        self.edge.tasks.spawn(async move {
            if let Some(connection) = beginning.await {
                connection.serve(None).await;
            }
        });
        Ok(response)
    }

    fn codec(&self, request: &Request) -> SocketIo {
        let header = request.header(header::AUTHORIZATION).map(str::to_owned);
        SocketIo::new(self.edge.config.clone(), header)
    }

    /// The open packet.
    fn handshake(&self, sid: Uuid, upgrades: &[&str]) -> String {
        let socketio = &self.edge.config.socketio;
        let data = json!({
            "sid": sid.simple().to_string(),
            "upgrades": upgrades,
            "pingInterval": socketio.ping_interval.as_millis() as u64,
            "pingTimeout": socketio.ping_timeout.as_millis() as u64,
            "maxPayload": socketio.max_payload,
        });
        format!("0{data}")
    }

    pub(super) fn find(&self, sid: Uuid) -> Option<Arc<Handle>> {
        self.polling.lock().get(&sid).cloned()
    }

    /// Removes a session: requests do not find it any more, and its task ends unless it was upgraded.
    pub(super) fn remove(&self, sid: Uuid) {
        self.polling.lock().remove(&sid);
    }
}
