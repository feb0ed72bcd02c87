//! `/v1/rooms/{room}/messages`: history, sending, changing; reactions and the read mark.

use bytes::Bytes;
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
};
use crate::{
    edge::{Edge, submit::Answer},
    error::{Error, Result},
    job::{
        Command,
        room::{RoomCommand, Send},
    },
    model::{self, ClientMetadata, Message, MessageId, Role, RoomId, Seq, UserId},
    protocol::{self, Accepted, MemberView, check_limit},
};

pub struct MessagesApi;

/// A message to send.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "NewMessage")]
struct NewMessage {
    /// 1 byte to `edge.max_body_bytes` (8,000 unless the operator changed it), without U+0000.
    body: String,
    /// Names this message among those of its sender in this room, for ever: a repeat is the same message. At most
    /// 128 bytes. Left out, it is the `Idempotency-Key`, or else made up.
    client_msg_id: Option<String>,
    /// A message of the same room.
    reply_to: Option<MessageId>,
    metadata: Option<ClientMetadata>,
}

/// What changes.
#[derive(Deserialize, Object)]
#[oai(rename = "MessagePatch")]
struct MessagePatch {
    /// 1 byte to `edge.max_body_bytes`.
    body: String,
}

/// How far someone has read.
#[derive(Deserialize, Object)]
#[oai(rename = "ReadMark")]
struct ReadMark {
    /// The number of the newest event read; at most the room's newest.
    seq: Seq,
}

/// What to wait for.
#[derive(Enum)]
enum Wait {
    #[oai(rename = "stored")]
    Stored,
}

#[derive(ApiResponse)]
enum Sent {
    /// With `wait=stored`: the message as it is stored, with its `seq`.
    #[oai(status = 201)]
    Stored(RawJson<Message>),
    /// The queue holds it: it will be stored, whatever fails now.
    #[oai(status = 202)]
    Accepted(RawJson<Accepted>),
}

/// The newest page, from memory where it is read often.
async fn newest(edge: &Edge, room: RoomId, user: UserId, limit: u32) -> Result<Bytes> {
    if let Some(page) = edge.hub.page(room, user, limit) {
        return Ok(page);
    }
    let check = || async move { Ok(access::member(edge, room, user).await?.0.head) };
    let read = async |head| {
        let page = page::read(&*edge.reads, room, head, Direction::Newest, limit).await?;
        serde_json::to_vec(&page)
            .map(Bytes::from)
            .map_err(Error::internal)
    };
    edge.hub.newest_page(room, user, limit, check, read).await
}

#[OpenApi(prefix_path = "/v1/rooms", tag = "Tags::Messages")]
impl MessagesApi {
    /// Read messages
    ///
    /// For members. At most one of `before`, `after` and `around`; without any, the newest. Always ascending by
    /// `seq`. `nextCursor` continues in the direction that was asked for: it is the next `after` where `after` was
    /// given, the next `before` otherwise. Around a number, it is the next `after`; to go back, take the first
    /// item's `seq` as `before`.
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
        /// Messages below this number, the newest of them.
        before: Query<Option<Seq>>,
        /// Messages above this number, the oldest of them; at most the room's newest number.
        after: Query<Option<Seq>>,
        /// Half of the page below this number, half from it on; at most the room's newest number.
        around: Query<Option<Seq>>,
        /// 1 to 200; 50 where it is left out.
        limit: Query<Option<u32>>,
    ) -> Result<Found<MessagePage>, Problem> {
        let limit = check_limit(limit.0)?;
        let direction = Direction::of(before.0, after.0, around.0)?;
        if direction == Direction::Newest {
            let json = newest(&edge, room.0, caller.user(), limit).await?;
            return Ok(Found::Ok(RawJson::of_bytes(json)));
        }
        let (room, _) = access::member(&edge, room.0, caller.user()).await?;
        direction.check(room.head)?;
        Ok(Found::of(
            &page::read(&*edge.reads, room.id, room.head, direction, limit).await?,
        ))
    }

    /// Send a message
    ///
    /// Answers as soon as the queue holds it durably, or with `wait=stored` when it is stored. A repeat with the same
    /// `clientMsgId` is the same message and gets the same `id`.
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
        /// `stored`: answer with the stored message, if that takes no longer than `edge.wait`.
        wait: Query<Option<Wait>>,
        /// Counts as `clientMsgId` where the body has none. At most 128 visible ASCII characters.
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
        access::look(&edge, room, user, Need::Voice).await?;

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
        // Whether the message replied to exists only the worker knows for sure (it may be in the queue still), and
        // without a socket nobody would hear of its no: such a send waits for its answer.
        if wait.0.is_none() && !replies {
            edge.submit.accept(user, command, None).await?;
            return Ok(Sent::Accepted(RawJson::of(&accepted)));
        }
        Ok(match edge.submit.call(user, command).await? {
            Answer::Done(message) if wait.0.is_some() => {
                Sent::Stored(RawJson::of_raw(shown(message)?))
            }
            Answer::Done(_) | Answer::Accepted => Sent::Accepted(RawJson::of(&accepted)),
        })
    }

    /// See a message
    ///
    /// For members. A deleted message is there, with an empty body and `deletedAt`.
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
        // Nothing that is newer than the right to read it.
        let message = message.filter(|message| message.seq <= room.head);
        let message = message.ok_or_else(|| Error::not_found("message"))?;
        Ok(Found::of(&message))
    }

    /// Edit a message
    ///
    /// For its sender.
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
        Ok(write.change(id.0, command).await?)
    }

    /// Delete a message
    ///
    /// For its sender, admins and the owner. Its place in the room stays, its body, metadata and reactions go.
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
        Ok(write.change(id.0, command).await?)
    }

    /// React to a message
    ///
    /// A message takes at most 50 different emojis.
    #[oai(
        path = "/:room/messages/:id/reactions/:emoji",
        method = "put",
        operation_id = "addReaction"
    )]
    async fn react(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        id: Path<MessageId>,
        /// 1 to 64 bytes of UTF-8, percent-encoded.
        emoji: Path<String>,
    ) -> Result<Changed<Message>, Problem> {
        Ok(reaction(&edge, &caller, room.0, id.0, emoji.0, true).await?)
    }

    /// Take a reaction back
    #[oai(
        path = "/:room/messages/:id/reactions/:emoji",
        method = "delete",
        operation_id = "removeReaction"
    )]
    async fn unreact(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        room: Path<RoomId>,
        id: Path<MessageId>,
        /// 1 to 64 bytes of UTF-8, percent-encoded.
        emoji: Path<String>,
    ) -> Result<Changed<Message>, Problem> {
        Ok(reaction(&edge, &caller, room.0, id.0, emoji.0, false).await?)
    }

    /// Mark as read
    ///
    /// The mark only moves forward.
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

async fn reaction(
    edge: &crate::edge::Edge,
    caller: &Caller,
    room: RoomId,
    message: MessageId,
    emoji: String,
    on: bool,
) -> Result<Changed<Message>> {
    protocol::check_reaction(&emoji, on)?;
    let write = Write {
        edge,
        user: caller.user(),
        room,
        need: Need::Voice,
    };
    write
        .change(message, RoomCommand::React { message, emoji, on })
        .await
}
