//! Rows of `members`.

use crate::{
    model::{Member, Role, RoomId, UserId},
    store::{
        accounts::user,
        sql::{Dialect, Record, Row},
    },
};

/// The columns of a [`Member`], of `members m` and `users u`.
macro_rules! member_columns {
    () => {
        "m.room, m.user_id, coalesce(u.username, '') AS username, \
         coalesce(u.display_name, '') AS display_name, m.role, m.joined_at, m.read_seq, \
         m.muted_until"
    };
}

pub(in crate::store) use member_columns;

impl Record for Member {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(Member {
            room: row.get("room")?,
            user: user(row, "user_id")?,
            role: row.get("role")?,
            joined_at: row.get("joined_at")?,
            read_seq: row.get("read_seq")?,
            muted_until: row.get("muted_until")?,
        })
    }
}

/// A member's columns of a left join, null where there is no member.
impl Record for Option<Member> {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let role: Option<Role> = row.get("role")?;
        role.map(|_| Member::read(row)).transpose()
    }
}

/// A room and a user.
pub(in crate::store) struct MemberKey(pub RoomId, pub UserId);

impl Record for MemberKey {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(MemberKey(row.get("room")?, row.get("user_id")?))
    }
}
