//! The contract of a store, tested on both. Each test has a database of its own: one created on the server of
//! `DATABASE_URL` and dropped afterwards, or a file in a temporary directory.

/// Runs each of these tests on both stores; on PostgreSQL also as behind a pooler, where nothing of a session is used.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test]
            async fn $test() {
                crate::contract::store::fixture::on_postgres(super::$test).await;
            })+
        }
        mod on_postgres_without_sessions {
            $(#[tokio::test]
            async fn $test() {
                use chat::store::postgres::PreparedStatements::Off;
                crate::contract::store::fixture::on_postgres_with(Off, super::$test).await;
            })+
        }
        mod on_sqlite {
            $(#[tokio::test]
            async fn $test() {
                crate::contract::store::fixture::on_sqlite(super::$test).await;
            })+
        }
    };
}

mod accounts;
mod addresses;
mod commit;
mod decisions;
mod deletion;
mod epoch;
mod expire;
mod feed;
mod fixture;
mod names;
mod people;
mod pooler;
mod postgres;
mod reactions;
mod replica;
mod sqlite;
