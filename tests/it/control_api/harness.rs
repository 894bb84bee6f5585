//! An admin port on a temporary database, driven over real HTTP.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tollgate::clock::Clock;
use tollgate::config::{self, Env};
use tollgate::control::{self, Active, Change, Condition, ControlState, Readiness};
use tollgate::records::Records;
use tollgate::telemetry::Metrics;

/// Tokens of the three roles; each token's name is its role.
pub(crate) const ADMIN: &str = "admin-token";
pub(crate) const BILLING: &str = "billing-token";
pub(crate) const READ: &str = "read-token";

/// When the clock stands still.
pub(crate) const NOW: &str = "2026-11-20T12:30:00Z";

const PRICING: &str = "\
meters:
  api_units: { kind: counter, stripe_event: api_units }
plans:
  free:    { monthly: 0,  included: { api_units: 100 },  overage: none }
  starter: { monthly: 29, included: { api_units: 1000 }, overage: { api_units: 0.03 } }
routes:
  - { match: GET /signals, cost: 1 }
default: { cost: 1 }
";

/// A running admin port.
pub(crate) struct Api {
    pub(crate) base: String,
    pub(crate) records: Records,
    pub(crate) clock: Clock,
    pub(crate) changes: Arc<Mutex<Vec<Change>>>,
    /// What `live_used` answers.
    pub(crate) live: Arc<Mutex<Option<u64>>>,
    /// What a reload answers.
    pub(crate) reload: Arc<Mutex<Result<u64, String>>>,
    pub(crate) active: Arc<ArcSwap<Active>>,
    pub(crate) journal: Condition,
    /// `tollgate.yaml` of this gateway.
    pub(crate) config: PathBuf,
    http: Client<HttpConnector, Full<Bytes>>,
    cancel: CancellationToken,
    serving: JoinHandle<()>,
    _directory: TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("a JSON document")
    }

    /// Asserts a problem document with that status, code and field.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str, field: Option<&str>) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem:#}");
        assert_eq!(problem.get("field").and_then(Value::as_str), field, "{problem:#}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"], self.headers["x-request-id"].to_str().expect("ASCII"));
        assert!(problem["type"].is_string() && problem["title"].is_string() && problem["detail"].is_string());
        problem
    }

    /// Asserts the status and gives the body.
    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        if self.text.is_empty() { Value::Null } else { self.json() }
    }
}

impl Api {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = write_config(&directory);
        let loaded = config::load(&config, &Env::empty()).expect("files without a mistake");
        let clock = Clock::manual(NOW.parse().expect("RFC 3339"));
        let records = Records::open(loaded.settings.store.records.expose()).await.expect("a new database");
        let active = Arc::new(ArcSwap::from_pointee(active(loaded, clock.now())));
        let readiness = Readiness::new();
        let journal = readiness.condition("journal");
        let changes = Arc::new(Mutex::new(Vec::new()));
        let live = Arc::new(Mutex::new(None));
        let reload = Arc::new(Mutex::new(Ok(2)));
        let state = ControlState {
            records: records.clone(),
            clock: clock.clone(),
            active: Arc::clone(&active),
            changed: {
                let seen = Arc::clone(&changes);
                Arc::new(move |change| {
                    seen.lock().expect("sound").push(change);
                    Box::pin(async {})
                })
            },
            live_used: {
                let live = Arc::clone(&live);
                Arc::new(move |_| *live.lock().expect("sound"))
            },
            readiness,
            reload: {
                let answer = Arc::clone(&reload);
                Arc::new(move || std::future::ready(answer.lock().expect("sound").clone()).boxed())
            },
            metrics: Metrics::install().expect("the process's recorder"),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let cancel = CancellationToken::new();
        let serving = tokio::spawn(control::serve(listener, state, cancel.clone()));
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self {
            base,
            records,
            clock,
            changes,
            live,
            reload,
            active,
            journal,
            config,
            http,
            cancel,
            serving,
            _directory: directory,
        }
    }

    /// Stops the port and waits for its end.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        drop(self.http);
        self.serving.await.expect("no panic");
        self.records.close().await;
    }

    /// One call with a JSON body (`Value::Null` = none) under `/api/v1`, as an admin.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.call_as(ADMIN, method, path, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Value::Null).await
    }

    pub(crate) async fn call_as(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let authorization = format!("Bearer {token}");
        self.raw(method, &format!("/api/v1{path}"), &[("authorization", &authorization)], body).await
    }

    /// One call as it is.
    pub(crate) async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let method: Method = method.parse().expect("a method");
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let response = self.http.request(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("text");
        Answer { status: head.status, headers: head.headers, text }
    }

    /// A tenant on `starter` with a customer.
    pub(crate) async fn acme(&self) -> Value {
        let body = serde_json::json!({"id": "acme", "name": "Acme", "email": "ops@acme.test", "plan": "starter",
                                      "stripe_customer_id": "cus_acme"});
        self.call("POST", "/tenants", body).await.ok(201)
    }

    /// Actions and subjects in the audit log, newest first.
    pub(crate) async fn audited(&self) -> Vec<(String, String, String)> {
        let listed = self.get("/audit").await.ok(200);
        let text = |entry: &Value, name: &str| entry[name].as_str().expect("text").to_owned();
        let entries = listed["data"].as_array().expect("a list");
        entries.iter().map(|entry| (text(entry, "actor"), text(entry, "action"), text(entry, "subject"))).collect()
    }

    /// What the data plane was told since the last look.
    pub(crate) fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut *self.changes.lock().expect("sound"))
    }
}

fn active(loaded: config::Loaded, now: Timestamp) -> Active {
    Active {
        settings: Arc::new(loaded.settings),
        pricing: Arc::new(loaded.pricing),
        version: 1,
        sha256: loaded.sha256,
        loaded_at: now,
        last_error: None,
    }
}

fn write_config(directory: &TempDir) -> PathBuf {
    let token = |name: &str, role: &str| {
        let sha256 = hex::encode(Sha256::digest(name));
        format!("    - {{ name: {role}, sha256: {sha256}, role: {role} }}\n")
    };
    let tokens = [token(ADMIN, "admin"), token(BILLING, "billing"), token(READ, "read")].concat();
    let settings = format!(
        "upstreams:\n  - {{ name: api, origins: [\"http://127.0.0.1:9\"] }}\nadmin:\n  tokens:\n{tokens}\
         store: {{ records: \"sqlite:records.db\" }}\nstripe: {{ mode: sandbox }}\n"
    );
    let config = directory.path().join("tollgate.yaml");
    std::fs::write(&config, settings).expect("a writable directory");
    std::fs::write(directory.path().join("pricing.yaml"), PRICING).expect("a writable directory");
    config
}
