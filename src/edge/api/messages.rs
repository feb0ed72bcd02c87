//! `/v1/rooms/{room}/messages`: history, sending, editing and deleting; reactions and the read position.

use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Header, Path, Query},
};
use serde::Deserialize;

use super::{
    Tags,
    access::{self, Caller, Need, Shared, Write, shown},
    fields,
    page::{self, Direction, MessagePage},
    payload::{Body, Changed, Found, RawJson},
    problem::Problem,
    query::PageCursor,
};
use crate::{
    command::{
        Command,
        room::{RoomCommand, Send},
    },
    edge::{
        Edge,
        reactions::{self, SharedPage},
        submit::SubmitResult,
    },
    error::{Error, Result},
    model::{self, ClientMetadata, Message, MessageId, Role, RoomId, Seq, UserId},
    protocol::{self, Accepted, MemberView, check_limit},
};

pub struct MessagesApi;

/// A message to send.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "NewMessage")]
struct NewMessage {
    /// 1 byte to `edge.max_body_bytes` (default: 16,000 bytes), without U+0000.
    body: String,
    /// Identifies the message among those of its sender in this room, permanently: a repeat with the same value is the
    /// same message. At most 128 bytes. Default: the `Idempotency-Key`, or else a generated value.
    client_msg_id: Option<String>,
    /// The message that this one replies to; it must be in the same room, and may be deleted.
    reply_to: Option<MessageId>,
    metadata: Option<ClientMetadata>,
}

/// The new content of a message.
#[derive(Deserialize, Object)]
#[oai(rename = "MessagePatch")]
struct MessagePatch {
    /// 1 byte to `edge.max_body_bytes`, without U+0000.
    body: String,
}

/// The read position of a member.
#[derive(Deserialize, Object)]
#[oai(rename = "ReadMark")]
struct ReadMark {
    /// The number of the newest event read; at most the room's newest number.
    seq: Seq,
}

/// The stage at which the response is sent.
#[derive(Enum)]
enum Wait {
    #[oai(rename = "stored")]
    Stored,
}

#[derive(ApiResponse)]
enum Sent {
    /// With `wait=stored`: the stored message, including its `seq`.
    #[oai(status = 201)]
    Stored(RawJson<Message>),
    /// The message was durably enqueued and will be stored.
    #[oai(status = 202)]
    Accepted(RawJson<Accepted>),
}

/// The newest page, from the hub's cache if the room is read often.
async fn newest(edge: &Edge, room: RoomId, user: UserId, limit: u32) -> Result<SharedPage> {
    if let Some(page) = edge.hub.page(room, user, limit) {
        return Ok(page);
    }
    let check = || async move { Ok(access::member(edge, room, user).await?.0.head) };
    let read = async |head| {
        let page = page::read(&*edge.reads, room, head, Direction::Newest, limit).await?;
        Ok(page.shared())
    };
    edge.hub.newest_page(room, user, limit, check, read).await
}

#[OpenApi(prefix_path = "/v1/rooms", tag = "Tags::Messages")]
impl MessagesApi {
    /// List messages
    ///
    /// For members. Give at most one of `before`, `after` and `around`; without any of them, the newest messages are
    /// returned. Items are always ascending by `seq`. `nextCursor` continues in the same direction: pass it as
    /// `cursor`, together with the `before`, `after` or `around` of the first page, which determine the direction:
    /// upwards with `after` and `around`, downwards otherwise. (Alone, it may also be passed as `after` or `before`, as
    /// in earlier versions.) To page backwards from an `around` page, pass the first item's `seq` as `before`. A page
    /// holds at most about 2 MiB of JSON and may therefore have fewer items than `limit`.
    ///
    /// A deleted message stays in the list, with an empty body and `deletedAt`. A reply keeps its `replyTo` when the
    /// message that it refers to is deleted, and a deleted message can still be replied to. A member who was removed
    /// and added again sees the whole history, including the messages in between.
    #[oai(
        path = "/:room/messages",
        method = "get",
        operation_id = "listMessages"
    )]
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a parameter of the operation"
    )]
    async fn list(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        /// The newest messages below this number.
        before: Query<Option<Seq>>,
        /// The oldest messages above this number. At most the room's newest number.
        after: Query<Option<Seq>>,
        /// Half of the page from below this number, half from this number on. At most the room's newest number.
        around: Query<Option<Seq>>,
        /// The `nextCursor` of the previous page.
        cursor: Query<Option<PageCursor<Seq>>>,
        /// 1 to 200. Default: 50.
        limit: Query<Option<u32>>,
    ) -> Result<Found<MessagePage>, Problem> {
        let limit = check_limit(limit.0)?;
        let direction = Direction::of(before.0, after.0, around.0)?;
        let cursor = cursor.0.map(|cursor| cursor.0);
        let page = if direction == Direction::Newest && cursor.is_none() {
            newest(&edge, room.0, caller.user(), limit).await?
        } else {
            let (room, _) = access::member(&edge, room.0, caller.user()).await?;
            direction.check(room.head)?;
            let direction = direction.continued(cursor, room.head)?;
            let page = page::read(&*edge.reads, room.id, room.head, direction, limit).await?;
            page.shared()
        };
        let json = page.for_reader(&edge.batched.reacted, caller.user());
        Ok(Found::Ok(RawJson::of_bytes(json.await?)))
    }

    /// Send a message
    ///
    /// For members who are not muted. The response is sent once the message is durably enqueued or, with `wait=stored`,
    /// once it is stored. A reply (`replyTo`) always waits for the worker, which checks that the referenced message
    /// exists; a deleted message can be replied to. A repeat with the same `clientMsgId` refers to the same message and
    /// gets the same `id`; with another body, `replyTo` or metadata it is a `conflict`, whose `id` is that of the first
    /// message. Another edge may notice this only after it has answered 202: with `wait=stored` the answer is always
    /// 409.
    #[oai(
        path = "/:room/messages",
        method = "post",
        operation_id = "sendMessage"
    )]
    async fn send(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        /// `stored`: respond with the stored message, if it is stored within `edge.wait`; otherwise with 202.
        wait: Query<Option<Wait>>,
        /// The default for `clientMsgId`. 1 to 128 visible ASCII characters.
        #[oai(name = "Idempotency-Key")]
        key: Header<Option<String>>,
        body: Body<NewMessage>,
    ) -> Result<Sent, Problem> {
        let (room, user, Body(new)) = (room.0, caller.user(), body);
        let client_msg_id = new
            .client_msg_id
            .or_else(|| key.0.clone())
            .unwrap_or_else(|| model::new_id().to_string());
        let (metadata, metadata_checked) = match new.metadata.map(ClientMetadata::check).transpose()
        {
            Ok(metadata) => (metadata, Ok(())),
            Err(error) => (None, Err(error)),
        };
        fields::all([
            protocol::check_body(&new.body, edge.config.edge.max_body_bytes),
            fields::idempotency_key(key.as_deref()),
            protocol::check_client_msg_id(&client_msg_id),
            metadata_checked,
        ])?;
        access::check_early(&edge, room, user, Need::Voice).await?;

        let id = model::message_id(room, user, &client_msg_id);
        let accepted = Accepted::new(id, &client_msg_id);
        let replies = new.reply_to.is_some();
        let command = Command::Room(
            room,
            RoomCommand::Send(Send {
                id,
                client_msg_id,
                body: new.body,
                reply_to: new.reply_to,
                metadata,
            }),
        );
        // Only the worker knows whether the message replied to exists (it may still be queued), and a client without a
        // socket would not receive its refusal. Such a send therefore waits for the worker.
        if wait.0.is_none() && !replies {
            edge.submit.accept_send(user, command).await?;
            return Ok(Sent::Accepted(RawJson::of(&accepted)));
        }
        Ok(match edge.submit.call(user, command).await? {
            SubmitResult::Done(message) if wait.0.is_some() => {
                let reacted = &edge.batched.reacted;
                let message = reactions::answer(reacted, user, shown(message)?).await;
                Sent::Stored(RawJson::of_raw(message))
            }
            SubmitResult::Done(_) | SubmitResult::Accepted => {
                Sent::Accepted(RawJson::of(&accepted))
            }
        })
    }

    /// Get a message
    ///
    /// For members. A deleted message is returned with an empty body and `deletedAt`.
    #[oai(
        path = "/:room/messages/:id",
        method = "get",
        operation_id = "getMessage"
    )]
    async fn get(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        id: Path<MessageId>,
    ) -> Result<Found<Message>, Problem> {
        let (room, _) = access::member(&edge, room.0, caller.user()).await?;
        let message = edge.reads.message(room.id, id.0).await?;
        // Hide messages above the head at which the membership was checked: it may have ended before they were stored.
        let message = message.filter(|message| message.seq <= room.head);
        let message = message.ok_or_else(|| Error::not_found("message"))?;
        let message = protocol::raw(&message);
        let message = reactions::answer(&edge.batched.reacted, caller.user(), message);
        Ok(Found::Ok(RawJson::of_raw(message.await)))
    }

    /// Edit a message
    ///
    /// For its sender. Members whom the new body mentions and the old one did not are notified as by a new message, if
    /// they were not notified of this message already.
    #[oai(
        path = "/:room/messages/:id",
        method = "patch",
        operation_id = "editMessage"
    )]
    async fn edit(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        id: Path<MessageId>,
        body: Body<MessagePatch>,
    ) -> Result<Changed<Message>, Problem> {
        let Body(MessagePatch { body }) = body;
        protocol::check_body(&body, edge.config.edge.max_body_bytes)?;
        let write = Write {
            edge: &edge,
            user: caller.user(),
            room: room.0,
            need: Need::Voice,
        };
        let command = RoomCommand::Edit {
            message: id.0,
            body,
        };
        Ok(write.change_message(id.0, command).await?)
    }

    /// Delete a message
    ///
    /// For its sender, admins and the owner. The message keeps its `seq`; its body, metadata and reactions are erased.
    /// Replies to it stay and keep their `replyTo`; the message there has an empty body and `deletedAt`.
    #[oai(
        path = "/:room/messages/:id",
        method = "delete",
        operation_id = "deleteMessage"
    )]
    async fn delete(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        id: Path<MessageId>,
    ) -> Result<Changed<Message>, Problem> {
        let write = Write {
            edge: &edge,
            user: caller.user(),
            room: room.0,
            need: Need::Role(Role::Member),
        };
        let command = RoomCommand::Delete { message: id.0 };
        Ok(write.change_message(id.0, command).await?)
    }

    /// Set the read position
    ///
    /// The position only moves forward; a lower number has no effect.
    #[oai(path = "/:room/read", method = "put", operation_id = "markRead")]
    async fn mark_read(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        body: Body<ReadMark>,
    ) -> Result<Changed<MemberView>, Problem> {
        let seq = body.0.seq;
        if seq < 0 {
            return Err(Error::field("seq", "must be 0 or more").into());
        }
        let write = Write {
            edge: &edge,
            user: caller.user(),
            room: room.0,
            need: Need::Role(Role::Member),
        };
        Ok(write.change(room.0, RoomCommand::MarkRead { seq }).await?)
    }
}
