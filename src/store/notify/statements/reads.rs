//! What edges may ask; see [`super`].

/// `$read` runs a future over a connection.
macro_rules! notify_reads {
    ($store:ty, $row:ty, $read:ident) => {
        const ENTRY: &str = "SELECT n.message, n.room, n.seq, n.user_id, n.channel, n.cause, n.at, \
                 n.state, n.reason, d.id, d.user_id, d.channel, d.at, d.version, d.record \
             FROM notifications n LEFT JOIN deliveries d ON d.id = n.delivery ";

        fn delivery(row: &$row, at: usize) -> sqlx::Result<Delivery> {
            Ok(Delivery {
                id: row.try_get(at)?,
                user: row.try_get(at + 1)?,
                channel: columns::word(row.try_get(at + 2)?, ChannelKind::parse)?,
                at: Timestamp::from_millis(row.try_get(at + 3)?),
                version: row.try_get(at + 4)?,
                record: columns::record(row.try_get(at + 5)?)?,
            })
        }

        fn entry(row: &$row) -> sqlx::Result<Entry> {
            let state: Option<&str> = row.try_get(7)?;
            let delivered: Option<Uuid> = row.try_get(9)?;
            Ok(Entry {
                message: row.try_get(0)?,
                room: row.try_get(1)?,
                seq: row.try_get(2)?,
                user: row.try_get(3)?,
                channel: ChannelKind::parse(row.try_get(4)?),
                cause: columns::word(row.try_get(5)?, Cause::parse)?,
                at: Timestamp::from_millis(row.try_get(6)?),
                decided: columns::decided(state, row.try_get(8)?)?,
                delivery: delivered.map(|_| delivery(row, 9)).transpose()?,
            })
        }

        #[async_trait]
        impl NotifyReads for $store {
            async fn notify_settings(&self, user: UserId) -> Result<NotifySettings> {
                $read!(self, connection, {
                    let settings: Option<String> =
                        sqlx::query_scalar("SELECT settings FROM notify_settings WHERE user_id = $1")
                            .bind(user)
                            .fetch_optional(&mut *connection)
                            .await?;
                    let rooms =
                        sqlx::query("SELECT room, mode FROM notify_rooms WHERE user_id = $1 ORDER BY room")
                            .bind(user)
                            .fetch_all(&mut *connection)
                            .await?;
                    let verified = sqlx::query(
                        "SELECT v.channel, v.address FROM verified_addresses v \
                         JOIN users u ON u.id = v.user_id \
                         WHERE v.user_id = $1 AND lower(v.address) = \
                             lower(CASE v.channel WHEN 'email' THEN u.email ELSE u.phone END) \
                         ORDER BY v.channel",
                    )
                    .bind(user)
                    .fetch_all(&mut *connection)
                    .await?;
                    let gone: Option<bool> =
                        sqlx::query_scalar("SELECT deleted_at IS NOT NULL FROM users WHERE id = $1")
                            .bind(user)
                            .fetch_optional(&mut *connection)
                            .await?;
                    Ok(NotifySettings {
                        gone: gone.unwrap_or(true),
                        preferences: Preferences::parse(settings.as_deref()),
                        rooms: rooms
                            .iter()
                            .map(|row| {
                                Ok((row.try_get(0)?, columns::word(row.try_get(1)?, RoomMode::parse)?))
                            })
                            .collect::<sqlx::Result<_>>()?,
                        verified: verified
                            .iter()
                            .map(|row| {
                                let channel = columns::word(row.try_get(0)?, ChannelKind::parse)?;
                                Ok(Address::parse(channel, row.try_get(1)?))
                            })
                            .filter_map(sqlx::Result::transpose)
                            .collect::<sqlx::Result<_>>()?,
                    })
                })
            }

            async fn delivery(&self, id: Uuid) -> Result<Option<Delivery>> {
                $read!(self, connection, {
                    let row = sqlx::query(
                        "SELECT id, user_id, channel, at, version, record FROM deliveries WHERE id = $1",
                    )
                    .bind(id)
                    .fetch_optional(&mut *connection)
                    .await?;
                    row.map(|row| delivery(&row, 0)).transpose()
                })
            }

            async fn told_of(&self, message: MessageId) -> Result<Vec<Entry>> {
                $read!(self, connection, {
                    let sql = format!("{ENTRY} WHERE n.message = $1 ORDER BY n.user_id, n.channel LIMIT 1000");
                    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
                        .bind(message)
                        .fetch_all(&mut *connection)
                        .await?;
                    rows.iter().map(entry).collect()
                })
            }

            async fn told_to(
                &self,
                user: UserId,
                before: Option<&Place>,
                limit: u32,
            ) -> Result<Vec<Entry>> {
                let (at, message, channel) = match before {
                    Some(place) => (place.at.millis(), place.message, place.channel.as_str()),
                    None => (i64::MAX, Uuid::max(), ""),
                };
                $read!(self, connection, {
                    let sql = format!(
                        "{ENTRY} WHERE n.user_id = $1 AND (n.at, n.message, n.channel) < ($2, $3, $4) \
                         ORDER BY n.at DESC, n.message DESC, n.channel DESC LIMIT $5"
                    );
                    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
                        .bind(user)
                        .bind(at)
                        .bind(message)
                        .bind(channel)
                        .bind(i64::from(limit))
                        .fetch_all(&mut *connection)
                        .await?;
                    rows.iter().map(entry).collect()
                })
            }

            async fn room_of(&self, message: MessageId) -> Result<Option<RoomId>> {
                $read!(self, connection, {
                    sqlx::query_scalar("SELECT room FROM messages WHERE id = $1")
                        .bind(message)
                        .fetch_optional(&mut *connection)
                        .await
                })
            }

            async fn suppressed(&self, address: &Address) -> Result<Option<String>> {
                $read!(self, connection, {
                    sqlx::query_scalar(
                        "SELECT reason FROM suppressions \
                         WHERE channel = $1 AND address IN ($2, $3) LIMIT 1",
                    )
                    .bind(address.channel().as_str())
                    .bind(address.key())
                    .bind(address.old_key())
                    .fetch_optional(&mut *connection)
                    .await
                })
            }
        }
    };
}

pub(crate) use notify_reads;
