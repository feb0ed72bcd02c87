//! What an edge may ask. Only the readers are used: no question waits for a writer.

use async_trait::async_trait;
use sqlx::Row;
use uuid::Uuid;

use super::{
    Store, json,
    rows::{self, account_columns, member_columns, message_columns, room_columns},
};
use crate::{
    error::{Error, Result},
    model::{
        Account, Credentials, FeedEvent, LoginId, Member, Message, MessageId, Room, RoomId, Seq,
        Timestamp, User, UserId,
    },
    sqlite::failure,
    store::{Login, MAX_EVENTS, Reads, StoredEvent, Window, ascending, feed_events},
};

/// Runs one query on a reader: `fetch!(store, fetch_all, SQL, bind, bind …)`.
macro_rules! fetch {
    ($store:expr, $how:ident, $sql:expr $(, $bind:expr)* $(,)?) => {{
        let query = sqlx::query($sql)$(.bind($bind))*;
        query.$how($store.database.readers()).await.map_err(failure)?
    }};
}

#[async_trait]
impl Reads for Store {
    async fn credentials(&self, username: &str) -> Result<Option<Credentials>> {
        const SQL: &str = concat!(
            "SELECT ",
            account_columns!(),
            " FROM users u WHERE u.username_key = ?1 AND u.deleted_at IS NULL"
        );
        let row = fetch!(self, fetch_optional, SQL, username.to_lowercase());
        row.map(|row| {
            Ok(Credentials {
                account: rows::account(&row)?,
                password_hash: row.try_get(6)?,
            })
        })
        .transpose()
        .map_err(failure)
    }

    async fn account(&self, user: UserId) -> Result<Option<Account>> {
        const SQL: &str = concat!(
            "SELECT ",
            account_columns!(),
            " FROM users u WHERE u.id = ?1 AND u.deleted_at IS NULL"
        );
        let row = fetch!(self, fetch_optional, SQL, user);
        row.as_ref().map(rows::account).transpose().map_err(failure)
    }

    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>> {
        const SQL: &str = "SELECT id, username, display_name FROM users \
             WHERE id IN (SELECT unhex(value) FROM jsonb_each(?1))";
        let found = fetch!(self, fetch_all, SQL, json(ids.iter().map(Uuid::as_simple))?);
        rows::all(&found, |row| rows::user(row, 0))
    }

    async fn login(&self, login: LoginId) -> Result<Option<Login>> {
        const SQL: &str = "SELECT id, user_id, token_hash, expires_at FROM logins \
             WHERE id = ?1 AND NOT revoked AND expires_at > ?2";
        let now = Timestamp::now().millis();
        let row = fetch!(self, fetch_optional, SQL, login, now);
        row.map(|row| {
            Ok(Login {
                id: row.try_get(0)?,
                user: row.try_get(1)?,
                token_hash: row.try_get(2)?,
                expires_at: rows::time(&row, 3)?,
            })
        })
        .transpose()
        .map_err(failure)
    }

    async fn revoked(&self, logins: &[LoginId]) -> Result<Vec<LoginId>> {
        const SQL: &str = "SELECT id FROM logins \
             WHERE id IN (SELECT unhex(value) FROM jsonb_each(?1)) AND revoked";
        let ids = json(logins.iter().map(Uuid::as_simple))?;
        let found = fetch!(self, fetch_all, SQL, ids);
        rows::all(&found, |row| row.try_get(0))
    }

    async fn room(&self, room: RoomId) -> Result<Option<Room>> {
        const SQL: &str = concat!(
            "SELECT ",
            room_columns!(),
            " FROM rooms r WHERE r.id = ?1 AND NOT r.deleted"
        );
        let row = fetch!(self, fetch_optional, SQL, room);
        row.map(|row| rows::room(&row, 0))
            .transpose()
            .map_err(failure)
    }

    async fn membership(
        &self,
        room: RoomId,
        user: UserId,
    ) -> Result<Option<(Room, Option<Member>)>> {
        const SQL: &str = concat!(
            "SELECT ",
            room_columns!(),
            ", ",
            member_columns!(),
            " FROM rooms r \
              LEFT JOIN members m ON m.room = r.id AND m.user_id = ?2 \
              LEFT JOIN users u ON u.id = m.user_id \
              WHERE r.id = ?1 AND NOT r.deleted"
        );
        let row = fetch!(self, fetch_optional, SQL, room, user);
        row.map(|row| {
            let member = rows::optional_member(&row, 7)?;
            Ok((rows::room(&row, 0)?, member))
        })
        .transpose()
        .map_err(failure)
    }

    async fn are_members(&self, who: &[(RoomId, UserId)]) -> Result<Vec<(RoomId, UserId)>> {
        // CROSS JOIN keeps the list outermost.
        const SQL: &str = "SELECT m.room, m.user_id FROM jsonb_each(?1) p \
             CROSS JOIN rooms r ON r.id = unhex(p.value ->> 0) AND NOT r.deleted \
             CROSS JOIN members m ON m.room = r.id AND m.user_id = unhex(p.value ->> 1)";
        let pairs = who
            .iter()
            .map(|(room, user)| (room.simple(), user.simple()));
        let found = fetch!(self, fetch_all, SQL, json(pairs)?);
        rows::all(&found, |row| Ok((row.try_get(0)?, row.try_get(1)?)))
    }

    async fn members(
        &self,
        room: RoomId,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<Member>> {
        // No id is below the nil UUID, and none is it.
        const SQL: &str = concat!(
            "SELECT ",
            member_columns!(),
            " FROM members m LEFT JOIN users u ON u.id = m.user_id \
              WHERE m.room = ?1 AND m.user_id > ?2 ORDER BY m.user_id LIMIT ?3"
        );
        let after = after.unwrap_or(Uuid::nil());
        let found = fetch!(self, fetch_all, SQL, room, after, i64::from(limit));
        rows::all(&found, |row| rows::member(row, 0))
    }

    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u32,
    ) -> Result<Vec<(Room, Member)>> {
        const SQL: &str = concat!(
            "SELECT ",
            room_columns!(),
            ", ",
            member_columns!(),
            " FROM members m JOIN rooms r ON r.id = m.room \
              LEFT JOIN users u ON u.id = m.user_id \
              WHERE m.user_id = ?1 AND m.room > ?2 AND NOT r.deleted \
              ORDER BY m.room LIMIT ?3"
        );
        let after = after.unwrap_or(Uuid::nil());
        let found = fetch!(self, fetch_all, SQL, user, after, i64::from(limit));
        rows::all(&found, |row| {
            Ok((rows::room(row, 0)?, rows::member(row, 7)?))
        })
    }

    async fn public_rooms(&self, after: Option<RoomId>, limit: u32) -> Result<Vec<Room>> {
        const SQL: &str = concat!(
            "SELECT ",
            room_columns!(),
            " FROM rooms r WHERE r.kind = 'public' AND NOT r.deleted AND r.id > ?1 \
              ORDER BY r.id LIMIT ?2"
        );
        let after = after.unwrap_or(Uuid::nil());
        let found = fetch!(self, fetch_all, SQL, after, i64::from(limit));
        rows::all(&found, |row| rows::room(row, 0))
    }

    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>> {
        const SQL: &str = "SELECT id, head FROM rooms \
             WHERE id IN (SELECT unhex(value) FROM jsonb_each(?1)) AND NOT deleted";
        let found = fetch!(
            self,
            fetch_all,
            SQL,
            json(rooms.iter().map(Uuid::as_simple))?
        );
        rows::all(&found, |row| Ok((row.try_get(0)?, row.try_get(1)?)))
    }

    async fn events(&self, room: RoomId, after: Seq, upto: Seq) -> Result<Vec<FeedEvent>> {
        // One statement, so one snapshot: read apart, a commit between the two would look like a hole.
        const SQL: &str = concat!(
            "SELECT m.seq, 'newMessage', NULL, ",
            message_columns!(),
            " FROM messages m LEFT JOIN users u ON u.id = m.sender \
              WHERE m.room = ?1 AND m.seq > ?2 AND m.seq <= ?3 \
             UNION ALL SELECT f.seq, f.kind, f.data, ",
            message_columns!(),
            " FROM feed f LEFT JOIN messages m ON m.id = f.message \
              LEFT JOIN users u ON u.id = m.sender \
              WHERE f.room = ?1 AND f.seq > ?2 AND f.seq <= ?3 \
              ORDER BY 1"
        );
        let upto = upto.min(after.saturating_add(MAX_EVENTS));
        let found = fetch!(self, fetch_all, SQL, room, after, upto);
        let stored = rows::all(&found, |row| {
            let message = match row.try_get::<Option<Uuid>, _>(3)? {
                Some(_) => Some(rows::message(row, 3)?),
                None => None,
            };
            Ok(StoredEvent {
                seq: row.try_get(0)?,
                kind: row.try_get(1)?,
                data: row.try_get(2)?,
                message,
            })
        })?;
        feed_events(room, stored)
    }

    async fn messages(&self, room: RoomId, window: Window, limit: u32) -> Result<Vec<Message>> {
        const BELOW: &str = concat!(
            "SELECT ",
            message_columns!(),
            " FROM messages m LEFT JOIN users u ON u.id = m.sender \
              WHERE m.room = ?1 AND m.seq < ?2 ORDER BY m.seq DESC LIMIT ?3"
        );
        const FROM: &str = concat!(
            "SELECT ",
            message_columns!(),
            " FROM messages m LEFT JOIN users u ON u.id = m.sender \
              WHERE m.room = ?1 AND m.seq >= ?2 ORDER BY m.seq LIMIT ?3"
        );
        const AROUND: &str = concat!(
            "SELECT * FROM (SELECT ",
            message_columns!(),
            " FROM messages m LEFT JOIN users u ON u.id = m.sender \
              WHERE m.room = ?1 AND m.seq < ?2 ORDER BY m.seq DESC LIMIT ?3) \
             UNION ALL SELECT * FROM (SELECT ",
            message_columns!(),
            " FROM messages m LEFT JOIN users u ON u.id = m.sender \
              WHERE m.room = ?1 AND m.seq >= ?2 ORDER BY m.seq LIMIT ?4)"
        );
        let limit = i64::from(limit);
        let found = match window {
            Window::Latest => fetch!(self, fetch_all, BELOW, room, Seq::MAX, limit),
            Window::Before(seq) => fetch!(self, fetch_all, BELOW, room, seq, limit),
            Window::After(seq) => {
                fetch!(self, fetch_all, FROM, room, seq.saturating_add(1), limit)
            }
            Window::Around(seq) => {
                let below = limit / 2;
                fetch!(self, fetch_all, AROUND, room, seq, below, limit - below)
            }
        };
        rows::all(&found, |row| rows::message(row, 0)).map(ascending)
    }

    async fn message(&self, room: RoomId, id: MessageId) -> Result<Option<Message>> {
        const SQL: &str = concat!(
            "SELECT ",
            message_columns!(),
            " FROM messages m LEFT JOIN users u ON u.id = m.sender \
              WHERE m.id = ?2 AND m.room = ?1"
        );
        let row = fetch!(self, fetch_optional, SQL, room, id);
        row.map(|row| rows::message(&row, 0))
            .transpose()
            .map_err(failure)
    }

    async fn unread(&self, room: RoomId, read_seq: Seq) -> Result<u32> {
        const SQL: &str = "SELECT count(*) FROM \
             (SELECT 1 FROM messages WHERE room = ?1 AND seq > ?2 LIMIT 1000)";
        let row = fetch!(self, fetch_one, SQL, room, read_seq);
        let count: i64 = row.try_get(0).map_err(failure)?;
        u32::try_from(count).map_err(Error::internal)
    }

    async fn ping(&self) -> Result<()> {
        fetch!(self, fetch_one, "SELECT 1");
        Ok(())
    }
}
