//! The sockets of a run. Each has a task that reads; one task sends for all of them, so that a message needs no timer.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    frames::{self, Event},
    observations::{Observation, Recorder},
    plan::{MessageNo, Plan},
};
use crate::{
    client::{closed, read_more},
    error::failed,
    judge::{Seq, SubscriptionNo},
    websocket::{Frame, Reader, Writer},
    wire::Transport,
};

/// Message `n` has the request id `FIRST_SEND + n`; lower ids are those of joins.
const FIRST_SEND: u64 = 1 << 32;
/// Pause before a socket whose send buffer was full is written again.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// A socket's subscription to a room. A socket has few.
pub(super) struct Subscription {
    /// The room's id as frames show it.
    pub room: String,
    pub number: SubscriptionNo,
    /// Events up to this number are ignored.
    pub base: Seq,
}

/// A ping that the socket of this user has to answer.
pub(super) struct Ping {
    user: usize,
    /// A WebSocket ping; otherwise one of Engine.IO.
    is_frame: bool,
}

/// Reads one socket until it ends.
pub(super) async fn receive(
    user: usize,
    mut reader: Reader,
    subscriptions: Vec<Subscription>,
    plan: Arc<Plan>,
    recorder: Recorder,
    pings: mpsc::UnboundedSender<Ping>,
) {
    let mut observed = Vec::new();
    loop {
        // Frames of one read share a time.
        let now = Instant::now();
        while let Some(frame) = reader.next() {
            match frame {
                Frame::Text(b"2") => {
                    let is_frame = false;
                    let _ = pings.send(Ping { user, is_frame });
                }
                Frame::Ping => {
                    let is_frame = true;
                    let _ = pings.send(Ping { user, is_frame });
                }
                Frame::Text(text) => observed.extend(observe(text, &subscriptions, &plan, now)),
                Frame::Close(code, reason) => {
                    observed.push(Observation::Ended(closed(code, reason)));
                }
                Frame::Other => {}
            }
        }
        if !recorder.record(&mut observed) {
            return;
        }
        if let Err(error) = read_more(&mut reader).await {
            recorder.record(&mut vec![Observation::Ended(error)]);
            return;
        }
    }
}

/// Sends every message at its intended time, and answers pings, until all reading tasks have ended.
pub(super) async fn send(
    mut writers: Vec<Writer>,
    transport: Transport,
    plan: Arc<Plan>,
    recorder: Recorder,
    mut pings: mpsc::UnboundedReceiver<Ping>,
) {
    let rooms: Vec<String> = plan.rooms.iter().map(Uuid::to_string).collect();
    let mut next: MessageNo = 0;
    let mut text = String::new();
    let mut sent = Vec::new();
    // Sockets with something to write; a socket may occur more than once.
    let mut pending: Vec<usize> = Vec::new();
    loop {
        let due = match (pending.is_empty(), next < plan.script.messages) {
            (false, _) => Instant::now() + RETRY_AFTER,
            (true, true) => plan.intended(next),
            (true, false) => Instant::now() + Duration::from_secs(3600),
        };
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            ping = pings.recv() => match ping {
                Some(Ping { user, is_frame }) => {
                    if is_frame {
                        writers[user].add_pong();
                    } else {
                        writers[user].add("3");
                    }
                    pending.push(user);
                }
                None => return,
            }
        }
        let now = Instant::now();
        while next < plan.script.messages && plan.intended(next) <= now {
            if let Some(room) = plan.room(next) {
                text.clear();
                request(&mut text, transport, next, &rooms[room], plan.body(next));
                let user = plan.sender(next);
                writers[user].add(&text);
                pending.push(user);
                sent.push(Observation::Sent(next));
            }
            next += 1;
        }
        if !recorder.record(&mut sent) {
            return;
        }
        let mut failure = None;
        pending.retain(|user| match writers[*user].try_write() {
            Ok(done) => !done,
            Err(error) => {
                failure = Some(failed("sending", error));
                false
            }
        });
        if let Some(error) = failure {
            recorder.record(&mut vec![Observation::Ended(error)]);
            return;
        }
    }
}

/// Appends a `sendMessage` request. `body` is JSON.
fn request(text: &mut String, transport: Transport, message: MessageNo, room: &str, body: &str) {
    let id = FIRST_SEND + message;
    let data =
        format_args!("{{\"room\":\"{room}\",\"clientMsgId\":\"{message}\",\"body\":{body}}}");
    let written = match transport {
        Transport::Ws => write!(
            text,
            "{{\"id\":{id},\"event\":\"sendMessage\",\"data\":{data}}}"
        ),
        Transport::Socketio => write!(text, "42{id}[\"sendMessage\",{data}]"),
    };
    debug_assert!(written.is_ok(), "writing to a String does not fail");
}

/// The observation that a text frame causes, if any.
fn observe(
    text: &[u8],
    subscriptions: &[Subscription],
    plan: &Plan,
    now: Instant,
) -> Option<Observation> {
    let after = |message| now.saturating_duration_since(plan.intended(message));
    // Events caused by joins, and those of other rooms, are none of the run's.
    let subscription = |room: &str, change_seq: Seq| {
        let found = subscriptions.iter().find(|one| one.room == room)?;
        (change_seq > found.base).then_some(found.number)
    };
    match frames::read(text)? {
        Event::Answer { id, refused } => {
            let message = id.checked_sub(FIRST_SEND)?;
            Some(Observation::Answered {
                message,
                after: after(message),
                refused: refused.map(str::to_owned),
            })
        }
        Event::NewMessage {
            room,
            seq,
            change_seq,
            client_msg_id,
        } => {
            let subscription = subscription(room, change_seq)?;
            let message = client_msg_id.parse().ok()?;
            Some(Observation::Delivered {
                subscription,
                seq,
                change_seq,
                message,
                after: after(message),
            })
        }
        Event::Other { room, change_seq } => Some(Observation::Other {
            subscription: subscription(room, change_seq)?,
            change_seq,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::Judge,
        load::{args::Load, plan::Script},
    };

    #[test]
    fn frames_become_observations_of_the_run() {
        let (room, started) = (Uuid::new_v4(), Instant::now());
        let mut judge = Judge::new();
        let number = judge.room("r");
        let number = judge.subscribe(number, "s", 0);
        let subscriptions = [Subscription {
            room: room.to_string(),
            number,
            base: 7,
        }];
        let plan = Plan {
            script: Script::of(&Load::default()).unwrap(),
            users: Vec::new(),
            rooms: vec![room],
            started,
        };
        let observe = |text: &str| observe(text.as_bytes(), &subscriptions, &plan, started);
        let message = |change_seq| {
            format!(
                "{{\"event\":\"newMessage\",\"data\":{{\"id\":\"x\",\"room\":\"{room}\",\"seq\":7,\
                 \"changeSeq\":{change_seq},\"body\":\"\",\"clientMsgId\":\"42\"}}}}"
            )
        };
        let Some(Observation::Delivered {
            seq,
            change_seq,
            message: found,
            ..
        }) = observe(&message(8))
        else {
            panic!("it is a delivery")
        };
        assert_eq!((seq, change_seq, found), (7, 8, 42));
        assert!(observe(&message(7)).is_none(), "it is part of the joins");
        let answer = format!(
            "{{\"ack\":{},\"ok\":false,\"error\":{{\"code\":\"busy\",\"message\":\"\"}}}}",
            FIRST_SEND + 3
        );
        assert!(matches!(
            observe(&answer),
            Some(Observation::Answered { message: 3, refused: Some(code), .. }) if code == "busy"
        ));
    }
}
