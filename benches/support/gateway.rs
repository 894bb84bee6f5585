//! The gateway, one worker, with a tenant that has no cap and one key.

use std::net::SocketAddr;
use std::path::Path;

use sha2::Digest as _;
use tollgate::app::{self, Options};
use tollgate::config::{self, Env};
use tollgate::records::{NewKey, NewTenant};

const KEY: &str = "tg_benchmark_0123456789abcdef0123456789abcdef";

const PRICING: &str = r"
meters: { api_units: { kind: counter, stripe_event: api_units } }
plans:
  pro: { monthly: 99, included: { api_units: 10000 }, overage: { api_units: 0.02 } }
routes:
  - { match: GET /plain, cost: 1 }
  - { match: GET /public, cost: 0, public: true }
default: { cost: 1, charge_on: [2xx, 3xx, 101] }
";

/// Prints its address and its key, and serves until killed.
pub fn run(origin: SocketAddr) {
    let folder = std::env::temp_dir().join(format!("tollgate-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    write_config(&folder, origin);
    let loaded = config::load(&folder.join("tollgate.yaml"), &Env::empty()).unwrap_or_else(|errors| panic!("{errors}"));
    let running = app::start(loaded, &Options::default()).unwrap_or_else(|error| panic!("{error:#}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(enter(&running));
    println!("{} {KEY}", running.proxy());
    loop {
        std::thread::park();
    }
}

async fn enter(running: &app::Running) {
    let now = jiff::Timestamp::UNIX_EPOCH;
    let tenant = NewTenant {
        id: "bench".into(),
        name: "bench".into(),
        email: None,
        plan: "pro".into(),
        stripe_customer_id: None,
    };
    running.records().create_tenant(tenant, now).await.expect("a tenant");
    let key = NewKey {
        tenant: "bench".into(),
        id: "key_bench".into(),
        name: "bench".into(),
        prefix: KEY[..8].into(),
        sha256: sha2::Sha256::digest(KEY).into(),
        scopes: Vec::new(),
        expires_at: None,
    };
    running.records().create_key(key, now).await.expect("a key");
}

fn write_config(folder: &Path, origin: SocketAddr) {
    let settings = format!(
        "pricing: pricing.yaml\n\
         listen: {{ proxy: \"127.0.0.1:0\", admin: \"127.0.0.1:0\" }}\n\
         workers: 1\n\
         upstreams: [{{ name: api, origins: [\"http://{origin}\"] }}]\n\
         store: {{ records: \"sqlite:tollgate.db\", journal: {{ path: journal }} }}\n\
         stripe: {{ mode: off }}\n"
    );
    std::fs::write(folder.join("tollgate.yaml"), settings).expect("a file in a temporary folder");
    std::fs::write(folder.join("pricing.yaml"), PRICING).expect("a file in a temporary folder");
}
