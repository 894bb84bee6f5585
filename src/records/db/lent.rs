//! A connection on loan from its pool, and what reads through one.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use sqlx::any::{AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, Either, Execute, Executor, SqlStr};

use super::PATIENCE;
use super::circuit::Circuit;

/// A connection that goes back to its pool only if nothing is under way on it; otherwise it is closed, and the database
/// undoes its transaction. One to a server that stopped answering would take up its pool's room for ever.
#[derive(Debug)]
pub(super) struct Lent {
    connection: Option<PoolConnection<Any>>,
    at_rest: bool,
}

impl Lent {
    pub(super) async fn from(pool: &AnyPool, circuit: &Circuit) -> sqlx::Result<Self> {
        Ok(Self { connection: Some(circuit.connection(pool).await?), at_rest: false })
    }

    /// Nothing is under way any more.
    pub(super) fn rests(&mut self) {
        self.at_rest = true;
    }
}

const THERE: &str = "taken only by the drop";

impl Deref for Lent {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        self.connection.as_ref().expect(THERE)
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        self.connection.as_mut().expect(THERE)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| !self.at_rest) {
            drop(connection.detach());
        }
    }
}

/// `work`, or an error once it has taken longer than `patience`.
pub(super) async fn within<T>(patience: Duration, work: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let late = || sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"));
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(late()))
}

/// Where statements run that change nothing; each on a connection of its own, and not for ever.
#[derive(Clone, Copy, Debug)]
pub(in crate::records) struct Reader<'p> {
    pub(super) pool: &'p AnyPool,
    pub(super) circuit: &'p Circuit,
}

type Step = Either<AnyQueryResult, AnyRow>;

impl Reader<'_> {
    async fn steps<'q>(self, query: impl Execute<'q, Any> + 'q) -> sqlx::Result<Vec<Step>> {
        let mut lent = Lent::from(self.pool, self.circuit).await?;
        let steps = within(PATIENCE, lent.fetch_many(query).try_collect()).await;
        if let Err(error) = &steps {
            self.circuit.note(error);
        }
        if steps.as_ref().map_or_else(|error| error.as_database_error().is_some(), |_| true) {
            lent.rests();
        }
        steps
    }
}

impl<'p> Executor<'p> for Reader<'p> {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Step>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        stream::once(self.steps(query)).map_ok(|steps| stream::iter(steps.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<AnyRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let first = |steps: Vec<Step>| steps.into_iter().find_map(Either::right);
        async move { Ok(first(self.steps(query).await?)) }.boxed()
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [AnyTypeInfo]) -> BoxFuture<'e, sqlx::Result<AnyStatement>>
    where
        'p: 'e,
    {
        self.pool.prepare_with(sql, parameters)
    }
}
