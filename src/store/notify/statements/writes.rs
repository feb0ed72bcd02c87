//! What workers do; see [`super`]. Made beside `notify_reads`, whose functions it uses.

/// `$write` opens a transaction that may change something, runs a future over its connection, and commits.
macro_rules! notify_writes {
    ($store:ty, $row:ty, $read:ident, $write:ident, $failure:path, $candidates:expr, $bind_ids:expr) => {
        fn line(row: &$row) -> sqlx::Result<Line> {
            Ok(Line {
                message: row.try_get(0)?,
                room: row.try_get(1)?,
                seq: row.try_get(2)?,
                body: row.try_get(3)?,
                deleted: row.try_get(4)?,
                sender: row.try_get(5)?,
                room_name: row.try_get(6)?,
                direct: row.try_get(7)?,
                read: row.try_get(8)?,
                mode: row.try_get::<Option<&str>, _>(9)?.and_then(RoomMode::parse),
            })
        }

        fn candidate(row: &$row) -> sqlx::Result<Candidate> {
            Ok(Candidate {
                message: row.try_get(0)?,
                room: row.try_get(1)?,
                seq: row.try_get(2)?,
                deleted: row.try_get(3)?,
                user: row.try_get(4)?,
                cause: columns::word(row.try_get(5)?, Cause::parse)?,
                read: row.try_get(6)?,
                mode: row.try_get::<Option<&str>, _>(7)?.and_then(RoomMode::parse),
                preferences: Preferences::parse(row.try_get(8)?),
                email: columns::address(ChannelKind::Email, row.try_get(9)?),
                phone: columns::address(ChannelKind::Sms, row.try_get(10)?),
                gone: row.try_get(11)?,
            })
        }

        #[async_trait]
        impl NotifyWrites for $store {
            async fn put_notify_settings(
                &self,
                user: UserId,
                preferences: &Preferences,
                rooms: &[(RoomId, RoomMode)],
            ) -> Result<()> {
                let settings =
                    serde_json::to_string(preferences).map_err(crate::error::Error::internal)?;
                $write!(self, connection, {
                    let put = sqlx::query(
                        "INSERT INTO notify_settings (user_id, settings) \
                         SELECT id, $2 FROM users WHERE id = $1 AND deleted_at IS NULL \
                         ON CONFLICT (user_id) DO UPDATE SET settings = excluded.settings",
                    )
                    .bind(user)
                    .bind(&settings)
                    .execute(&mut *connection)
                    .await?;
                    if put.rows_affected() == 0 {
                        return Ok(());
                    }
                    sqlx::query("DELETE FROM notify_rooms WHERE user_id = $1")
                        .bind(user)
                        .execute(&mut *connection)
                        .await?;
                    for (room, mode) in rooms {
                        sqlx::query(
                            "INSERT INTO notify_rooms (user_id, room, mode) VALUES ($1, $2, $3)",
                        )
                        .bind(user)
                        .bind(room)
                        .bind(mode.as_str())
                        .execute(&mut *connection)
                        .await?;
                    }
                    Ok(())
                })
            }

            async fn put_code(&self, code: &NewCode) -> Result<()> {
                $write!(self, connection, {
                    sqlx::query(
                        "INSERT INTO verification_codes \
                             (user_id, channel, address, code_hash, expires_at, tries) \
                         SELECT id, $2, $3, $4, $5, 0 FROM users \
                             WHERE id = $1 AND deleted_at IS NULL \
                         ON CONFLICT (user_id, channel) DO UPDATE SET address = excluded.address, \
                             code_hash = excluded.code_hash, expires_at = excluded.expires_at, \
                             tries = 0",
                    )
                    .bind(code.user)
                    .bind(code.address.channel().as_str())
                    .bind(code.address.as_str())
                    .bind(&code.hash)
                    .bind(code.expires_at.millis())
                    .execute(&mut *connection)
                    .await
                    .map(drop)
                })
            }

            async fn try_code(
                &self,
                user: UserId,
                channel: ChannelKind,
                hash: &[u8],
                now: Timestamp,
            ) -> Result<CodeAnswer> {
                $write!(self, connection, {
                    // Counting the guess first also locks the row.
                    let row = sqlx::query(
                        "UPDATE verification_codes SET tries = tries + 1 \
                         WHERE user_id = $1 AND channel = $2 AND tries < $3 AND expires_at > $4 \
                         RETURNING code_hash, address",
                    )
                    .bind(user)
                    .bind(channel.as_str())
                    .bind(MAX_TRIES)
                    .bind(now.millis())
                    .fetch_optional(&mut *connection)
                    .await?;
                    let Some(row) = row else {
                        return Ok(CodeAnswer::NoneOpen);
                    };
                    let kept: Vec<u8> = row.try_get(0)?;
                    let address: String = row.try_get(1)?;
                    if kept != hash {
                        return Ok(CodeAnswer::Wrong);
                    }
                    sqlx::query("DELETE FROM verification_codes WHERE user_id = $1 AND channel = $2")
                        .bind(user)
                        .bind(channel.as_str())
                        .execute(&mut *connection)
                        .await?;
                    let verified = sqlx::query(
                        "INSERT INTO verified_addresses (user_id, channel, address, at) \
                         SELECT u.id, $2, $3, $4 FROM users u WHERE u.id = $1 AND lower($3) = \
                             lower(CASE $2 WHEN 'email' THEN u.email ELSE u.phone END) \
                         ON CONFLICT (user_id, channel) DO UPDATE SET \
                             address = excluded.address, at = excluded.at",
                    )
                    .bind(user)
                    .bind(channel.as_str())
                    .bind(&address)
                    .bind(now.millis())
                    .execute(&mut *connection)
                    .await?;
                    Ok(match verified.rows_affected() {
                        0 => CodeAnswer::NoneOpen,
                        _ => CodeAnswer::Right,
                    })
                })
            }

            async fn candidates(&self, messages: &[MessageId]) -> Result<Vec<Candidate>> {
                let ids = $bind_ids(messages)?;
                $read!(self, connection, {
                    let rows = sqlx::query($candidates)
                        .bind(ids)
                        .fetch_all(&mut *connection)
                        .await?;
                    rows.iter().map(candidate).collect()
                })
            }

            async fn decide(&self, decisions: &[Decision]) -> Result<Vec<(Uuid, ChannelKind)>> {
                let now = Timestamp::now();
                $write!(self, connection, {
                    let mut deliveries = Vec::new();
                    for decision in decisions {
                        let (channel, delivery, state, reason) = match decision.verdict {
                            Verdict::Not(state, reason) => ("", None, Some(state.as_str()), Some(reason)),
                            Verdict::Tell(channel) => {
                                let known: Option<Option<Uuid>> = sqlx::query_scalar(
                                    "SELECT delivery FROM notifications \
                                     WHERE message = $1 AND user_id = $2 AND channel = $3",
                                )
                                .bind(decision.message)
                                .bind(decision.user)
                                .bind(channel.as_str())
                                .fetch_optional(&mut *connection)
                                .await?;
                                if let Some(known) = known {
                                    deliveries.extend(known.map(|id| (id, channel)));
                                    continue;
                                }
                                let id = delivery_id(decision.user, channel, decision.message);
                                let new = Delivery::new(id, decision.user, channel, Purpose::Messages);
                                // Touching the open one locks it until the commit: it cannot close meanwhile.
                                let id: Uuid = sqlx::query_scalar(
                                    "INSERT INTO deliveries (id, user_id, channel, at, open, version, record) \
                                     VALUES ($1, $2, $3, $4, true, 0, $5) \
                                     ON CONFLICT (user_id, channel) WHERE open \
                                     DO UPDATE SET at = deliveries.at RETURNING id",
                                )
                                .bind(id)
                                .bind(decision.user)
                                .bind(channel.as_str())
                                .bind(now.millis())
                                .bind(columns::json(&new.record)?)
                                .fetch_one(&mut *connection)
                                .await?;
                                deliveries.push((id, channel));
                                (channel.as_str(), Some(id), None, None)
                            }
                        };
                        sqlx::query(
                            "INSERT INTO notifications (message, user_id, channel, room, seq, cause, \
                                 at, delivery, state, reason) \
                             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
                        )
                        .bind(decision.message)
                        .bind(decision.user)
                        .bind(channel)
                        .bind(decision.room)
                        .bind(decision.seq)
                        .bind(decision.cause.as_str())
                        .bind(now.millis())
                        .bind(delivery)
                        .bind(state)
                        .bind(reason)
                        .execute(&mut *connection)
                        .await?;
                    }
                    deliveries.sort_unstable();
                    deliveries.dedup();
                    Ok(deliveries)
                })
            }

            async fn put_delivery(&self, delivery: &Delivery) -> Result<()> {
                $write!(self, connection, {
                    sqlx::query(
                        "INSERT INTO deliveries (id, user_id, channel, at, open, version, record) \
                         VALUES ($1, $2, $3, $4, false, 0, $5) ON CONFLICT (id) DO NOTHING",
                    )
                    .bind(delivery.id)
                    .bind(delivery.user)
                    .bind(delivery.channel.as_str())
                    .bind(delivery.at.millis())
                    .bind(columns::json(&delivery.record)?)
                    .execute(&mut *connection)
                    .await
                    .map(drop)
                })
            }

            async fn deliveries_to(
                &self,
                user: UserId,
                after: Option<Uuid>,
                limit: u32,
            ) -> Result<Vec<Delivery>> {
                $read!(self, connection, {
                    let rows = sqlx::query(
                        "SELECT id, user_id, channel, at, version, record FROM deliveries \
                         WHERE user_id = $1 AND id > $2 ORDER BY id LIMIT $3",
                    )
                    .bind(user)
                    .bind(after.unwrap_or(Uuid::nil()))
                    .bind(i64::from(limit))
                    .fetch_all(&mut *connection)
                    .await?;
                    rows.iter().map(|row| delivery(row, 0)).collect()
                })
            }

            async fn change_delivery(&self, delivery: &mut Delivery) -> Result<bool> {
                let record = columns::json(&delivery.record).map_err($failure)?;
                let (id, version) = (delivery.id, delivery.version);
                let changed: Result<bool> = $write!(self, connection, {
                    let result = sqlx::query(
                        "UPDATE deliveries SET record = $3, version = version + 1 \
                         WHERE id = $1 AND version = $2",
                    )
                    .bind(id)
                    .bind(version)
                    .bind(&record)
                    .execute(&mut *connection)
                    .await?;
                    Ok(result.rows_affected() == 1)
                });
                let changed = changed?;
                if changed {
                    delivery.version += 1;
                }
                Ok(changed)
            }

            async fn close_delivery(&self, id: Uuid) -> Result<Vec<Line>> {
                $write!(self, connection, {
                    sqlx::query("UPDATE deliveries SET open = false WHERE id = $1 AND open")
                        .bind(id)
                        .execute(&mut *connection)
                        .await?;
                    let rows = sqlx::query(
                        "SELECT n.message, n.room, n.seq, m.body, m.deleted_at IS NOT NULL OR r.deleted, \
                             coalesce(u.display_name, ''), r.name, r.kind = 'direct', \
                             x.read_seq >= n.seq, p.mode \
                         FROM notifications n \
                         JOIN messages m ON m.id = n.message \
                         JOIN rooms r ON r.id = n.room \
                         LEFT JOIN users u ON u.id = m.sender \
                         LEFT JOIN members x ON x.room = n.room AND x.user_id = n.user_id \
                         LEFT JOIN notify_rooms p ON p.user_id = n.user_id AND p.room = n.room \
                         WHERE n.delivery = $1 AND n.state IS NULL ORDER BY n.room, n.seq",
                    )
                    .bind(id)
                    .fetch_all(&mut *connection)
                    .await?;
                    rows.iter().map(line).collect()
                })
            }

            async fn drop_lines(&self, id: Uuid, lines: &[(MessageId, &'static str)]) -> Result<()> {
                $write!(self, connection, {
                    for (message, reason) in lines {
                        sqlx::query(
                            "UPDATE notifications SET state = 'cancelled', reason = $3 \
                             WHERE delivery = $1 AND message = $2",
                        )
                        .bind(id)
                        .bind(message)
                        .bind(reason)
                        .execute(&mut *connection)
                        .await?;
                    }
                    Ok(())
                })
            }

            async fn suppress(&self, address: &Address, reason: &str) -> Result<()> {
                $write!(self, connection, {
                    sqlx::query(
                        "INSERT INTO suppressions (channel, address, reason, at) \
                         VALUES ($1, $2, $3, $4) ON CONFLICT (channel, address) DO NOTHING",
                    )
                    .bind(address.channel().as_str())
                    .bind(address.key())
                    .bind(reason)
                    .bind(Timestamp::now().millis())
                    .execute(&mut *connection)
                    .await
                    .map(drop)
                })
            }

            async fn lift(&self, address: &Address, reason: &str) -> Result<()> {
                $write!(self, connection, {
                    sqlx::query(
                        "DELETE FROM suppressions \
                         WHERE channel = $1 AND address IN ($2, $3) AND reason = $4",
                    )
                    .bind(address.channel().as_str())
                    .bind(address.key())
                    .bind(address.old_key())
                    .bind(reason)
                    .execute(&mut *connection)
                    .await
                    .map(drop)
                })
            }
        }
    };
}

pub(crate) use notify_writes;
