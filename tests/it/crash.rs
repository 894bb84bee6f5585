//! `kill -9` at random moments and at every named point: completed <= billed <= served, nothing twice.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate::clock::Clock;
use tollgate::sandbox::{self, Sandbox};
use tollgate::testing::CRASH_POINTS;

use crate::support::gateway::{PRICING, Setup, admin, write_config};
use crate::support::process::{Serve, free_ports};
use crate::support::{Client, Origin};

const MENU: &[(&str, u64)] = &[("/one", 1), ("/two/x", 2), ("/three", 3), ("/five", 5), ("/status/404", 0)];

/// A gateway process with everything around it in this one, so that only the gateway dies.
struct Bench {
    folder: TempDir,
    origin: Origin,
    sandbox: Sandbox,
    proxy: SocketAddr,
    admin: SocketAddr,
    customer: String,
    key: String,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let runtime = crate::support::gateway::runtime();
        let (origin, folder) = (Origin::start(), tempfile::tempdir().unwrap());
        let sandbox = runtime.block_on(sandbox::start(sandbox::Config::on_loopback(Clock::System))).unwrap();
        let [proxy, admin] = free_ports();
        let more = format!(
            "stripe: {{ mode: sandbox, api_base: \"{}\", secret_key: {}, flush: 1s }}\n",
            sandbox.url(),
            sandbox.secret_key
        );
        // Small segments, so that every point of the journal is passed in a short run.
        let store = "store: { records: \"sqlite:tollgate.db\", ledger: { url: embedded, batch: 50ms }, \
                     journal: { path: journal, sync: 10ms, keep: 0s, segment_records: 1024 } }\n";
        let setup = Setup { pricing: PRICING, more: &(more + store), ..Setup::default() };
        write_config(folder.path(), &origin.url(), &setup, proxy, admin);
        let [proxy, admin] = [proxy, admin].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut bench =
            Self { folder, origin, sandbox, proxy, admin, customer: String::new(), key: String::new(), runtime };
        bench.enter();
        bench
    }

    /// One tenant, made while nothing crashes.
    fn enter(&mut self) {
        let mut serve = Serve::start(self.folder.path(), None);
        assert!(serve.wait_ready(self.proxy));
        self.runtime.block_on(async {
            let mut stripe = Client::new(self.sandbox.addr);
            let bearer = format!("Bearer {}", self.sandbox.secret_key);
            let form = [("authorization", bearer.as_str()), ("content-type", "application/x-www-form-urlencoded")];
            let made = stripe.send("POST", "/v1/customers", &form, b"name=acme").await.unwrap();
            self.customer = made.json()["id"].as_str().unwrap().to_owned();
            let tenant = json!({ "id": "acme", "name": "acme", "plan": "pro", "stripe_customer_id": self.customer });
            let made = admin(self.admin, "POST", "/api/v1/tenants", &tenant).await;
            assert_eq!(made.status, 201, "{}", made.text());
            let made = admin(self.admin, "POST", "/api/v1/tenants/acme/keys", &json!({ "name": "k" })).await;
            self.key = made.json()["key"].as_str().unwrap().to_owned();
        });
        serve.stop();
    }

    /// Clients that call until told to stop, over whatever process is there. Returns units of completed responses.
    fn load(&self, clients: u64) -> Load {
        let load = Load::default();
        for seed in 0..clients {
            let (load, key, proxy) = (load.clone(), self.key.clone(), self.proxy);
            let handles = Arc::clone(&load.tasks);
            let task = self.runtime.spawn(async move {
                let mut client = Client::new(proxy);
                let mut turn = seed;
                while !load.stop.load(Ordering::Relaxed) {
                    turn = turn.wrapping_add(1);
                    let (path, cost) = MENU[usize::try_from(turn).unwrap() % MENU.len()];
                    match client.get(path, &key).await {
                        Ok(got) if got.status == 200 => {
                            load.completed.fetch_add(cost, Ordering::Relaxed);
                        }
                        Ok(_) => {}
                        Err(_) => {
                            client.abort();
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
            });
            handles.lock().unwrap().push(task);
        }
        load
    }

    /// After the last start: everything is shipped and reported, and the sums are in order.
    fn check(&self, completed: u64, what: &str) {
        let mut serve = Serve::start(self.folder.path(), None);
        assert!(serve.wait_ready(self.proxy));
        let served: u64 = MENU.iter().map(|(path, cost)| cost * self.origin.count("acme", path)).sum();
        let end = Instant::now() + Duration::from_secs(30);
        let billed = loop {
            let usage = self.runtime.block_on(admin(self.admin, "GET", "/api/v1/tenants/acme/usage", &Value::Null));
            let meter = usage.json()["meters"][0].clone();
            if meter["pending"] == 0 || Instant::now() > end {
                break meter["used"].as_u64().unwrap();
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        serve.stop();
        let at_stripe = self.sandbox.meter_total("api_units", &self.customer);
        println!("{what}: completed {completed} <= billed {billed} <= served {served}, at Stripe {at_stripe}");
        assert_eq!(at_stripe, billed, "{what}: Stripe has what the ledger has");
        assert!(completed <= billed, "{what}: a completed response is not billed");
        assert!(billed <= served, "{what}: more is billed than was served");
    }
}

#[derive(Clone, Default)]
struct Load {
    stop: Arc<AtomicBool>,
    completed: Arc<AtomicU64>,
    tasks: Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>,
}

impl Load {
    fn end(self, bench: &Bench) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        for task in tasks {
            bench.runtime.block_on(task).unwrap();
        }
        self.completed.load(Ordering::Relaxed)
    }
}

#[test]
fn ten_kills_under_load_lose_and_double_nothing() {
    let bench = Bench::new();
    let load = bench.load(16);
    // Moments that differ from run to run are part of the test; each is printed.
    for round in 0..10 {
        let mut serve = Serve::start(bench.folder.path(), None);
        assert!(serve.wait_ready(bench.proxy));
        let mut random = [0; 2];
        getrandom::fill(&mut random).unwrap();
        let moment = Duration::from_millis(100 + u64::from(u16::from_le_bytes(random)) % 900);
        std::thread::sleep(moment);
        serve.kill();
        println!("kill {round} after {moment:?}, {} units completed", load.completed.load(Ordering::Relaxed));
    }
    let completed = load.end(&bench);
    assert!(completed > 1_000, "the load is one");
    bench.check(completed, "ten kills");
}

#[test]
fn a_crash_between_any_two_steps_loses_and_doubles_nothing() {
    let bench = Bench::new();
    let mut completed = 0;
    for point in CRASH_POINTS {
        let load = bench.load(4);
        // Some passes first, so that the point is met in the middle of work.
        let often = point.starts_with("journal");
        let mut serve = Serve::start(bench.folder.path(), Some(&format!("{point}:{}", if often { 40 } else { 2 })));
        let end = Instant::now() + Duration::from_secs(20);
        while serve.is_running() {
            assert!(Instant::now() < end, "{point} is never passed");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(serve);
        completed += load.end(&bench);
        bench.check(completed, point);
    }
}
