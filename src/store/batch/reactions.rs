//! The reactions of a batch: who has given one, and who gives or removes one.

use super::{Changes, Facts, Scope, changes::GivenReaction, postgres, scope::ReactionKey, sqlite};
use crate::{
    error::Result,
    model::{MessageId, REACTION_USERS, UserId},
    store::sql::{Column, Dialect, Kind, ListSql, Record, Row, Session},
};

const MESSAGE: Column = Column("message", Kind::Id);
const USER: Column = Column("user_id", Kind::Id);
const EMOJI: Column = Column("emoji", Kind::Text);

static REACTED: ListSql<3> = ListSql::new(
    [MESSAGE, USER, EMOJI],
    "SELECT r.message, r.user_id, r.emoji FROM {rows} {join} reactions r \
         ON r.message = n.message AND r.user_id = n.user_id AND r.emoji = n.emoji",
);

/// The first users of a reaction; the parameter after the list is how many.
static REACTORS: ListSql<2> = ListSql::each([MESSAGE, EMOJI], postgres::REACTORS, sqlite::REACTORS);

/// A row of [`REACTED`] or [`REACTORS`].
struct Given(ReactionKey, UserId);

impl Record for Given {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let key = (row.get("message")?, row.get("emoji")?);
        Ok(Given(key, row.get("user_id")?))
    }
}

/// Whether the actors have given their reactions, and the first users of those that are removed. Never all users.
pub(super) async fn facts<S: Session>(
    session: &mut S,
    scope: &Scope,
    facts: &mut Facts,
) -> Result<()> {
    if scope.reactions.is_empty() {
        return Ok(());
    }
    let asked: Vec<(&ReactionKey, UserId)> = scope
        .reactions
        .iter()
        .flat_map(|(key, asked)| asked.users.iter().map(move |user| (key, *user)))
        .collect();
    let statement = REACTED.list(asked, |(key, user)| {
        [key.0.into(), user.into(), key.1.as_str().into()]
    });
    let given: Vec<Given> = session.all(statement).await?;
    facts.reacted = given.into_iter().map(|given| (given.0, given.1)).collect();

    let removed = scope.reactions.iter();
    let removed = removed.filter(|(_, asked)| asked.removals > 0);
    let removed: Vec<(&ReactionKey, usize)> =
        removed.map(|(key, asked)| (key, asked.removals)).collect();
    let Some(most) = removed.iter().map(|(_, removals)| *removals).max() else {
        return Ok(());
    };
    let first = (REACTION_USERS + most) as i64;
    let statement = REACTORS
        .list(&removed, |(key, _)| [key.0.into(), key.1.as_str().into()])
        .bind(first);
    for (key, _) in &removed {
        facts.reactors.insert((*key).clone(), Vec::new());
    }
    for Given(key, user) in session.all(statement).await? {
        facts.reactors.entry(key).or_default().push(user);
    }
    Ok(())
}

static CLEAR: ListSql<1> = ListSql::new(
    [Column("id", Kind::Id)],
    "DELETE FROM reactions WHERE message {among}",
);

static REMOVE: ListSql<3> = ListSql::new(
    [MESSAGE, USER, EMOJI],
    "DELETE FROM reactions WHERE (message, user_id, emoji) IN \
         (SELECT n.message, n.user_id, n.emoji FROM {rows})",
);

/// `WHERE true` keeps SQLite from reading `ON` as a join's.
static PUT: ListSql<4> = ListSql::new(
    [MESSAGE, USER, EMOJI, Column("seq", Kind::Number)],
    "INSERT INTO reactions (message, user_id, emoji, seq) \
     SELECT n.message, n.user_id, n.emoji, n.seq FROM {rows} WHERE true \
     ON CONFLICT (message, user_id, emoji) DO UPDATE SET seq = excluded.seq",
);

/// Writes the rows of reactions. Their summaries are in the messages.
pub(super) async fn write<S: Session>(session: &mut S, changes: &Changes) -> Result<()> {
    let Changes {
        reactions,
        removed_reactions,
        cleared_reactions,
        ..
    } = changes;
    if !cleared_reactions.is_empty() {
        let statement = CLEAR.list(cleared_reactions, |id: &MessageId| [(*id).into()]);
        session.execute(statement).await?;
    }
    if !removed_reactions.is_empty() {
        let statement = REMOVE.list(removed_reactions, |(key, user)| {
            [key.0.into(), (*user).into(), key.1.as_str().into()]
        });
        session.execute(statement).await?;
    }
    if !reactions.is_empty() {
        let statement = PUT.list(reactions, |given: &GivenReaction| {
            let (message, emoji) = &given.key;
            [
                (*message).into(),
                given.user.into(),
                emoji.as_str().into(),
                given.seq.into(),
            ]
        });
        session.execute(statement).await?;
    }
    Ok(())
}
