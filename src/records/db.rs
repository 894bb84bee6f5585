//! Connections: one writer at a time, a few readers, and what a failure means.

use std::sync::Arc;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::{Any, AnyConnection, AnyPool, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::RecordsError;

/// Longest wait for a connection or for the writers before; then the records are unavailable.
const PATIENCE: Duration = Duration::from_secs(10);
/// Readers at once; WAL lets them read while a writer writes.
const READERS: u32 = 4;

/// SQLite only: write-ahead log, waiting for other processes' locks, 8 MiB of cache. No memory mapping: a broken disk
/// is to be an error, not a signal.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 10000; PRAGMA foreign_keys = ON; \
                       PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8192;";
const SYNC_FULL: &str = "PRAGMA synchronous = FULL;";
const SYNC_NORMAL: &str = "PRAGMA synchronous = NORMAL;";
const READ_ONLY: &str = "PRAGMA query_only = ON;";
/// SQLite takes the write lock at once, so that what a transaction reads is still so when it writes.
const BEGIN: &str = "BEGIN IMMEDIATE";

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// A power cut: all that money depends on.
    PowerCut,
    /// The death of the process: what its owner says again after a power cut.
    Process,
}

/// The pools.
#[derive(Debug)]
pub(super) struct Db {
    full: AnyPool,
    normal: AnyPool,
    read: AnyPool,
    /// SQLite has one writer; waiting here in line is fair, waiting in SQLite is not.
    writing: Arc<Mutex<()>>,
}

impl Db {
    /// Opens the file that `url` names and makes it if it is missing.
    pub(super) async fn open(url: &str) -> Result<Self, RecordsError> {
        sqlx::any::install_default_drivers();
        let url = creating(url)?;
        Ok(Self {
            full: pool(&url, 1, SYNC_FULL).await?,
            normal: pool(&url, 1, SYNC_NORMAL).await?,
            read: pool(&url, READERS, READ_ONLY).await?,
            writing: Arc::default(),
        })
    }

    /// For statements that change nothing.
    pub(super) fn read(&self) -> &AnyPool {
        &self.read
    }

    /// Begins the one write transaction; dropped without [`Write::commit`] it never was.
    pub(super) async fn write(&self, durability: Durability) -> Result<Write, RecordsError> {
        let waited = tokio::time::timeout(PATIENCE, Arc::clone(&self.writing).lock_owned()).await;
        let guard = waited.map_err(|_| unavailable("the writers before did not finish in time"))?;
        let pool = match durability {
            Durability::PowerCut => &self.full,
            Durability::Process => &self.normal,
        };
        let tx = match pool.begin_with(BEGIN).await {
            Err(sqlx::Error::InvalidSavePointStatement) => {
                // A full disk or a failing one makes SQLite end a transaction by itself; the driver then takes it for
                // open for ever. A fresh connection knows better.
                pool.acquire().await?.close().await?;
                pool.begin_with(BEGIN).await?
            }
            begun => begun?,
        };
        Ok(Write { tx, _guard: guard })
    }

    pub(super) async fn close(&self) {
        self.read.close().await;
        self.normal.close().await;
        // The last to go: it checkpoints the write-ahead log into the file.
        self.full.close().await;
    }
}

/// A write transaction.
#[derive(Debug)]
pub(super) struct Write {
    // Dropped in this order: rolled back first, then the next writer's turn.
    tx: Transaction<'static, Any>,
    _guard: OwnedMutexGuard<()>,
}

impl Write {
    /// Where its statements run.
    pub(super) fn on(&mut self) -> &mut AnyConnection {
        &mut self.tx
    }

    /// Makes it so. A failure here says nothing about what happened.
    pub(super) async fn commit(self) -> Result<(), RecordsError> {
        self.tx.commit().await.map_err(|error| RecordsError::Unknown(Arc::new(error)))
    }
}

impl From<sqlx::Error> for RecordsError {
    /// An error of any statement but a commit: its transaction is rolled back.
    fn from(error: sqlx::Error) -> Self {
        if matches!(
            error,
            sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::TypeNotFound { .. }
        ) {
            return Self::Corrupt(error.to_string());
        }
        Self::Unavailable(Arc::new(error))
    }
}

pub(super) fn unavailable(why: impl Into<String>) -> RecordsError {
    RecordsError::Unavailable(Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(why.into())))
}

async fn pool(url: &str, connections: u32, pragmas: &'static str) -> Result<AnyPool, RecordsError> {
    let options = AnyPoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(PRAGMAS).execute(&mut *connection).await?;
                sqlx::raw_sql(pragmas).execute(&mut *connection).await?;
                Ok(())
            })
        });
    Ok(options.connect(url).await?)
}

/// The same URL, creating: its directory made, and `mode=rwc` unless it says otherwise.
fn creating(url: &str) -> Result<String, RecordsError> {
    let path = url.strip_prefix("sqlite:").ok_or_else(|| unavailable(format!("{url}: not a sqlite: URL")))?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let (file, query) = path.split_once('?').unwrap_or((path, ""));
    if file.is_empty() || file.starts_with(":memory:") || query.contains("mode=memory") {
        return Err(unavailable(format!("{url}: the records need a file")));
    }
    let file = std::path::absolute(file).map_err(|error| unavailable(format!("{file}: {error}")))?;
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).map_err(|error| unavailable(format!("{}: {error}", parent.display())))?;
    }
    let mode = if query.contains("mode=") { query.to_owned() } else { format!("mode=rwc&{query}") };
    Ok(format!("sqlite://{}?{}", escaped(&file.display().to_string()), mode.trim_end_matches('&')))
}

/// A path as part of a URL; spaces and the like the URL parser escapes itself.
fn escaped(path: &str) -> String {
    path.replace('%', "%25").replace('#', "%23")
}

#[cfg(test)]
mod tests {
    use super::super::kit;
    use super::super::rows::Columns;
    use super::*;

    const NOTE: &str = "INSERT INTO config_version (sha256, at) VALUES ($1, 0)";
    const COUNT: &str = "SELECT COUNT(*) AS n FROM config_version";

    async fn count(records: &super::super::Records) -> i64 {
        sqlx::query(COUNT).fetch_one(records.db().read()).await.unwrap().col("n").unwrap()
    }

    #[tokio::test]
    async fn a_write_that_is_dropped_never_was() {
        let (_folder, records) = kit::records().await;
        for durability in [Durability::PowerCut, Durability::Process] {
            let mut write = records.db().write(durability).await.unwrap();
            sqlx::query(NOTE).bind("x").execute(write.on()).await.unwrap();
            drop(write);
            assert_eq!(count(&records).await, 0);
        }
    }

    #[tokio::test]
    async fn writers_of_both_kinds_wait_for_each_other() {
        let (_folder, records) = kit::records().await;
        let writers = (0..40).map(|n| {
            let records = records.clone();
            let durability = if n % 2 == 0 { Durability::PowerCut } else { Durability::Process };
            async move {
                let mut write = records.db().write(durability).await?;
                sqlx::query(NOTE).bind(n.to_string()).execute(write.on()).await?;
                write.commit().await
            }
        });
        for done in futures_util::future::join_all(writers).await {
            done.unwrap();
        }
        assert_eq!(count(&records).await, 40);
    }

    #[tokio::test]
    async fn settings_hold_on_every_connection() {
        let (_folder, records) = kit::records().await;
        let synchronous = async |durability| {
            let mut write = records.db().write(durability).await.unwrap();
            let row = sqlx::query("PRAGMA synchronous").fetch_one(write.on()).await.unwrap();
            row.col::<i64>("synchronous").unwrap()
        };
        assert_eq!(synchronous(Durability::PowerCut).await, 2);
        assert_eq!(synchronous(Durability::Process).await, 1);
        let row = sqlx::query("PRAGMA journal_mode").fetch_one(records.db().read()).await.unwrap();
        assert_eq!(row.col::<String>("journal_mode").unwrap(), "wal");
        let refused = sqlx::query(NOTE).bind("x").execute(records.db().read()).await;
        assert!(refused.is_err(), "readers do not write");
    }

    #[tokio::test]
    async fn any_path_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("A b%41#ü").join("records.db");
        let records = super::super::Records::open(&format!("sqlite:{}", file.display())).await.unwrap();
        records.close().await;
        assert!(file.exists());
    }

    #[tokio::test]
    async fn closed_records_are_unavailable() {
        let (_folder, records) = kit::records().await;
        records.close().await;
        assert!(matches!(records.tenant("x").await, Err(RecordsError::Unavailable(_))));
        assert!(matches!(records.db().write(Durability::PowerCut).await, Err(RecordsError::Unavailable(_))));
    }
}
