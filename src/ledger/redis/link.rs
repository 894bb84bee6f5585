//! The connection: one set per node, opened by whoever surveys the buckets, never by a request.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, ServerErrorKind, TlsMode, Value,
};

use super::url::{Kind, Url};
use crate::ledger::LedgerError;

/// To connect and greet; spent in the background only.
const CONNECT: Duration = Duration::from_secs(1);
/// For an answer; then it is unknown whether the command was carried out.
const ANSWER: Duration = Duration::from_millis(100);
/// Commands on the wire at once, before the client waits with more.
const PIPELINE: usize = 1024;

/// A connection that may be missing.
pub(super) struct Link {
    url: Url,
    connection: RwLock<Option<Connection>>,
}

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) fn new(url: Url) -> Self {
        Self { url, connection: RwLock::default() }
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn is_up(&self) -> bool {
        self.connection.read().is_some()
    }

    /// Whether one process answers for all buckets, so that its silence is that of all.
    pub(super) fn is_one_server(&self) -> bool {
        self.url.kind != Kind::Cluster
    }

    /// Opens the connection anew and answers `INFO` of every server that takes writes; it is used from
    /// [`Link::take`] on.
    pub(super) async fn open(&self) -> Result<(Opened, Vec<String>), LedgerError> {
        let opening = async {
            let mut connection = connect(&self.url).await?;
            let info = connection.info().await?;
            Ok((Opened(connection), info))
        };
        match tokio::time::timeout(2 * CONNECT, opening).await {
            Ok(opened) => opened.map_err(|error: RedisError| unavailable(&error)),
            Err(_) => Err(LedgerError::Unavailable(format!("{}: no connection in time", self.url).into())),
        }
    }

    pub(super) fn take(&self, opened: Opened) {
        *self.connection.write() = Some(opened.0);
    }

    /// Sends one command, once.
    pub(super) async fn run(&self, cmd: &Cmd) -> Result<Value, Failure> {
        let connection = self.connection.read().clone();
        let Some(mut connection) = connection else { return Err(Failure::NotSent("not connected".into())) };
        let answered = match &mut connection {
            Connection::One(one) => one.req_packed_command(cmd).await,
            Connection::Cluster(cluster) => cluster.req_packed_command(cmd).await,
        };
        answered.and_then(Value::extract_error).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &RedisError) -> Failure {
        let text: Arc<str> = error.to_string().into();
        if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) {
            return Failure::NoScript;
        }
        // A server that was demoted: its successor is looked for. A Cluster's client finds it by itself.
        let demoted = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        if demoted || (error.is_io_error() && !error.is_timeout()) {
            self.forget();
        }
        if never_carried_out(error) { Failure::NotSent(text) } else { Failure::Unknown(text) }
    }

    /// Drops the connection: the next survey opens another. A Cluster's connection mends itself.
    pub(super) fn forget(&self) {
        if self.is_one_server() {
            *self.connection.write() = None;
        }
    }
}

/// A connection that was greeted but is not in use.
pub(super) struct Opened(Connection);

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

impl From<Failure> for LedgerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoScript => Self::Unavailable("the script is not loaded".into()),
            Failure::NotSent(text) => Self::Unavailable(text),
            Failure::Unknown(text) => Self::Unknown(text),
        }
    }
}

/// Refused before anything was done: wrong server, still loading, not allowed.
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
        ) | ErrorKind::ClusterConnectionNotFound
    )
}

fn unavailable(error: &RedisError) -> LedgerError {
    LedgerError::Unavailable(error.to_string().into())
}

impl Connection {
    /// `INFO` of every server that takes writes.
    async fn info(&mut self) -> Result<Vec<String>, RedisError> {
        let cmd = redis::cmd("INFO");
        let answer = match self {
            Self::One(one) => one.req_packed_command(&cmd).await?,
            Self::Cluster(cluster) => {
                let masters = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                cluster.route_command(cmd, masters).await?
            }
        };
        let mut texts = Vec::new();
        collect_texts(answer.extract_error()?, &mut texts);
        Ok(texts)
    }
}

/// One text from one server; from several, a map or a list of pairs of address and text.
fn collect_texts(answer: Value, texts: &mut Vec<String>) {
    if let Value::Map(pairs) = answer {
        for (_, text) in pairs {
            collect_texts(text, texts);
        }
    } else if let Value::Array(values) = answer {
        for value in values {
            collect_texts(value, texts);
        }
    } else {
        texts.extend(redis::from_redis_value::<String>(answer).ok().filter(|text| text.contains("run_id:")));
    }
}

async fn connect(url: &Url) -> Result<Connection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(ANSWER))
        .set_pipeline_buffer_size(PIPELINE);
    match &url.kind {
        Kind::Single => {
            let client = Client::open(servers(url)?.swap_remove(0))?;
            Ok(Connection::One(client.get_multiplexed_async_connection_with_config(&config).await?))
        }
        Kind::Sentinel { master } => {
            let mut client = sentinels(url, master)?.build()?;
            Ok(Connection::One(client.get_async_connection_with_config(&config).await?))
        }
        Kind::Cluster => cluster(url).await,
    }
}

async fn cluster(url: &Url) -> Result<Connection, RedisError> {
    let client = ClusterClient::builder(servers(url)?)
        .connection_timeout(CONNECT)
        .response_timeout(ANSWER)
        .tcp_settings(tcp())
        // What was sent is never sent again: the next settle has a new `ctr`, the next generation a new number.
        .retries(0)
        .build()?;
    Ok(Connection::Cluster(client.get_async_connection().await?))
}

fn servers(url: &Url) -> Result<Vec<ConnectionInfo>, RedisError> {
    url.addresses.iter().map(|address| server(url, address)).collect()
}

fn server(url: &Url, address: &(String, u16)) -> Result<ConnectionInfo, RedisError> {
    let mut login = RedisConnectionInfo::default().set_db(i64::from(url.database));
    if let Some(user) = &url.user {
        login = login.set_username(user);
    }
    if let Some(password) = &url.password {
        login = login.set_password(password);
    }
    Ok(place(url, address).into_connection_info()?.set_tcp_settings(tcp()).set_redis_settings(login))
}

/// User and password are the servers'; sentinels are asked without.
fn sentinels(url: &Url, master: &str) -> Result<SentinelClientBuilder, RedisError> {
    let places = url.addresses.iter().map(|address| place(url, address));
    let mut builder = SentinelClientBuilder::new(places, master, SentinelServerType::Master)?
        .set_client_to_redis_db(i64::from(url.database))
        .set_client_to_redis_tcp_settings(tcp())
        .set_client_to_sentinel_tcp_settings(tcp());
    if url.tls {
        builder =
            builder.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_sentinel_tls_mode(TlsMode::Secure);
    }
    if let Some(user) = &url.user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = &url.password {
        builder = builder.set_client_to_redis_password(password);
    }
    Ok(builder)
}

fn place(url: &Url, (host, port): &(String, u16)) -> ConnectionAddr {
    if url.tls {
        ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host.clone(), *port)
    }
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}
