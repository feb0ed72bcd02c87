//! The statements of [`PreferenceReads`] and [`PreferenceWrites`].

use async_trait::async_trait;

use super::{NotifySettings, PreferenceReads, PreferenceWrites, record::address};
use crate::{
    error::{Error, Result},
    model::{
        RoomId, UserId,
        address::Address,
        notify::{ChannelKind, Preferences, RoomMode},
    },
    store::sql::{Access, Database, Dialect, Record, Row, Session, sql},
};

const SETTINGS: &str = "SELECT settings FROM notify_settings WHERE user_id = $1";

const ROOMS: &str = "SELECT room, mode FROM notify_rooms WHERE user_id = $1 ORDER BY room";

/// An address counts as verified while it is the account's. A channel without an address in `users` has no row.
const VERIFIED: &str = "SELECT v.channel, v.address FROM verified_addresses v \
     JOIN users u ON u.id = v.user_id \
     WHERE v.user_id = $1 AND lower(v.address) = \
         lower(CASE v.channel WHEN 'email' THEN u.email WHEN 'sms' THEN u.phone END) \
     ORDER BY v.channel";

const DELETED: &str = "SELECT deleted_at IS NOT NULL AS deleted FROM users WHERE id = $1";

/// Nothing is stored for a deleted account.
const PUT_SETTINGS: &str = "INSERT INTO notify_settings (user_id, settings) \
     SELECT id, $2 FROM users WHERE id = $1 AND deleted_at IS NULL \
     ON CONFLICT (user_id) DO UPDATE SET settings = excluded.settings";

const CLEAR_ROOMS: &str = "DELETE FROM notify_rooms WHERE user_id = $1";

const PUT_ROOM: &str = "INSERT INTO notify_rooms (user_id, room, mode) VALUES ($1, $2, $3)";

struct PreferencesRow(Preferences);

impl Record for PreferencesRow {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let settings: String = row.get("settings")?;
        Ok(PreferencesRow(Preferences::parse(Some(&settings))))
    }
}

struct RoomSetting(RoomId, RoomMode);

impl Record for RoomSetting {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(RoomSetting(row.get("room")?, row.get("mode")?))
    }
}

/// A verified address; `None` if it cannot be parsed, since nothing is sent to it.
struct Verified(Option<Address>);

impl Record for Verified {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        let channel: ChannelKind = row.get("channel")?;
        address(row, channel, "address").map(Verified)
    }
}

struct Deleted(bool);

impl Record for Deleted {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        row.get("deleted").map(Deleted)
    }
}

#[async_trait]
impl<D: Database> PreferenceReads for D {
    async fn notify_settings(&self, user: UserId) -> Result<NotifySettings> {
        let mut session = self.open(Access::Read).await?;
        let settings: Option<PreferencesRow> = session.optional(sql(SETTINGS).bind(user)).await?;
        let rooms: Vec<RoomSetting> = session.all(sql(ROOMS).bind(user)).await?;
        let verified: Vec<Verified> = session.all(sql(VERIFIED).bind(user)).await?;
        let deleted: Option<Deleted> = session.optional(sql(DELETED).bind(user)).await?;
        Ok(NotifySettings {
            preferences: settings.map(|settings| settings.0).unwrap_or_default(),
            rooms: rooms.into_iter().map(|room| (room.0, room.1)).collect(),
            verified: verified
                .into_iter()
                .filter_map(|address| address.0)
                .collect(),
            gone: deleted.is_none_or(|deleted| deleted.0),
        })
    }
}

#[async_trait]
impl<D: Database> PreferenceWrites for D {
    async fn put_notify_settings(
        &self,
        user: UserId,
        preferences: &Preferences,
        rooms: &[(RoomId, RoomMode)],
    ) -> Result<()> {
        let settings = serde_json::to_string(preferences).map_err(Error::internal)?;
        let mut session = self.open(Access::Background).await?;
        let put = sql(PUT_SETTINGS).bind(user).bind(settings.as_str());
        if session.execute(put).await? == 0 {
            return Ok(());
        }
        session.execute(sql(CLEAR_ROOMS).bind(user)).await?;
        for (room, mode) in rooms {
            let put = sql(PUT_ROOM).bind(user).bind(*room).bind(*mode);
            session.execute(put).await?;
        }
        session.commit().await
    }
}
