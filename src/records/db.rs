//! Connections and transactions: SQLite with one writer at a time, PostgreSQL with many.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AnyConnection, AnyPool};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::RecordsError;
use circuit::Circuit;
use lent::{Lent, Reader, within};

mod circuit;
mod lent;
mod outcome;
mod postgres;
mod sqlite;

/// Longest wait for a connection, for the writers before, for all statements of a transaction, or for its commit;
/// then the records are unavailable.
const PATIENCE: Duration = Duration::from_secs(10);
/// SQLite takes the write lock at once, so that what a transaction reads is still so when it writes.
const BEGIN_IMMEDIATE: &str = "BEGIN IMMEDIATE";
/// PostgreSQL: what a transaction reads to write it, it locks.
const BEGIN: &str = "BEGIN";
/// A transaction that another one undid is tried so often.
const ATTEMPTS: u32 = 6;

/// `transact!(db, durability, |connection| work)`: does `work` in one transaction and commits it, all of it or nothing.
///
/// Where another transaction undid it before the commit, or the connection was lost before, it is done again: `work`
/// changes nothing but the database. A macro, since a future that borrows a closure's argument cannot be told to be
/// `Send`. `?` in `work` leaves `work`.
macro_rules! transact {
    ($db:expr, $durability:expr, |$connection:ident| $work:expr) => {{
        let mut attempt = 1;
        loop {
            let mut write = match $db.write($durability).await {
                Ok(write) => write,
                Err(error) => break Err(error),
            };
            let done = {
                let $connection = write.on();
                $crate::records::db::in_time(async { $work }).await
            };
            match write.end(done).await {
                Err(error) if $crate::records::db::may_pass(&error, attempt).await => attempt += 1,
                done => break done,
            }
        }
    }};
}
pub(super) use transact;

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// A file; one writer at a time.
    Sqlite,
    /// A server; many writers, of many nodes.
    Postgres,
}

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// A power cut: all that money depends on.
    PowerCut,
    /// The death of the process: what its owner says again after a power cut. On PostgreSQL the same as `PowerCut`:
    /// the server can lose power while the nodes go on, and then nobody would say it again in time.
    Process,
}

/// The pools.
#[derive(Debug)]
pub(super) struct Db {
    engine: Engine,
    full: AnyPool,
    normal: AnyPool,
    read: AnyPool,
    circuit: Circuit,
    /// SQLite has one writer; waiting here in line is fair, waiting in SQLite is not.
    writing: Option<Arc<Mutex<()>>>,
}

impl Db {
    /// Opens the database that `url` names; a file is made if it is missing.
    pub(super) async fn open(url: &str) -> Result<Self, RecordsError> {
        sqlx::any::install_default_drivers();
        if is_postgres(url) {
            let [full, read] = postgres::pools(url).await?;
            return Ok(Self {
                engine: Engine::Postgres,
                normal: full.clone(),
                full,
                read,
                circuit: Circuit::default(),
                writing: None,
            });
        }
        let [full, normal, read] = sqlite::pools(url).await?;
        Ok(Self {
            engine: Engine::Sqlite,
            full,
            normal,
            read,
            circuit: Circuit::default(),
            writing: Some(Arc::default()),
        })
    }

    pub(super) fn engine(&self) -> Engine {
        self.engine
    }

    /// For statements that change nothing.
    pub(super) fn read(&self) -> Reader<'_> {
        Reader { pool: &self.read, circuit: &self.circuit }
    }

    /// Begins a write transaction; dropped without [`Write::commit`] it never was.
    pub(super) async fn write(&self, durability: Durability) -> Result<Write, RecordsError> {
        let turn = match &self.writing {
            Some(writing) => Some(in_line(writing).await?),
            None => None,
        };
        let pool = match durability {
            Durability::PowerCut => &self.full,
            Durability::Process => &self.normal,
        };
        let begin = match self.engine {
            Engine::Sqlite => BEGIN_IMMEDIATE,
            Engine::Postgres => BEGIN,
        };
        let mut attempt = 1;
        loop {
            match self.begun(pool, begin).await.map_err(RecordsError::from) {
                Ok(lent) => return Ok(Write { lent, _turn: turn }),
                // A connection that was lost while it rested; the pool opens another one.
                Err(error) if may_pass(&error, attempt).await => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn begun(&self, pool: &AnyPool, begin: &'static str) -> sqlx::Result<Lent> {
        let mut lent = Lent::from(pool, &self.circuit).await?;
        let done = within(PATIENCE, sqlx::raw_sql(begin).execute(&mut *lent)).await;
        done.inspect_err(|error| self.circuit.note(error))?;
        Ok(lent)
    }

    pub(super) async fn close(&self) {
        self.read.close().await;
        self.normal.close().await;
        // The last to go: it checkpoints SQLite's write-ahead log into the file.
        self.full.close().await;
    }
}

pub(super) fn is_postgres(url: &str) -> bool {
    ["postgres:", "postgresql:"].iter().any(|scheme| url.starts_with(scheme))
}

/// The statements of a transaction, for as long as anybody may wait for them.
pub(super) async fn in_time<T>(work: impl Future<Output = Result<T, RecordsError>>) -> Result<T, RecordsError> {
    let late = || Err(unavailable("the database did not answer in time"));
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| late())
}

/// Whether a transaction that failed is to be done again; says so after a pause that lets the other one end.
pub(super) async fn may_pass(error: &RecordsError, attempt: u32) -> bool {
    let again = attempt < ATTEMPTS && outcome::may_pass(error);
    if again {
        tracing::debug!(%error, attempt, "a transaction is done again");
        tokio::time::sleep(Duration::from_millis(1 << attempt)).await;
    }
    again
}

async fn in_line(writing: &Arc<Mutex<()>>) -> Result<OwnedMutexGuard<()>, RecordsError> {
    let waited = tokio::time::timeout(PATIENCE, Arc::clone(writing).lock_owned()).await;
    waited.map_err(|_| unavailable("the writers before did not finish in time"))
}

/// A write transaction.
#[derive(Debug)]
pub(super) struct Write {
    // Dropped in this order: rolled back first, then the next writer's turn.
    lent: Lent,
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Write {
    /// Where its statements run.
    pub(super) fn on(&mut self) -> &mut AnyConnection {
        &mut self.lent
    }

    /// Commits what was done, or undoes it.
    pub(super) async fn end<T>(self, done: Result<T, RecordsError>) -> Result<T, RecordsError> {
        match done {
            Ok(done) => self.commit().await.map(|()| done),
            Err(error) => {
                self.roll_back(&error).await;
                Err(error)
            }
        }
    }

    /// Makes it so. A failure here hardly ever says what happened.
    pub(super) async fn commit(mut self) -> Result<(), RecordsError> {
        within(PATIENCE, sqlx::raw_sql("COMMIT").execute(&mut *self.lent)).await.map_err(outcome::of_commit)?;
        self.lent.rests();
        Ok(())
    }

    /// After `error`. The connection is kept only if the server answers on it; otherwise the drop closes it, and the
    /// server ends the transaction.
    async fn roll_back(mut self, error: &RecordsError) {
        if outcome::is_of_connection(error) {
            return;
        }
        if within(PATIENCE, sqlx::raw_sql("ROLLBACK").execute(&mut *self.lent)).await.is_ok() {
            self.lent.rests();
        }
    }
}

pub(super) fn unavailable(why: impl Into<String>) -> RecordsError {
    RecordsError::Unavailable(Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(why.into())))
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
        if records.db().engine() == Engine::Postgres {
            return;
        }
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
