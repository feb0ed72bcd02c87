//! Column types, for both databases: how values of the model are stored.

use chrono::{DateTime, Utc};
use sqlx::{
    Decode, Encode, Postgres, Sqlite, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef},
    sqlite::{SqliteArgumentsBuffer, SqliteTypeInfo, SqliteValueRef},
};
use uuid::Uuid;

use crate::model::{
    EventKind, Role, RoomKind, Timestamp,
    notify::{Cause, ChannelKind, DeliveryState, RoomMode},
};

/// An enumeration of the model is stored as its text. A text that is none of its variants is an error.
macro_rules! text_columns {
    ($($type:ty),+ $(,)?) => {$(
        impl<D: sqlx::Database> Type<D> for $type
        where
            str: Type<D>,
        {
            fn type_info() -> D::TypeInfo {
                <str as Type<D>>::type_info()
            }

            fn compatible(of: &D::TypeInfo) -> bool {
                <str as Type<D>>::compatible(of)
            }
        }

        impl<'q, D: sqlx::Database> Encode<'q, D> for $type
        where
            &'q str: Encode<'q, D>,
        {
            fn encode_by_ref(&self, buffer: &mut D::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
                Encode::<D>::encode(self.as_str(), buffer)
            }
        }

        impl<'r, D: sqlx::Database> Decode<'r, D> for $type
        where
            &'r str: Decode<'r, D>,
        {
            fn decode(value: D::ValueRef<'r>) -> Result<Self, BoxDynError> {
                let text = <&str as Decode<D>>::decode(value)?;
                Self::parse(text).ok_or_else(|| {
                    format!("not a {}: {text}", stringify!($type)).into()
                })
            }
        }
    )+};
}

text_columns!(
    RoomKind,
    Role,
    EventKind,
    ChannelKind,
    DeliveryState,
    RoomMode,
    Cause
);

/// PostgreSQL has a `timestamptz`, SQLite milliseconds since 1970.
impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }

    fn compatible(of: &PgTypeInfo) -> bool {
        <DateTime<Utc> as Type<Postgres>>::compatible(of)
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.datetime(), buffer)
    }
}

impl Decode<'_, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        <DateTime<Utc> as Decode<Postgres>>::decode(value).map(Timestamp::from)
    }
}

impl Type<Sqlite> for Timestamp {
    fn type_info() -> SqliteTypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }

    fn compatible(of: &SqliteTypeInfo) -> bool {
        <i64 as Type<Sqlite>>::compatible(of)
    }
}

impl Encode<'_, Sqlite> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Sqlite>::encode(self.millis(), buffer)
    }
}

impl Decode<'_, Sqlite> for Timestamp {
    fn decode(value: SqliteValueRef<'_>) -> Result<Self, BoxDynError> {
        <i64 as Decode<Sqlite>>::decode(value).map(Timestamp::from_millis)
    }
}

/// A list of ids: `uuid[]` in PostgreSQL, a JSON array in SQLite.
pub struct Ids(pub Vec<Uuid>);

impl Type<Postgres> for Ids {
    fn type_info() -> PgTypeInfo {
        <Vec<Uuid> as Type<Postgres>>::type_info()
    }
}

impl Decode<'_, Postgres> for Ids {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        <Vec<Uuid> as Decode<Postgres>>::decode(value).map(Ids)
    }
}

impl Type<Sqlite> for Ids {
    fn type_info() -> SqliteTypeInfo {
        <str as Type<Sqlite>>::type_info()
    }
}

impl Decode<'_, Sqlite> for Ids {
    fn decode(value: SqliteValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Ids(serde_json::from_str(
            <&str as Decode<Sqlite>>::decode(value)?,
        )?))
    }
}
