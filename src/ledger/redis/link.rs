//! The connections: one to each server that has buckets, opened by whoever surveys them, never by a request.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};

use super::servers::{self, Address};
use super::url::{Kind, Url};
use super::{Bucket, Unfit, check};
use crate::ledger::LedgerError;

/// To find the servers, connect to all and greet them; spent in the background only.
const OPEN: Duration = Duration::from_secs(2);

/// Which server has which bucket, and a connection to each that can be reached.
pub(super) struct Link {
    url: Url,
    routes: RwLock<Routes>,
}

#[derive(Default)]
struct Routes {
    servers: Vec<Server>,
    /// By bucket: its server's place; empty before the first look.
    of: Vec<usize>,
    /// A server said that a bucket is elsewhere.
    stale: bool,
}

struct Server {
    address: Address,
    connection: Option<MultiplexedConnection>,
}

/// A command brought no answer.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The script is not in the server's memory: to be sent in full.
    NoScript,
    /// Nothing happened.
    NotSent(Arc<str>),
    /// It may have happened.
    Unknown(Arc<str>),
}

impl Link {
    pub(super) fn new(url: Url) -> Self {
        Self { url, routes: RwLock::default() }
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether every bucket has a connection.
    pub(super) fn is_whole(&self) -> bool {
        let routes = self.routes.read();
        !routes.stale && !routes.of.is_empty() && routes.servers.iter().all(|server| server.connection.is_some())
    }

    /// Which server has the bucket, as a number; `None` before the first look.
    pub(super) fn server_of(&self, bucket: Bucket) -> Option<usize> {
        self.routes.read().of.get(bucket.index()).copied()
    }

    /// Looks for the servers and connects to those that are missing; false if none can be reached.
    ///
    /// # Errors
    /// [`Unfit`]: a server that can be reached must not be used.
    pub(super) async fn open(&self) -> Result<bool, Unfit> {
        let Ok(places) = tokio::time::timeout(OPEN, servers::find(&self.url)).await else { return Ok(false) };
        let (addresses, of) = match places {
            Ok(places) => places,
            Err(error) => {
                tracing::debug!(%error, redis = %self.url, "the ledger cannot be reached");
                return Ok(false);
            }
        };
        let connecting = addresses.into_iter().map(|address| async {
            let connection = match self.known(&address) {
                Some(connection) => Some(connection),
                None => self.connect(&address).await?,
            };
            Ok(Server { address, connection })
        });
        let servers: Vec<_> = futures_util::future::try_join_all(connecting).await?;
        let reached = servers.iter().any(|server| server.connection.is_some());
        *self.routes.write() = Routes { servers, of, stale: false };
        Ok(reached)
    }

    fn known(&self, address: &Address) -> Option<MultiplexedConnection> {
        let routes = self.routes.read();
        routes.servers.iter().find(|server| server.address == *address)?.connection.clone()
    }

    /// A connection to a server that is fit; `None` if it cannot be reached.
    async fn connect(&self, address: &Address) -> Result<Option<MultiplexedConnection>, Unfit> {
        let greeting = async {
            let mut connection = servers::connect(&self.url, address).await?;
            let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
            Ok::<_, RedisError>((connection, info))
        };
        match tokio::time::timeout(OPEN, greeting).await {
            Ok(Ok((connection, info))) => {
                check::judge(&info, self.url.kind == Kind::Cluster)?;
                tracing::info!(server = %address, "connected to the ledger");
                Ok(Some(connection))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, server = %address, "a server of the ledger cannot be reached");
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }

    /// Sends one command about a bucket, once.
    pub(super) async fn run(&self, bucket: Bucket, cmd: &Cmd) -> Result<Value, Failure> {
        let connection = {
            let routes = self.routes.read();
            let server = routes.of.get(bucket.index()).and_then(|place| routes.servers.get(*place));
            server.and_then(|server| server.connection.clone())
        };
        let Some(mut connection) = connection else { return Err(Failure::NotSent("not connected".into())) };
        let answered = connection.req_packed_command(cmd).await.and_then(Value::extract_error);
        answered.map_err(|error| self.failed(bucket, &error))
    }

    fn failed(&self, bucket: Bucket, error: &RedisError) -> Failure {
        if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) {
            return Failure::NoScript;
        }
        // A server that was demoted, or is gone: its successor is looked for.
        let demoted = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        if demoted || (error.is_io_error() && !error.is_timeout()) {
            self.forget(bucket);
        }
        if error.is_cluster_error() {
            self.routes.write().stale = true;
        }
        let text = error.to_string().into();
        if never_carried_out(error) { Failure::NotSent(text) } else { Failure::Unknown(text) }
    }

    /// Drops the connection to the server of `bucket`: the next survey opens another.
    pub(super) fn forget(&self, bucket: Bucket) {
        let mut routes = self.routes.write();
        let place = routes.of.get(bucket.index()).copied();
        if let Some(server) = place.and_then(|place| routes.servers.get_mut(place)) {
            server.connection = None;
        }
    }
}

impl From<Failure> for LedgerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoScript => Self::Unavailable("the script is not loaded".into()),
            Failure::NotSent(text) => Self::Unavailable(text),
            Failure::Unknown(text) => Self::Unknown(text),
        }
    }
}

/// Refused before anything was done: wrong server, still loading.
fn never_carried_out(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::CrossSlot
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
        )
    )
}
