//! `journal.sync: strict`: no response ends before its record is on the disk, whatever kind of response it is.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::support::gateway::{Setup, admin, runtime, write_config};
use crate::support::process::{Serve, free_ports};
use crate::support::{Client, Got, Origin};

/// Dies as it begins to sync, so a response that came whole did not wait for the disk.
const POINT: &str = "journal.before_sync";

/// Every kind of end a response can have: by length, by chunk, by trailer, without a body, charged or not, switched.
const KINDS: &[(&str, &str)] = &[
    ("GET", "/one"),
    ("POST", "/three"),
    ("GET", "/drip/3"),
    ("HEAD", "/one"),
    ("GET", "/status/204"),
    ("GET", "/status/404"),
    ("GET", "/switch"),
];

struct Bench {
    folder: TempDir,
    origin: Origin,
    proxy: SocketAddr,
    admin: SocketAddr,
    key: String,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(sync: &str) -> Self {
        let (runtime, origin, folder) = (runtime(), Origin::start(), tempfile::tempdir().unwrap());
        let [proxy, admin] = free_ports();
        let more = format!(
            "stripe: {{ mode: off }}\n\
             store: {{ records: \"sqlite:tollgate.db\", journal: {{ path: journal, sync: {sync} }} }}\n"
        );
        write_config(
            folder.path(),
            &origin.url(),
            &Setup { more: &more, workers: 1, ..Setup::default() },
            proxy,
            admin,
        );
        let [proxy, admin] = [proxy, admin].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut bench = Self { folder, origin, proxy, admin, key: String::new(), runtime };
        let serve = bench.serve(None);
        bench.key = bench.runtime.block_on(tenant(bench.admin));
        serve.stop();
        bench
    }

    fn serve(&self, crash_at: Option<&str>) -> Serve {
        let mut serve = Serve::start(self.folder.path(), crash_at);
        assert!(serve.wait_ready(self.proxy));
        serve
    }

    fn call(&self, method: &str, path: &str) -> std::io::Result<Got> {
        let mut headers = vec![("x-api-key", self.key.as_str())];
        if path == "/switch" {
            headers.extend([("connection", "upgrade"), ("upgrade", "echo")]);
        }
        let body: &[u8] = if method == "POST" { b"{}" } else { b"" };
        self.runtime.block_on(Client::new(self.proxy).send(method, path, &headers, body))
    }
}

async fn tenant(address: SocketAddr) -> String {
    let made = admin(address, "POST", "/api/v1/tenants", &json!({ "id": "acme", "name": "acme", "plan": "pro" })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = admin(address, "POST", "/api/v1/tenants/acme/keys", &json!({ "name": "k" })).await;
    made.json()["key"].as_str().unwrap().to_owned()
}

#[test]
fn no_response_ends_before_its_record_is_on_the_disk() {
    let bench = Bench::new("strict");
    for (method, path) in KINDS {
        let mut serve = bench.serve(Some(POINT));
        let got = bench.call(method, path);
        assert!(got.is_err(), "{method} {path}: {got:?} came whole, and its record was not synced");
        assert!(!serve.ended(Duration::from_secs(10)).success(), "{method} {path}: killed at {POINT}");
    }
    // Where the disk answers, everything passes.
    let serve = bench.serve(None);
    for (method, path) in KINDS {
        assert!(bench.call(method, path).is_ok(), "{method} {path}");
    }
    serve.stop();
    let served: u64 = bench.origin.served().values().sum();
    assert_eq!(served, 2 * KINDS.len() as u64, "each was served, then and now");
}

#[test]
fn without_strict_the_same_responses_do_come_before() {
    let bench = Bench::new("2s");
    let mut serve = bench.serve(Some(POINT));
    for (method, path) in KINDS {
        assert!(bench.call(method, path).is_ok(), "{method} {path}");
    }
    assert!(!serve.ended(Duration::from_secs(10)).success(), "killed at {POINT}, later");
}
