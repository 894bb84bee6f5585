//! SIGTERM: what is in flight ends well, nothing new begins, everything is counted and given back; a second one cuts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::support::gateway::{Setup, admin, rows, runtime, write_config};
use crate::support::process::{Serve, free_ports};
use crate::support::{Client, Got, Origin};

struct Bench {
    folder: TempDir,
    origin: Origin,
    proxy: SocketAddr,
    admin: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> (Self, Serve) {
        let (runtime, origin, folder) = (runtime(), Origin::start(), tempfile::tempdir().unwrap());
        let [proxy, admin] = free_ports();
        let setup = Setup { more: "stripe: { mode: off }\n", ..Setup::default() };
        write_config(folder.path(), &origin.url(), &setup, proxy, admin);
        let [proxy, admin] = [proxy, admin].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let bench = Self { folder, origin, proxy, admin, runtime };
        let serve = bench.serve();
        (bench, serve)
    }

    fn serve(&self) -> Serve {
        let mut serve = Serve::start(self.folder.path(), None);
        assert!(serve.wait_ready(self.proxy));
        serve
    }

    fn tenant(&self, id: &str, plan: &str) -> String {
        self.runtime.block_on(async {
            let body = json!({ "id": id, "name": id, "plan": plan });
            assert_eq!(admin(self.admin, "POST", "/api/v1/tenants", &body).await.status, 201);
            let made = admin(self.admin, "POST", &format!("/api/v1/tenants/{id}/keys"), &json!({ "name": "k" })).await;
            made.json()["key"].as_str().unwrap().to_owned()
        })
    }

    /// Starts a call, and waits until the origin has it.
    fn begin(&self, tenant: &str, path: &'static str, key: &str) -> JoinHandle<std::io::Result<Got>> {
        let (mut client, key) = (Client::new(self.proxy), key.to_owned());
        let before = self.origin.count(tenant, path);
        let call = self.runtime.spawn(async move { client.get(path, &key).await });
        while self.origin.count(tenant, path) == before {
            std::thread::sleep(Duration::from_millis(5));
        }
        call
    }

    /// Nothing new begins.
    fn wait_refused(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(self.proxy).is_ok() {
            assert!(Instant::now() < end, "new connections are refused");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn used(&self, tenant: &str) -> u64 {
        let path = format!("/api/v1/tenants/{tenant}/usage");
        let usage = self.runtime.block_on(admin(self.admin, "GET", &path, &Value::Null));
        usage.json()["meters"][0]["used"].as_u64().unwrap()
    }

    /// What nodes hold in the ledger of a tenant beyond what they have used.
    fn unspent(&self, tenant: &str) -> i64 {
        let query = "SELECT SUM(h.a - h.u), COUNT(*) FROM ledger_hold AS h JOIN tenant AS t ON t.num = h.tenant WHERE t.id = $1";
        let rows = self.runtime.block_on(rows(self.folder.path(), query, tenant));
        assert!(rows[0][1] > 0, "{tenant} has been settled");
        rows[0][0]
    }
}

#[test]
fn what_is_in_flight_ends_well_and_everything_is_counted_and_given_back() {
    let (bench, mut serve) = Bench::new();
    let (rich, poor) = (bench.tenant("rich", "pro"), bench.tenant("poor", "free"));
    let mut idle = Client::new(bench.proxy);
    assert_eq!(bench.runtime.block_on(idle.get("/two/x", &poor)).unwrap().status, 200);
    let slow = bench.begin("rich", "/slow/1500", &rich);
    let streamed = bench.begin("poor", "/drip/250", &poor);
    serve.terminate();
    bench.wait_refused();
    assert!(bench.runtime.block_on(idle.get("/one", &poor)).is_err(), "an idle connection was closed");
    let slow = bench.runtime.block_on(slow).unwrap().unwrap();
    assert_eq!((slow.status, slow.text().as_str()), (200, "slow\n"));
    let streamed = bench.runtime.block_on(streamed).unwrap().unwrap();
    assert_eq!(streamed.text(), "drop\n".repeat(250), "to the last byte");
    assert_eq!(serve.ended(Duration::from_secs(10)).code(), Some(0));
    assert_eq!((bench.unspent("poor"), bench.unspent("rich")), (0, 0), "nothing is held by who is gone");
    let serve = bench.serve();
    assert_eq!((bench.used("rich"), bench.used("poor")), (1, 3));
    serve.stop();
}

#[test]
fn a_second_signal_cuts() {
    let (bench, mut serve) = Bench::new();
    let key = bench.tenant("acme", "free");
    let slow = bench.begin("acme", "/slow/30000", &key);
    serve.terminate();
    bench.wait_refused();
    std::thread::sleep(Duration::from_millis(200));
    assert!(serve.is_running(), "the first one waits");
    let started = Instant::now();
    serve.terminate();
    assert_eq!(serve.ended(Duration::from_secs(20)).code(), Some(0), "long before the drain's own end");
    println!("cut in {:?}", started.elapsed());
    assert!(bench.runtime.block_on(slow).unwrap().is_err(), "cut off");
    assert_eq!(bench.unspent("acme"), 0);
    let serve = bench.serve();
    assert!(bench.used("acme") <= 1, "billed <= served");
    serve.stop();
}
