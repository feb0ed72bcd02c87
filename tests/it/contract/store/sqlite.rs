//! A failure that only a file can have: it is newer than the program.

use chat::{error::Code, model::new_id, sqlite::Database};

use super::fixture::NEWER;

#[tokio::test]
async fn a_file_is_opened_again_but_not_a_newer_one() {
    let directory = std::env::temp_dir().join(format!("chat_test_{}", new_id().simple()));
    std::fs::create_dir(&directory).unwrap();
    let file = directory.join("chat.db");
    for _ in 0..2 {
        let database = Database::open(&file).await.unwrap();
        assert!(
            sqlx::query(NEWER)
                .execute(database.readers())
                .await
                .is_err()
        );
        database.close().await;
    }
    let database = Database::open(&file).await.unwrap();
    let mut transaction = database.write().await.unwrap();
    sqlx::query(NEWER).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    database.close().await;

    let error = Database::open(&file).await.unwrap_err();
    assert_eq!(error.code, Code::Conflict, "{}", error.chain());
    std::fs::remove_dir_all(&directory).unwrap();
}
