//! Rows of `messages`.

use sqlx::types::Json;

use crate::{
    model::{Message, MessageId, Metadata, Reaction, StoredReaction},
    store::{
        accounts::user,
        sql::{Dialect, Ids, Record, Row},
    },
};

/// The columns of a [`Message`], of `messages m` and `users u`.
macro_rules! message_columns {
    () => {
        "m.id, m.room, m.seq, m.change_seq, m.sender, coalesce(u.username, '') AS username, \
         coalesce(u.display_name, '') AS display_name, m.body, m.client_msg_id, m.reply_to, \
         m.mentions, m.reactions, m.metadata, m.created_at, m.edited_at, m.deleted_at"
    };
}

pub(in crate::store) use message_columns;

impl Record for Message {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let mentions: Option<Ids> = row.get("mentions")?;
        let reactions: Option<Json<Vec<StoredReaction>>> = row.get("reactions")?;
        let reactions = reactions.map_or(Vec::new(), |json| json.0);
        let metadata: Option<String> = row.get("metadata")?;
        Ok(Message {
            id: row.get("id")?,
            room: row.get("room")?,
            seq: row.get("seq")?,
            change_seq: row.get("change_seq")?,
            sender: user(row, "sender")?,
            body: row.get("body")?,
            client_msg_id: row.get("client_msg_id")?,
            reply_to: row.get("reply_to")?,
            mentions: mentions.map(|ids| ids.0).unwrap_or_default(),
            reactions: reactions.into_iter().map(Reaction::from).collect(),
            metadata: metadata.map(Metadata::stored),
            created_at: row.get("created_at")?,
            edited_at: row.get("edited_at")?,
            deleted_at: row.get("deleted_at")?,
        })
    }
}

/// A message's columns of a left join, null where there is no message.
impl Record for Option<Message> {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let id: Option<MessageId> = row.get("id")?;
        id.map(|_| Message::read(row)).transpose()
    }
}
