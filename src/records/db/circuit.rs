//! While the server is away, one caller at a time finds out whether it is back; the others hear at once that it is not.

use std::io::ErrorKind;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyPool};

/// Whether a database lately gave no connection. Broken by whoever waited for one in vain, whole again with the first.
#[derive(Debug, Default)]
pub(in crate::records) struct Circuit {
    broken: AtomicBool,
    probing: AtomicBool,
}

/// The one who waits while the circuit is broken; its drop lets the next one.
struct Probe<'c>(&'c Circuit);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.0.probing.store(false, Release);
    }
}

impl Circuit {
    pub(super) async fn connection(&self, pool: &AnyPool) -> sqlx::Result<PoolConnection<Any>> {
        let _probe = if self.broken.load(Acquire) { Some(self.probe()?) } else { None };
        let connection = pool.acquire().await;
        // A closed pool says nothing about the server.
        self.broken.store(connection.as_ref().is_err_and(|error| !matches!(error, sqlx::Error::PoolClosed)), Release);
        connection
    }

    /// After `error` of a statement: a server that does not answer is not asked by everybody.
    pub(super) fn note(&self, error: &sqlx::Error) {
        if matches!(error, sqlx::Error::Io(cause) if cause.kind() == ErrorKind::TimedOut) {
            self.broken.store(true, Release);
        }
    }

    fn probe(&self) -> sqlx::Result<Probe<'_>> {
        if self.probing.swap(true, AcqRel) {
            return Err(sqlx::Error::Io(std::io::Error::new(ErrorKind::NotConnected, "the database is not there")));
        }
        Ok(Probe(self))
    }
}
