//! Rows of `rooms`.

use crate::{
    model::Room,
    store::sql::{Dialect, Record, Row},
};

/// The columns of a [`Room`], of `rooms r`.
macro_rules! room_columns {
    () => {
        "r.id, r.kind, r.name, r.head, r.created_by, r.created_at, r.deleted"
    };
}

pub(in crate::store) use room_columns;

impl Record for Room {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(Room {
            id: row.get("id")?,
            kind: row.get("kind")?,
            name: row.get("name")?,
            head: row.get("head")?,
            created_by: row.get("created_by")?,
            created_at: row.get("created_at")?,
            deleted: row.get("deleted")?,
        })
    }
}
