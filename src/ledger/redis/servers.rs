//! Finding the servers that take writes, and connecting to one of them.
//!
//! A Cluster's slots are asked for here and not left to the client library: there, one primary that does not answer
//! holds up the commands to all others.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    TlsMode, Value,
};

use super::url::{Kind, Url};
use super::{Bucket, wire};

/// To connect; spent in the background only.
const CONNECT: Duration = Duration::from_millis(500);
/// For an answer in the background; a settle waits less. Then it is unknown whether the command was carried out.
const ANSWER: Duration = Duration::from_secs(1);
/// Commands on the wire at once, before the client waits with more.
const PIPELINE: usize = 1024;
/// Hash slots of a Cluster.
const SLOTS: u16 = 16_384;

/// Host and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(String, u16);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

/// The servers, and which of them has each bucket.
pub(super) type Places = (Vec<Address>, Vec<usize>);

/// Finds out which servers take writes now.
pub(super) async fn find(url: &Url) -> Result<Places, RedisError> {
    let everywhere = |address| (vec![address], Bucket::all().map(|_| 0).collect());
    match &url.kind {
        Kind::Single => first(url).map(everywhere),
        Kind::Sentinel { master } => {
            let client = sentinels(url, master)?.build()?.async_get_client().await?;
            address_of(client.get_connection_info().addr()).map(everywhere)
        }
        Kind::Cluster => slots(url).await,
    }
}

fn first(url: &Url) -> Result<Address, RedisError> {
    let address = url.addresses.first().map(|(host, port)| Address(host.clone(), *port));
    address.ok_or_else(|| misunderstood("no address"))
}

fn address_of(address: &ConnectionAddr) -> Result<Address, RedisError> {
    let (ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) = address else {
        return Err(misunderstood("a Sentinel named no host and port"));
    };
    Ok(Address(host.clone(), *port))
}

/// Asks one node of a Cluster after the other.
async fn slots(url: &Url) -> Result<Places, RedisError> {
    let mut failure = misunderstood("no address");
    for (host, port) in &url.addresses {
        match slots_from(url, &Address(host.clone(), *port)).await {
            Ok(places) => return Ok(places),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn slots_from(url: &Url, asked: &Address) -> Result<Places, RedisError> {
    let mut connection = connect(url, asked).await?;
    let ranges: Vec<Value> = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
    let ranges: Option<Vec<_>> = ranges.into_iter().map(|range| slot_range(range, asked)).collect();
    let ranges = ranges.ok_or_else(|| misunderstood("CLUSTER SLOTS"))?;
    let mut servers: Vec<_> = ranges.iter().map(|(_, _, server)| server.clone()).collect();
    servers.sort();
    servers.dedup();
    let place = |bucket: Bucket| {
        let slot = u64::from(slot(&bucket.tag()));
        let (_, _, owner) = ranges.iter().find(|(from, to, _)| (*from..=*to).contains(&slot))?;
        servers.iter().position(|server| server == owner)
    };
    let of = Bucket::all().map(place).collect::<Option<_>>();
    Ok((servers.clone(), of.ok_or_else(|| misunderstood("a slot of the Cluster has no primary"))?))
}

/// First slot, last slot, primary. A Cluster whose nodes have no name of their own leaves the host empty.
fn slot_range(range: Value, asked: &Address) -> Option<(u64, u64, Address)> {
    let mut fields = wire::list(range)?.into_iter();
    let (from, to) = (wire::int(fields.next()?)?, wire::int(fields.next()?)?);
    let mut primary = wire::list(fields.next()?)?.into_iter();
    let host = wire::text(primary.next()?).filter(|host| !host.is_empty()).unwrap_or_else(|| asked.0.clone());
    let port = u16::try_from(wire::int(primary.next()?)?).ok()?;
    Some((from, to, Address(host, port)))
}

/// CRC-16/XMODEM modulo the number of slots, as in Redis's Cluster specification, "Key distribution model".
fn slot(tag: &str) -> u16 {
    let step = |crc: u16| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
    let byte = |crc: u16, byte: u8| (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| step(crc));
    tag.bytes().fold(0, byte) % SLOTS
}

fn misunderstood(what: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, what))
}

/// Connects and logs in.
pub(super) async fn connect(url: &Url, address: &Address) -> Result<MultiplexedConnection, RedisError> {
    let mut login = RedisConnectionInfo::default().set_db(i64::from(url.database));
    if let Some(user) = &url.user {
        login = login.set_username(user);
    }
    if let Some(password) = &url.password {
        login = login.set_password(password);
    }
    let place = place(url, address).into_connection_info()?.set_tcp_settings(tcp()).set_redis_settings(login);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(ANSWER))
        .set_pipeline_buffer_size(PIPELINE);
    Client::open(place)?.get_multiplexed_async_connection_with_config(&config).await
}

/// User and password are the servers'; sentinels are asked without.
fn sentinels(url: &Url, master: &str) -> Result<SentinelClientBuilder, RedisError> {
    let places = url.addresses.iter().map(|(host, port)| place(url, &Address(host.clone(), *port)));
    let builder = SentinelClientBuilder::new(places, master, SentinelServerType::Master)?
        .set_client_to_sentinel_tcp_settings(tcp());
    let builder = match (&url.user, &url.password) {
        (Some(user), Some(password)) => {
            builder.set_client_to_redis_username(user).set_client_to_redis_password(password)
        }
        (None, Some(password)) => builder.set_client_to_redis_password(password),
        (_, None) => builder,
    };
    let tls = || TlsMode::Secure;
    Ok(if url.tls {
        builder.set_client_to_redis_tls_mode(tls()).set_client_to_sentinel_tls_mode(tls())
    } else {
        builder
    })
}

fn place(url: &Url, Address(host, port): &Address) -> ConnectionAddr {
    if url.tls {
        ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host.clone(), *port)
    }
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's own example, and two that a server gave.
    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot("123456789"), 0x31C3 % SLOTS);
        assert_eq!(slot("foo"), 12_182);
        assert_eq!(slot("bar"), 5_061);
    }
}
