//! The statements of [`AddressReads`] and [`AddressWrites`]: codes that prove an address, and suppressions.

use async_trait::async_trait;

use super::{AddressReads, AddressWrites, CodeAnswer, MAX_TRIES, NewCode, record};
use crate::{
    error::Result,
    model::{Timestamp, UserId, address::Address, notify::ChannelKind},
    store::sql::{Access, Database, Dialect, Record, Row, Session, sql},
};

/// Nothing is stored for a deleted account.
const PUT_CODE: &str = "INSERT INTO verification_codes \
         (user_id, channel, address, code_hash, expires_at, tries) \
     SELECT id, $2, $3, $4, $5, 0 FROM users WHERE id = $1 AND deleted_at IS NULL \
     ON CONFLICT (user_id, channel) DO UPDATE SET address = excluded.address, \
         code_hash = excluded.code_hash, expires_at = excluded.expires_at, tries = 0";

/// Counting the guess first also locks the row.
const COUNT_TRY: &str = "UPDATE verification_codes SET tries = tries + 1 \
     WHERE user_id = $1 AND channel = $2 AND tries < $3 AND expires_at > $4 \
     RETURNING code_hash, address";

const USE_CODE: &str = "DELETE FROM verification_codes WHERE user_id = $1 AND channel = $2";

/// Only if the address still is the account's. A channel without an address in `users` verifies nothing.
const VERIFY: &str = "INSERT INTO verified_addresses (user_id, channel, address, at) \
     SELECT u.id, $2, $3, $4 FROM users u WHERE u.id = $1 AND lower($3) = \
         lower(CASE $2 WHEN 'email' THEN u.email WHEN 'sms' THEN u.phone END) \
     ON CONFLICT (user_id, channel) DO UPDATE SET address = excluded.address, at = excluded.at, \
         replaced_at = CASE WHEN lower(verified_addresses.address) = lower(excluded.address) \
             THEN verified_addresses.replaced_at ELSE excluded.at END";

const RESET_ADDRESS: &str = "SELECT v.address FROM verified_addresses v \
     JOIN users u ON u.id = v.user_id AND u.deleted_at IS NULL \
     WHERE v.user_id = $1 AND v.channel = 'email' AND lower(v.address) = lower(u.email) \
         AND (v.replaced_at IS NULL OR v.replaced_at < $2)";

const SUPPRESSED: &str = "SELECT reason FROM suppressions \
     WHERE channel = $1 AND address IN ($2, $3) LIMIT 1";

const SUPPRESS: &str = "INSERT INTO suppressions (channel, address, reason, at) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (channel, address) DO NOTHING";

const UNSUPPRESS: &str = "DELETE FROM suppressions \
     WHERE channel = $1 AND address IN ($2, $3) AND reason = $4";

struct Code {
    hash: Vec<u8>,
    address: String,
}

impl Record for Code {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        Ok(Code {
            hash: row.get("code_hash")?,
            address: row.get("address")?,
        })
    }
}

struct Reason(String);

impl Record for Reason {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        row.get("reason").map(Reason)
    }
}

struct ResetAddress(Option<Address>);

impl Record for ResetAddress {
    fn read<D: Dialect>(row: &Row<D>) -> sqlx::Result<Self> {
        record::address(row, ChannelKind::Email, "address").map(ResetAddress)
    }
}

#[async_trait]
impl<D: Database> AddressReads for D {
    async fn reset_address(&self, user: UserId, before: Timestamp) -> Result<Option<Address>> {
        let mut session = self.open(Access::Read).await?;
        let statement = sql(RESET_ADDRESS).bind(user).bind(before.millis());
        let found: Option<ResetAddress> = session.optional(statement).await?;
        Ok(found.and_then(|found| found.0))
    }

    async fn suppressed(&self, address: &Address) -> Result<Option<String>> {
        let (key, old_key) = (address.key(), address.old_key());
        let mut session = self.open(Access::Read).await?;
        let statement = sql(SUPPRESSED)
            .bind(address.channel())
            .bind(key.as_str())
            .bind(old_key.as_str());
        let reason: Option<Reason> = session.optional(statement).await?;
        Ok(reason.map(|reason| reason.0))
    }
}

#[async_trait]
impl<D: Database> AddressWrites for D {
    async fn put_code(&self, code: &NewCode) -> Result<()> {
        let mut session = self.open(Access::Background).await?;
        let put = sql(PUT_CODE)
            .bind(code.user)
            .bind(code.address.channel())
            .bind(code.address.as_str())
            .bind(code.hash.as_slice())
            .bind(code.expires_at.millis());
        session.execute(put).await?;
        session.commit().await
    }

    async fn try_code(
        &self,
        user: UserId,
        channel: ChannelKind,
        hash: &[u8],
        now: Timestamp,
    ) -> Result<CodeAnswer> {
        let mut session = self.open(Access::Background).await?;
        let count = sql(COUNT_TRY)
            .bind(user)
            .bind(channel)
            .bind(MAX_TRIES)
            .bind(now.millis());
        let Some(code) = session.optional::<Code>(count).await? else {
            return Ok(CodeAnswer::NoneOpen);
        };
        if code.hash != hash {
            session.commit().await?;
            return Ok(CodeAnswer::Wrong);
        }
        session
            .execute(sql(USE_CODE).bind(user).bind(channel))
            .await?;
        let verify = sql(VERIFY)
            .bind(user)
            .bind(channel)
            .bind(code.address.as_str())
            .bind(now.millis());
        let verified = session.execute(verify).await?;
        session.commit().await?;
        Ok(match verified {
            0 => CodeAnswer::NoneOpen,
            _ => CodeAnswer::Right,
        })
    }

    async fn suppress(&self, address: &Address, reason: &str) -> Result<()> {
        let key = address.key();
        let mut session = self.open(Access::Background).await?;
        let suppress = sql(SUPPRESS)
            .bind(address.channel())
            .bind(key.as_str())
            .bind(reason)
            .bind(Timestamp::now().millis());
        session.execute(suppress).await?;
        session.commit().await
    }

    async fn unsuppress(&self, address: &Address, reason: &str) -> Result<()> {
        let (key, old_key) = (address.key(), address.old_key());
        let mut session = self.open(Access::Background).await?;
        let unsuppress = sql(UNSUPPRESS)
            .bind(address.channel())
            .bind(key.as_str())
            .bind(old_key.as_str())
            .bind(reason);
        session.execute(unsuppress).await?;
        session.commit().await
    }
}
