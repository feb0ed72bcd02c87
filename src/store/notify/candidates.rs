//! The users whom a message may concern.
//!
//! There are three causes, each a walk along an index: the members of a direct room, the users a message names, and
//! those who set the room to "all". Users who have left since are included, so that the delivery log can say why they
//! were not notified. A user is a candidate for a message once, with the strongest cause.

use super::{Candidate, postgres, record::address, sqlite};
use crate::{
    error::Result,
    model::{
        MessageId,
        notify::{ChannelKind, Preferences},
    },
    store::sql::{Access, Column, Database, Dialect, Kind, ListSql, Record, Row, Session},
};

static CANDIDATES: ListSql<1> = ListSql::each(
    [Column("id", Kind::Id)],
    postgres::CANDIDATES,
    sqlite::CANDIDATES,
);

impl Record for Candidate {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let settings: Option<String> = row.get("settings")?;
        Ok(Candidate {
            message: row.get("message")?,
            room: row.get("room")?,
            seq: row.get("seq")?,
            deleted: row.get("deleted")?,
            user: row.get("user_id")?,
            cause: row.get("cause")?,
            read: row.get("is_read")?,
            gone: row.get("gone")?,
            mode: row.get("mode")?,
            preferences: Preferences::parse(settings.as_deref()),
            email: address(row, ChannelKind::Email, "email")?,
            phone: address(row, ChannelKind::Sms, "phone")?,
        })
    }
}

pub(super) async fn candidates<D: Database>(
    database: &D,
    messages: &[MessageId],
) -> Result<Vec<Candidate>> {
    let mut session = database.open(Access::Read).await?;
    let statement = CANDIDATES.list(messages, |message| [(*message).into()]);
    session.all(statement).await
}
