//! Repairs the summary of reactions in the rows of messages. Workers of the version that listed every user, which may
//! still run during an update, write lists without counts.

use sqlx::types::Json;

use super::{postgres, sqlite};
use crate::{
    error::Result,
    model::{MessageId, StoredReaction},
    store::sql::{Column, Dialect, Kind, ListSql, Record, Row, Session},
};

/// Stores the users of lists without a count.
static ADOPT: ListSql<1> = ListSql::each(
    [Column("id", Kind::Id)],
    postgres::ADOPT_REACTIONS,
    sqlite::ADOPT_REACTIONS,
);

static SUMMARISE: ListSql<1> = ListSql::each(
    [Column("id", Kind::Id)],
    postgres::SUMMARISE_REACTIONS,
    sqlite::SUMMARISE_REACTIONS,
);

/// Whether a message's row lists all users of a reaction.
pub(in crate::store) struct Unsummarised(pub bool);

impl Record for Unsummarised {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let reactions: Option<Json<Vec<StoredReaction>>> = row.get("reactions")?;
        let mut reactions = reactions.iter().flat_map(|json| &json.0);
        Ok(Unsummarised(reactions.any(StoredReaction::lists_all)))
    }
}

/// Stores the users that the rows of these messages list, and counts them. The messages' rooms are locked.
pub(in crate::store) async fn summarise<S: Session>(
    session: &mut S,
    messages: &[MessageId],
) -> Result<()> {
    for statement in [&ADOPT, &SUMMARISE] {
        let statement = statement.list(messages, |id| [(*id).into()]);
        session.execute(statement).await?;
    }
    Ok(())
}
