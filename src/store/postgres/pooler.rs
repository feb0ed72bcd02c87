//! Connection poolers between this process and PostgreSQL. In transaction mode (PgBouncer's `pool_mode = transaction`)
//! each transaction may run on another server connection, so that nothing of a session can be relied on: settings,
//! prepared statements, advisory locks. Everything then runs in transactions that begin with their settings, and
//! statements have no names unless the pooler is said to support them.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{Executor, PgConnection, Row, postgres::PgConnectOptions};

/// A setting sent at the start of a connection, which only PostgreSQL itself makes visible to the session: poolers
/// refuse or drop it.
const MARKER: &str = "chat.direct";

/// `database.prepared_statements`: whether statements are prepared under a name and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreparedStatements {
    /// Unless a pooler was detected.
    Auto,
    On,
    /// Never; every statement also runs in a transaction with its settings, as behind a pooler.
    Off,
}

/// The first statement of a transaction.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// The same with the settings that a session has otherwise (`SESSION` in `pool.rs`). One round trip.
pub(super) const BEGIN_WITH_SETTINGS: &str = "
    BEGIN ISOLATION LEVEL READ COMMITTED;
    SET LOCAL idle_in_transaction_session_timeout = '2s';
    SET LOCAL lock_timeout = '30s';
    SET LOCAL statement_timeout = '30s';
    SELECT set_config('synchronous_commit', 'on', true)
        WHERE current_setting('synchronous_commit') = 'off';
    SET LOCAL enable_seqscan = off;
    SET LOCAL enable_bitmapscan = off;
    SET LOCAL enable_hashjoin = off;
    SET LOCAL enable_mergejoin = off;
    SET LOCAL plan_cache_mode = force_generic_plan;
    SET LOCAL jit = off";

/// For the transaction of a migration behind a pooler: its waits are not limited, and no statement of another client
/// of the same server connection is in the way.
pub(super) const BEGIN_MIGRATION: &str = "
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL lock_timeout = 0;
    SET LOCAL statement_timeout = 0;
    DEALLOCATE ALL";

/// Whether a pooler was detected. Once one was seen, the process works as behind one until it ends, which is correct
/// without one too.
pub(super) struct Mode {
    setting: PreparedStatements,
    is_pooled: AtomicBool,
}

impl Mode {
    pub fn new(setting: PreparedStatements) -> Self {
        Mode {
            setting,
            is_pooled: AtomicBool::new(setting == PreparedStatements::Off),
        }
    }

    pub fn setting(&self) -> PreparedStatements {
        self.setting
    }

    /// Whether every statement must be in a transaction that has its settings.
    pub fn is_pooled(&self) -> bool {
        self.is_pooled.load(Ordering::Acquire)
    }

    /// Whether statements are prepared under a name.
    pub fn names_statements(&self) -> bool {
        match self.setting {
            PreparedStatements::On => true,
            PreparedStatements::Off => false,
            PreparedStatements::Auto => !self.is_pooled(),
        }
    }

    pub fn set_pooled(&self) {
        if !self.is_pooled.swap(true, Ordering::AcqRel) {
            tracing::info!(
                prepared_statements = self.names_statements(),
                "a connection pooler is in front of PostgreSQL; settings are sent with each transaction"
            );
        }
    }

    /// The options of a new connection: with the marker until a pooler was detected.
    pub fn options(&self, of: &PgConnectOptions) -> PgConnectOptions {
        if self.is_pooled() {
            of.clone()
        } else {
            of.clone().options([(MARKER, "on")])
        }
    }
}

/// The state of a new connection's server.
pub(super) struct State {
    /// Its transactions can only read: it is a standby, or is set to be read-only.
    pub is_read_only: bool,
    /// The marker arrived.
    pub is_direct: bool,
}

impl State {
    /// Uses the simple protocol, whose statements have no state in the session.
    pub async fn read(connection: &mut PgConnection) -> sqlx::Result<State> {
        const SQL: &str = "SELECT current_setting('transaction_read_only'), \
             coalesce(current_setting('chat.direct', true), '')";
        let row = connection.fetch_one(SQL).await?;
        let (read_only, marker): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        Ok(State {
            is_read_only: read_only == "on",
            is_direct: marker == "on",
        })
    }
}

/// Whether a pooler refused the connection because of the marker (PgBouncer, unless `ignore_startup_parameters` names
/// `options`).
pub(super) fn refuses_options(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.message().contains("unsupported startup parameter"))
}

/// The advisory lock of sqlx's migrations for a database (its `generate_lock_id`), so that processes with and without
/// a pooler exclude each other: a constant times the CRC-32 (ISO-HDLC) of the name.
pub(super) fn migration_lock(database: &str) -> i64 {
    let mut crc = u32::MAX;
    for byte in database.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= 0xedb8_8320;
            }
        }
    }
    0x3d32_ad9e * i64::from(!crc)
}

#[cfg(test)]
mod tests {
    use super::migration_lock;

    #[test]
    fn the_lock_of_migrations_is_that_of_sqlx() {
        // The CRC-32 of this text is its check value in every catalogue of CRCs.
        assert_eq!(migration_lock("123456789"), 0x3d32_ad9e * 0xcbf4_3926);
    }
}
