//! The tables of this version: numbered files, each applied once, in one transaction under the write lock.

use sqlx::AnyConnection;

use super::db::{Db, Durability};
use super::rows::Columns;
use super::{Records, RecordsError};

/// In order; a file is never changed once released. Its number is its place here, from 1.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_begin.sql")];

const TABLE: &str = "CREATE TABLE IF NOT EXISTS migration (version BIGINT PRIMARY KEY)";
const VERSION: &str = "SELECT COALESCE(MAX(version), 0) AS version FROM migration";
const APPLIED: &str = "INSERT INTO migration (version) VALUES ($1)";
const NEW_ID: &str = "INSERT INTO installation (one, id) VALUES (1, $1) ON CONFLICT (one) DO NOTHING";
const ID: &str = "SELECT id FROM installation";

/// Brings the tables up to this version; answers the installation's id.
pub(super) async fn migrate(db: &Db) -> Result<String, RecordsError> {
    let mut write = db.write(Durability::PowerCut).await?;
    sqlx::query(TABLE).execute(write.on()).await?;
    let version: i64 = sqlx::query(VERSION).fetch_one(write.on()).await?.col("version")?;
    for (number, file) in (1..).zip(MIGRATIONS).skip_while(|(number, _)| *number <= version) {
        sqlx::raw_sql(*file).execute(write.on()).await?;
        sqlx::query(APPLIED).bind(number).execute(write.on()).await?;
    }
    refuse_newer(version)?;
    let installation = installation(write.on()).await?;
    write.commit().await?;
    Ok(installation)
}

fn refuse_newer(version: i64) -> Result<(), RecordsError> {
    if usize::try_from(version).is_ok_and(|version| version <= MIGRATIONS.len()) {
        return Ok(());
    }
    Err(RecordsError::Corrupt(format!(
        "the database is at version {version}, this Tollgate knows up to {}: start the newer Tollgate, or restore a backup",
        MIGRATIONS.len()
    )))
}

async fn installation(connection: &mut AnyConnection) -> Result<String, RecordsError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| super::db::unavailable(format!("no randomness: {error}")))?;
    sqlx::query(NEW_ID).bind(hex::encode(random)).execute(&mut *connection).await?;
    sqlx::query(ID).fetch_one(connection).await?.col("id")
}

impl Records {
    /// Made at random with the database; part of every report's identifier.
    pub fn installation(&self) -> &str {
        &self.inner.installation
    }
}

#[cfg(test)]
mod tests {
    use super::super::kit;
    use super::*;

    #[tokio::test]
    async fn opening_again_finds_the_same_installation() {
        let (folder, first) = kit::records().await;
        let id = first.installation().to_owned();
        first.close().await;
        let again = Records::open(&kit::url(&folder)).await.unwrap();
        assert_eq!(again.installation(), id);
        assert_eq!(id.len(), 32);
    }

    #[tokio::test]
    async fn two_that_open_at_once_agree() {
        let folder = tempfile::tempdir().unwrap();
        let url = kit::url(&folder);
        let (one, two) = tokio::join!(Records::open(&url), Records::open(&url));
        assert_eq!(one.unwrap().installation(), two.unwrap().installation());
    }

    #[tokio::test]
    async fn a_newer_database_is_refused() {
        let (folder, records) = kit::records().await;
        let mut write = records.db().write(Durability::PowerCut).await.unwrap();
        sqlx::query(APPLIED).bind(99_i64).execute(write.on()).await.unwrap();
        write.commit().await.unwrap();
        records.close().await;
        let refused = Records::open(&kit::url(&folder)).await.unwrap_err().to_string();
        assert_eq!(
            refused,
            "the records hold something unreadable: the database is at version 99, this Tollgate knows up to 1: \
             start the newer Tollgate, or restore a backup"
        );
    }

    #[tokio::test]
    async fn only_a_file_will_do() {
        for url in ["sqlite::memory:", "sqlite:", "sqlite:x.db?mode=memory", "postgres://localhost/x"] {
            assert!(matches!(Records::open(url).await, Err(RecordsError::Unavailable(_))), "{url}");
        }
    }
}
