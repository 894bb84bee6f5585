//! Two whole gateways on one Redis and one set of records: a cap is the sum of both, to the unit.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::gateway::{PRICING, Setup};
use crate::support::process::{Serve, free_ports};
use crate::support::{Client, Gateway, RedisServer};

const CAP: u64 = 4_000;
/// A client asks so often after it was refused before it gives up: "a client that keeps asking".
const ASKS_AGAIN: u64 = 20;

struct Pair {
    redis: RedisServer,
    gateways: [Gateway; 2],
    _folder: tempfile::TempDir,
}

impl Pair {
    fn start() -> Self {
        let (redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
        let more = format!(
            "store: {{ records: \"sqlite:{}/tollgate.db\", ledger: {{ url: \"{}\" }}, journal: {{ path: journal }} }}\n\
             stripe: {{ mode: off }}\n",
            folder.path().display(),
            redis.url()
        );
        let pricing = PRICING.replace(
            "  pro: ",
            &format!("  small: {{ monthly: 9, included: {{ api_units: {CAP} }}, overage: none }}\n  pro: "),
        );
        let gateways = [(); 2].map(|()| Gateway::with(&Setup { pricing: &pricing, more: &more, ..Setup::default() }));
        Self { redis, gateways, _folder: folder }
    }

    /// A tenant whose key both gateways know.
    fn tenant(&self, id: &str) -> Arc<String> {
        let gateway = &self.gateways[0];
        Arc::new(gateway.runtime.block_on(gateway.tenant(id, "small")))
    }

    /// Clients at both gateways spend until refused for good; answers units served by each.
    fn spend(&self, key: &Arc<String>, meanwhile: impl Future<Output = ()>) -> [u64; 2] {
        let served = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let runtime = &self.gateways[0].runtime;
        let clients = self.gateways.iter().zip(&served).flat_map(|(gateway, served)| {
            (0..8).map(move |_| spend_until_refused(gateway.client(), Arc::clone(key), Arc::clone(served)))
        });
        let clients: Vec<_> = clients.map(|client| runtime.spawn(client)).collect();
        runtime.block_on(async {
            meanwhile.await;
            for client in clients {
                client.await.unwrap();
            }
        });
        served.map(|served| served.load(Ordering::Relaxed))
    }

    /// Units in the records after everything was flushed.
    fn flushed(&self, id: &str) -> u64 {
        self.gateways[0].runtime.block_on(async {
            for gateway in &self.gateways {
                gateway.running().flush_now().await.unwrap();
            }
            self.gateways[0].used(id).await
        })
    }
}

async fn spend_until_refused(mut client: Client, key: Arc<String>, served: Arc<AtomicU64>) {
    let mut refused = 0;
    while refused < ASKS_AGAIN {
        let got = client.get("/one", &key).await.unwrap();
        match got.status {
            200 => {
                served.fetch_add(1, Ordering::Relaxed);
                refused = 0;
            }
            402 => refused += 1,
            // Being rebuilt: ask again, for as long as it takes.
            503 => {}
            other => panic!("{other}: {}", got.text()),
        }
        if got.status != 200 {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
}

#[test]
fn two_gateways_admit_exactly_the_cap() {
    let pair = Pair::start();
    let key = pair.tenant("t");
    let started = Instant::now();
    let served = pair.spend(&key, async {});
    println!("{served:?} units in {:?}", started.elapsed());
    let stats: String = redis::from_redis_value(pair.redis.command(&["INFO", "commandstats"])).unwrap();
    println!("{}", stats.lines().filter(|line| line.contains("eval")).collect::<Vec<_>>().join("\n"));
    assert_eq!(served.iter().sum::<u64>(), CAP);
    assert!(served.iter().all(|served| *served > 0));
    assert_eq!(pair.flushed("t"), CAP);
}

#[test]
fn two_gateways_admit_exactly_the_cap_while_redis_is_emptied_and_paused() {
    let pair = Pair::start();
    let key = pair.tenant("t");
    let served = pair.spend(&key, async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            pair.redis.flush_all();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        pair.redis.pause();
        tokio::time::sleep(Duration::from_millis(500)).await;
        pair.redis.go_on();
    });
    assert_eq!(served.iter().sum::<u64>(), CAP, "{served:?}");
    assert_eq!(pair.flushed("t"), CAP);
}

/// A drained gateway is not waited for: the other one rebuilds alone.
#[test]
fn the_last_gateway_goes_on_when_the_other_was_drained() {
    let mut pair = Pair::start();
    let key = pair.tenant("t");
    pair.gateways[1].running.take().unwrap().stop();
    pair.redis.flush_all();
    let gateway = &pair.gateways[0];
    let served = Arc::new(AtomicU64::new(0));
    gateway.runtime.block_on(spend_until_refused(gateway.client(), key, Arc::clone(&served)));
    assert_eq!(served.load(Ordering::Relaxed), CAP);
}

/// `rediss://`: the system's certificates are trusted, or those that `SSL_CERT_FILE` names.
#[test]
fn a_ledger_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=CA:FALSE",
        ])
        .args(["-keyout", &file("key.pem"), "-out", &file("cert.pem")])
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed by tests/run");
    assert!(made.success());
    let [tls_port, proxy, admin] = free_ports();
    let (tls_text, cert, key) = (tls_port.to_string(), file("cert.pem"), file("key.pem"));
    let redis = RedisServer::with(&[
        "--tls-port",
        &tls_text,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        &cert,
    ]);
    let store = format!(
        "store: {{ records: \"sqlite:tollgate.db\", ledger: {{ url: \"rediss://localhost:{tls_port}\" }}, \
         journal: {{ path: journal }} }}\nstripe: {{ mode: off }}\n"
    );
    let setup = Setup { more: &store, ..Setup::default() };
    crate::support::gateway::write_config(folder.path(), "http://127.0.0.1:9", &setup, proxy, admin);
    let mut serve = Serve::start_with(folder.path(), &[("SSL_CERT_FILE", &cert)]);
    assert!(serve.wait_ready(([127, 0, 0, 1], proxy).into()));
    let open: Option<u8> = redis::from_redis_value(redis.command(&["HGET", "{tg:0}:m", "open"])).unwrap();
    assert_eq!(open, Some(1), "the generation was opened over TLS");
    serve.stop();
}

#[test]
fn what_one_node_changes_the_other_knows_within_a_second_or_two() {
    let pair = Pair::start();
    let key = pair.tenant("acme");
    let [here, there] = &pair.gateways;
    here.runtime.block_on(async {
        let mut client = there.client();
        let plan = |got: crate::support::Got| got.header("ratelimit-policy").to_owned();
        assert!(plan(client.get("/one", &key).await.unwrap()).contains("q=4000;"));
        let upgraded = here.admin("PATCH", "/api/v1/tenants/acme", &serde_json::json!({ "plan": "pro" })).await;
        assert_eq!(upgraded.status, 200, "{}", upgraded.text());
        let keys = here.admin("GET", "/api/v1/tenants/acme/keys", &serde_json::Value::Null).await.json();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(plan(client.get("/one", &key).await.unwrap()).contains("q=10000;"), "the upgrade is known");
        let path = format!("/api/v1/tenants/acme/keys/{}", keys["data"][0]["id"].as_str().unwrap());
        assert!(here.admin("DELETE", &path, &serde_json::Value::Null).await.status < 300);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let got = client.get("/one", &key).await.unwrap();
        assert_eq!((got.status, got.json()["code"].as_str()), (401, Some("revoked_credential")));
    });
}
