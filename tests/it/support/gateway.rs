//! A gateway in this process, from YAML, on free ports, with everything it writes in a folder of its own.

use std::path::Path;

use tempfile::TempDir;
use tollgate::app::{self, Options, Running};
use tollgate::clock::Clock;
use tollgate::config::{self, Env};

use super::{Client, Got, Origin};

pub const ADMIN_TOKEN: &str = "test-admin-token";

/// Prices of most tests: costs 1, 2, 3, 5; a plan with a cap, one with overage.
pub const PRICING: &str = r#"
meters: { api_units: { kind: counter, stripe_event: api_units } }
plans:
  free:  { monthly: 0, included: { api_units: 100 }, overage: none }
  pro:   { monthly: 99, included: { api_units: 10000 }, overage: { api_units: 0.02 } }
routes:
  - { match: GET /one,              cost: 1 }
  - { match: "GET /two/{symbol}",   cost: 2 }
  - { match: /three,                cost: 3 }
  - { match: /five,                 cost: 5 }
  - { match: [/health, "/docs/{*rest}"], cost: 0, public: true }
default: { cost: 1, charge_on: [2xx, 3xx, 101] }
"#;

pub struct Gateway {
    pub running: Option<Running>,
    pub folder: TempDir,
    pub origin: Origin,
    /// For requests of the test itself.
    pub runtime: tokio::runtime::Runtime,
}

/// A group of requests in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    pub status: u16,
    /// See `journal::Outcome`.
    pub outcome: u8,
    pub units: u64,
    pub requests: u64,
}

/// What a test changes in the shipped set-up.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    pub pricing: &'a str,
    /// Further lines of `tollgate.yaml`.
    pub more: &'a str,
    pub workers: usize,
    pub clock: Clock,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { pricing: PRICING, more: "", workers: 2, clock: Clock::System }
    }
}

impl Gateway {
    pub fn start() -> Self {
        Self::with(&Setup::default())
    }

    pub fn with(setup: &Setup<'_>) -> Self {
        let origin = Origin::start();
        let folder = tempfile::tempdir().unwrap();
        write_config(folder.path(), &origin.url(), setup, 0, 0);
        let running = Some(start(folder.path(), setup));
        Self { running, folder, origin, runtime: runtime() }
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub fn client(&self) -> Client {
        Client::new(self.running().proxy())
    }

    pub async fn admin(&self, method: &str, path: &str, body: &serde_json::Value) -> Got {
        admin(self.running().admin(), method, path, body).await
    }

    /// A tenant with a Stripe customer and one key, which is returned.
    pub async fn tenant(&self, id: &str, plan: &str) -> String {
        let customer = match self.running().billing() {
            Some(billing) => Some(billing.create_customer(id, &format!("{id}@test.test")).await.unwrap()),
            None => None,
        };
        let body = serde_json::json!({ "id": id, "name": id, "plan": plan, "stripe_customer_id": customer });
        let made = self.admin("POST", "/api/v1/tenants", &body).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let made =
            self.admin("POST", &format!("/api/v1/tenants/{id}/keys"), &serde_json::json!({ "name": "test" })).await;
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["key"].as_str().unwrap().to_owned()
    }

    /// Units used by `tenant` in the running period, as the API says.
    pub async fn used(&self, tenant: &str) -> u64 {
        let usage = self.admin("GET", &format!("/api/v1/tenants/{tenant}/usage"), &serde_json::Value::Null).await;
        assert_eq!(usage.status, 200, "{}", usage.text());
        usage.json()["meters"][0]["used"].as_u64().unwrap()
    }

    /// Units and requests of the running period by `by`, as the API says.
    pub async fn rows(&self, tenant: &str, by: &str) -> Vec<(String, u64, u64)> {
        let path = format!("/api/v1/tenants/{tenant}/usage?by={by}");
        let usage = self.admin("GET", &path, &serde_json::Value::Null).await.json();
        let rows = usage["rows"].as_array().unwrap().iter();
        let number = |row: &serde_json::Value, name: &str| row[name].as_u64().unwrap();
        rows.map(|row| (row[by].as_str().unwrap().to_owned(), number(row, "units"), number(row, "requests"))).collect()
    }

    /// A tenant's history with what the API does not show, once it speaks of `requests` requests.
    pub async fn history(&self, tenant: &str, requests: u64) -> Vec<Past> {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            self.running().flush_now().await.unwrap();
            let past = self.past(tenant).await;
            if past.iter().map(|past| past.requests).sum::<u64>() >= requests {
                return past;
            }
            assert!(std::time::Instant::now() < end, "{requests} requests, but {past:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn past(&self, tenant: &str) -> Vec<Past> {
        let query = "SELECT h.status, h.outcome, SUM(h.units), SUM(h.requests) FROM history AS h \
                     JOIN tenant AS t ON t.num = h.tenant WHERE t.id = $1 GROUP BY 1, 2 ORDER BY 1, 2";
        let rows = rows(self.folder.path(), query, tenant).await;
        let number = |row: &Vec<i64>, n: usize| u64::try_from(row[n]).unwrap();
        let past = |row: &Vec<i64>| Past {
            status: number(row, 0).try_into().unwrap(),
            outcome: number(row, 1).try_into().unwrap(),
            units: number(row, 2),
            requests: number(row, 3),
        };
        rows.iter().map(past).collect()
    }

    /// What Stripe's meters hold of `tenant`.
    pub async fn at_stripe(&self, tenant: &str) -> u64 {
        let customer = self.running().records().tenant(tenant).await.unwrap().unwrap().stripe_customer_id.unwrap();
        self.running().billing().unwrap().total(&customer).await.unwrap()
    }
}

/// Rows of whole numbers from the records of a gateway in `folder`; `$1` is `bound`.
pub async fn rows(folder: &Path, query: &'static str, bound: &str) -> Vec<Vec<i64>> {
    use sqlx::{Connection as _, Row as _};
    sqlx::any::install_default_drivers();
    let url = format!("sqlite:{}?mode=ro", folder.join("tollgate.db").display());
    let mut connection = sqlx::AnyConnection::connect(&url).await.unwrap();
    let rows = sqlx::query(query).bind(bound.to_owned()).fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| (0..row.len()).map(|n| row.get::<i64, _>(n)).collect()).collect()
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub async fn admin(address: std::net::SocketAddr, method: &str, path: &str, body: &serde_json::Value) -> Got {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    Client::new(address).send(method, path, &headers, text.as_bytes()).await.unwrap()
}

/// Writes both files; port 0 = a free one.
pub fn write_config(folder: &Path, origin: &str, setup: &Setup<'_>, proxy: u16, admin: u16) {
    use sha2::Digest as _;
    let token = hex::encode(sha2::Sha256::digest(ADMIN_TOKEN));
    let workers = setup.workers;
    let text = format!(
        "pricing: pricing.yaml\n\
         listen: {{ proxy: \"127.0.0.1:{proxy}\", admin: \"127.0.0.1:{admin}\" }}\n\
         workers: {workers}\n\
         admin: {{ tokens: [{{ name: test, sha256: \"{token}\", role: admin }}] }}\n"
    );
    let mut text = text;
    let defaults = [
        ("upstreams:", format!("upstreams: [{{ name: api, origins: [\"{origin}\"] }}]\n")),
        ("store:", "store: { records: \"sqlite:tollgate.db\", journal: { path: journal } }\n".to_owned()),
        ("stripe:", "stripe: { mode: sandbox, flush: 1s }\n".to_owned()),
    ];
    for (key, line) in defaults {
        if !setup.more.contains(key) {
            text += &line;
        }
    }
    text += setup.more;
    std::fs::write(folder.join("tollgate.yaml"), text).unwrap();
    std::fs::write(folder.join("pricing.yaml"), setup.pricing).unwrap();
}

fn start(folder: &Path, setup: &Setup<'_>) -> Running {
    try_start(folder, setup).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Starts, or says why not.
pub fn try_start(folder: &Path, setup: &Setup<'_>) -> anyhow::Result<Running> {
    let loaded = config::load(&folder.join("tollgate.yaml"), &Env::empty()).unwrap_or_else(|errors| panic!("{errors}"));
    let options = Options { env: Env::empty(), clock: setup.clock.clone() };
    app::start(loaded, &options)
}
