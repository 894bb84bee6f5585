//! A gateway whose PostgreSQL goes away: what is held goes on being served, and nothing is lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::gateway::{PRICING, Setup, admin, runtime, write_config};
use crate::support::postgres::Postgres;
use crate::support::process::{Serve, free_ports};
use crate::support::{Client, Got, Origin};

struct Bench {
    server: Postgres,
    url: String,
    folder: TempDir,
    origin: Origin,
    proxy: SocketAddr,
    admin: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let server = Postgres::start();
        let url = server.url("gateway");
        let bench = Self::on(server, &url);
        bench.writes(&url);
        bench
    }

    fn on(server: Postgres, url: &str) -> Self {
        let [proxy, admin] = free_ports().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let bench = Self {
            server,
            url: url.to_owned(),
            folder: tempfile::tempdir().unwrap(),
            origin: Origin::start(),
            proxy,
            admin,
            runtime: runtime(),
        };
        bench.writes(url);
        bench
    }

    fn writes(&self, url: &str) {
        let more = format!("store: {{ records: \"{url}\", journal: {{ path: journal }} }}\nstripe: {{ mode: off }}\n");
        let setup = Setup { pricing: PRICING, more: &more, ..Setup::default() };
        write_config(self.folder.path(), &self.origin.url(), &setup, self.proxy.port(), self.admin.port());
    }

    fn serve(&self) -> Serve {
        let mut serve = Serve::start(self.folder.path(), None);
        assert!(serve.wait_ready(self.proxy));
        serve
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default()
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Got {
        self.runtime.block_on(admin(self.admin, method, path, body))
    }

    fn tenant(&self, id: &str, plan: &str) -> String {
        let made = self.call("POST", "/api/v1/tenants", &json!({ "id": id, "name": id, "plan": plan }));
        assert_eq!(made.status, 201, "{}", made.text());
        let made = self.call("POST", &format!("/api/v1/tenants/{id}/keys"), &json!({ "name": "k" }));
        made.json()["key"].as_str().unwrap().to_owned()
    }

    /// Calls for so long; how many were answered 200 and the longest wait for an answer.
    fn calls(&self, key: &str, length: Duration) -> (u64, Duration) {
        let (mut served, mut longest, end) = (0, Duration::ZERO, Instant::now() + length);
        let mut client = Client::new(self.proxy);
        while Instant::now() < end {
            let begun = Instant::now();
            let got = self.runtime.block_on(client.get("/one", key)).unwrap();
            longest = longest.max(begun.elapsed());
            served += u64::from(got.status == 200);
            assert!([200, 402, 503].contains(&got.status), "{}", got.text());
            std::thread::sleep(Duration::from_millis(5));
        }
        (served, longest)
    }

    /// Waits until the records have all of what `tenant` used.
    fn counted(&self, tenant: &str, units: u64) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let usage = self.call("GET", &format!("/api/v1/tenants/{tenant}/usage"), &Value::Null);
            let meter = usage.json()["meters"][0].clone();
            let flushed = usage.status == 200 && self.flushed(tenant) == units;
            if flushed && meter["used"] == units {
                return;
            }
            assert!(Instant::now() < end, "{tenant} used {units}: {}\n{}", usage.text(), self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Straight from the database.
    fn flushed(&self, tenant: &str) -> u64 {
        self.runtime.block_on(async {
            let records = tollgate::records::Records::open(&self.url).await.unwrap();
            let tenant = records.tenant(tenant).await.unwrap().unwrap();
            let (from, to) = (jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::MAX);
            let rows = records.usage(tenant.num, from, to, tollgate::records::UsageBy::Meter).await.unwrap();
            records.close().await;
            rows.iter().map(|row| row.units).sum()
        })
    }
}

const OUTAGE: Duration = Duration::from_secs(3);

#[test]
fn held_budgets_and_known_keys_serve_on_while_the_server_is_away() {
    let mut bench = Bench::new();
    let serve = bench.serve();
    let key = bench.tenant("acme", "pro");
    let capped = bench.tenant("small", "free");
    let (mut served, _) = bench.calls(&key, Duration::from_millis(500));
    let (mut small, _) = bench.calls(&capped, Duration::from_millis(50));
    for kind in ["killed", "paused"] {
        match kind {
            "killed" => bench.server.kill(),
            _ => bench.server.pause(),
        }
        let (during, longest) = bench.calls(&key, OUTAGE);
        println!("{kind}: {during} calls served, the longest took {longest:?}");
        assert!(during > 100, "{kind}: {during} served\n{}", bench.log());
        assert!(longest < Duration::from_millis(500), "{kind}: nobody waits for the server: {longest:?}");
        small += bench.calls(&capped, Duration::from_millis(300)).0;
        let stranger = Instant::now();
        let got = bench.runtime.block_on(Client::new(bench.proxy).get("/one", "tg_unknown_key")).unwrap();
        assert_eq!(got.status, 503, "a key that is not known here is neither good nor bad: {}", got.text());
        assert!(stranger.elapsed() < Duration::from_secs(4), "{:?}", stranger.elapsed());
        assert_eq!(bench.call("GET", "/readyz", &Value::Null).status, 200, "it still takes traffic");
        match kind {
            "killed" => bench.server.go_on(),
            _ => bench.server.resume(),
        }
        served += during + bench.calls(&key, Duration::from_millis(200)).0;
        bench.counted("acme", served);
        small += bench.calls(&capped, Duration::from_millis(600)).0;
        bench.counted("small", small);
    }
    small += bench.calls(&capped, Duration::from_secs(1)).0;
    assert_eq!(small, 100, "the whole cap, and no more");
    serve.stop();
    assert!(!bench.log().contains("only-in-tests"), "the password stays out of the log");
}

#[test]
fn a_node_that_starts_without_its_server_waits_and_says_so() {
    let mut bench = Bench::new();
    bench.server.kill();
    let mut serve = Serve::start(bench.folder.path(), None);
    let why = missing(&bench);
    assert!(why.contains("PostgreSQL at 127.0.0.1") && why.contains("refused"), "{why}");
    assert!(!why.contains("only-in-tests"), "{why}");
    assert_eq!(bench.call("GET", "/healthz", &Value::Null).status, 200);
    assert_eq!(bench.call("GET", "/metrics", &Value::Null).status, 200);
    assert_eq!(bench.call("GET", "/api/v1/tenants", &Value::Null).status, 503);
    assert!(std::net::TcpStream::connect(bench.proxy).is_err(), "no traffic yet");
    assert!(serve.is_running());
    bench.server.go_on();
    assert!(serve.wait_ready(bench.proxy));
    while bench.call("GET", "/readyz", &Value::Null).json()["ready"] != true {
        assert!(serve.is_running());
        std::thread::sleep(Duration::from_millis(10));
    }
    let key = bench.tenant("acme", "pro");
    assert!(bench.calls(&key, Duration::from_millis(100)).0 > 0);
    serve.stop();
}

/// What the node waits for, as soon as it says so.
fn missing(bench: &Bench) -> String {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if std::net::TcpStream::connect(bench.admin).is_ok() {
            let told = bench.call("GET", "/readyz", &Value::Null);
            assert_eq!(told.status, 503, "{}", told.text());
            let why = told.json()["missing"]["records"].as_str().unwrap().to_owned();
            if why != "starting" {
                return why;
            }
        }
        assert!(Instant::now() < end, "{}", bench.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_waiting_does_not_cure_ends_the_start_with_a_clear_word() {
    let server = Postgres::start();
    let right = server.url("gateway");
    let cases = [
        (right.replace("only-in-tests", "wrong-s3cret"), "refuses user or password"),
        (right.replace("/gateway", "/nowhere"), "database \"nowhere\" does not exist; create it first"),
        (right.clone() + "?sslmode=require", "TLS"),
    ];
    let bench = Bench::on(server, &right);
    for (url, why) in cases {
        bench.writes(&url);
        let mut serve = Serve::start(bench.folder.path(), None);
        let end = Instant::now() + Duration::from_secs(10);
        while serve.is_running() {
            assert!(Instant::now() < end, "{why}: it goes on\n{}", bench.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let log = bench.log();
        let last = log.lines().last().unwrap_or_default();
        println!("{last}");
        assert!(last.contains(why) && last.contains("PostgreSQL at 127.0.0.1"), "{why}: {log}");
        assert!(!log.contains("s3cret") && !log.contains("only-in-tests"), "{log}");
    }
}
