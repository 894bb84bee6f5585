//! What a key costs: memory while idle and while in use, and the time of a look-up, with 1, 1 000 and 1 000 000 keys.
//! `cargo bench --bench keys`. Everything is in this one process; resident memory is the system's figure.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::as_conversions,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a benchmark prints figures and ends when something is wrong"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sha2::Digest as _;
use tollgate::accounts::{Accounts, hash};
use tollgate::clock::Clock;
use tollgate::journal::{self, Journal};
use tollgate::ledger::embedded::Embedded;
use tollgate::ledger::{Node, Parts};
use tollgate::records::{NewKey, NewTenant, Records};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TENANTS: u64 = 1_000;
/// Keys in one bulk insert.
const BULK: u64 = 50_000;
/// Keys brought into memory at most.
const LOADED: u64 = 50_000;
/// Look-ups timed.
const SAMPLE: u64 = 20_000;

fn main() {
    println!(
        "{:>10}{:>16}{:>18}{:>16}{:>16}",
        "keys", "resident KiB", "per idle key B", "cold look-up", "warm look-up"
    );
    for keys in [1, 1_000, 1_000_000] {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(measure(keys));
    }
}

fn secret(n: u64) -> String {
    format!("tg_{n:040}")
}

async fn measure(keys: u64) {
    let folder = std::env::temp_dir().join(format!("tollgate-keys-{}-{keys}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let records = Records::open(&format!("sqlite:{}", folder.join("keys.db").display())).await.unwrap();
    fill(&records, keys).await;
    records.close().await;
    let records = Records::open(&format!("sqlite:{}", folder.join("keys.db").display())).await.unwrap();
    let accounts = accounts(&records, &folder);
    let before = resident_kib();
    let loaded = keys.min(LOADED);
    let started = Instant::now();
    for n in 0..loaded {
        accounts.by_hash(hash(secret(spread(n, keys)).as_bytes())).await.unwrap().unwrap();
    }
    let cold = started.elapsed() / u32::try_from(loaded).unwrap();
    let per_key = (resident_kib().saturating_sub(before)) as f64 * 1024.0 / loaded as f64;
    let warm = warm(&accounts, loaded, keys).await;
    println!("{keys:>10}{:>16}{per_key:>18.0}{:>16}{:>16}", before, format!("{cold:.1?}"), format!("{warm:.0?}"));
    records.close().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Keys from all over the index.
fn spread(n: u64, keys: u64) -> u64 {
    n.wrapping_mul(7_919) % keys
}

async fn warm(accounts: &Accounts, loaded: u64, keys: u64) -> Duration {
    let secrets: Vec<_> = (0..loaded.min(SAMPLE)).map(|n| secret(spread(n, keys))).collect();
    let started = Instant::now();
    let mut times = 0;
    while times < SAMPLE {
        for secret in &secrets {
            accounts.by_hash(hash(secret.as_bytes())).await.unwrap().unwrap();
            times += 1;
        }
    }
    started.elapsed() / u32::try_from(times).unwrap()
}

async fn fill(records: &Records, keys: u64) {
    let now = Timestamp::UNIX_EPOCH;
    for n in 0..keys.min(TENANTS) {
        let id = format!("tenant-{n}");
        let tenant = NewTenant { name: id.clone(), id, email: None, plan: "pro".into(), stripe_customer_id: None };
        records.create_tenant(tenant, now).await.unwrap();
    }
    let key = |n: u64| NewKey {
        tenant: format!("tenant-{}", n % TENANTS.min(keys)),
        id: format!("key_{n}"),
        name: "bench".into(),
        prefix: "tg_".into(),
        sha256: sha2::Sha256::digest(secret(n)).into(),
        scopes: Vec::new(),
        expires_at: None,
    };
    for from in (0..keys).step_by(usize::try_from(BULK).unwrap()) {
        let bulk: Vec<_> = (from..keys.min(from + BULK)).map(key).collect();
        records.import_keys(&bulk, now).await.unwrap();
    }
}

fn accounts(records: &Records, folder: &std::path::Path) -> Accounts {
    let config = journal::Config {
        path: folder.join("journal"),
        sync: journal::Sync::Every(Duration::from_millis(50)),
        keep: Duration::ZERO,
        keep_bytes: 0,
        segment_records: 1_024,
    };
    let clock = Clock::System;
    let (node, _queue) = Node::new(Parts {
        ledger: Arc::new(Embedded::new(records.clone(), clock.clone())),
        records: records.clone(),
        journal: Arc::new(Journal::open(&config).unwrap()),
        clock: clock.clone(),
        batch: Duration::from_millis(250),
        wait: Duration::from_secs(2),
        fence: false,
    });
    Accounts::new(records.clone(), node, clock, tokio::runtime::Handle::current())
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
