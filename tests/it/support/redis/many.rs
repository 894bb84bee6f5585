//! Redis as it is run where it must not stop: a Cluster, or a master with a replica under Sentinel.

use std::time::{Duration, Instant};

use super::RedisServer;
use crate::support::process::free_ports;

/// Primaries that share the slots, without replicas.
pub struct RedisCluster(pub Vec<RedisServer>);

impl RedisCluster {
    pub fn start(primaries: u16) -> Self {
        let servers: Vec<_> = (0..primaries).map(|_| primary()).collect();
        let (first, first_bus) = &servers[0];
        for ((server, _), n) in servers.iter().zip(0..) {
            let (from, to) = (n * 16384 / u32::from(primaries), (n + 1) * 16384 / u32::from(primaries) - 1);
            server.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
            let (port, bus) = (first.port().to_string(), first_bus.to_string());
            server.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        let cluster = Self(servers.into_iter().map(|(server, _)| server).collect());
        cluster.wait_until_whole();
        cluster
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.0.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Its place among the primaries, of the one that has `key`.
    pub fn owner(&self, key: &str) -> usize {
        let slot: usize = redis::from_redis_value(self.0[0].command(&["CLUSTER", "KEYSLOT", key])).unwrap();
        (0..self.0.len()).find(|n| slot < (n + 1) * 16384 / self.0.len()).unwrap()
    }

    fn wait_until_whole(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        let whole = |server: &RedisServer| {
            let info: String = redis::from_redis_value(server.command(&["CLUSTER", "INFO"])).unwrap();
            info.contains("cluster_state:ok") && info.contains(&format!("cluster_known_nodes:{}", self.0.len()))
        };
        while !self.0.iter().all(whole) {
            assert!(Instant::now() < end, "the Cluster does not come together");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn primary() -> (RedisServer, u16) {
    let [bus] = free_ports();
    let server = RedisServer::with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus.to_string(),
        "--cluster-node-timeout",
        "2000",
        "--cluster-require-full-coverage",
        "no",
    ]);
    (server, bus)
}

/// A master called `main`, its replica, and one Sentinel that is enough for a fail-over.
pub struct RedisSentinel {
    pub master: RedisServer,
    pub replica: RedisServer,
    sentinel: RedisServer,
}

impl RedisSentinel {
    pub fn start() -> Self {
        let master = RedisServer::start();
        let port = master.port().to_string();
        let replica = RedisServer::with(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
        let sentinel = RedisServer::sentinel(&format!(
            "sentinel monitor main 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 3000\n"
        ));
        let known = Self { master, replica, sentinel };
        known.wait_for_replica();
        known
    }

    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/main", self.sentinel.port())
    }

    fn wait_for_replica(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        let ready = || {
            let info: String = redis::from_redis_value(self.replica.command(&["INFO", "replication"])).unwrap();
            let seen: String = redis::from_redis_value(self.sentinel.command(&["INFO", "sentinel"])).unwrap();
            info.contains("master_link_status:up") && seen.contains("slaves=1")
        };
        while !ready() {
            assert!(Instant::now() < end, "the replica does not follow");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
