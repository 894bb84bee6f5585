//! Not tests: figures of both databases, printed.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::Timestamp;
use tollgate::journal::{Batch, Outcome, Row};
use tollgate::records::{NewKey, NewTenant, Records};
use tollgate::units::{KeyNum, NodeId, PeriodId, TenantNum};

use crate::support::postgres::Postgres;

const ROWS: u64 = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures: cargo test --test it postgres::measure -- --ignored --nocapture"]
async fn flushes_and_look_ups() {
    let (server, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    server.sync();
    for url in [format!("sqlite:{}/records.db", folder.path().display()), server.url("measure")] {
        let name = url.split(':').next().unwrap().to_owned();
        let records = Records::open(&url).await.unwrap();
        for (batches, seconds) in [(1, 3), (64, 3)] {
            let (rows, flushes, took) = flushed(&records, batches, Duration::from_secs(seconds)).await;
            let (ms, rows) = (took.as_millis(), u128::from(rows));
            let (rate, each) = (rows * 1000 / ms, ms / u128::from(flushes));
            println!("{name}: {batches} batches of {ROWS} rows a flush: {rate} rows/s, {each} ms a flush");
        }
        keys(&records).await;
        for at_once in [1, 8] {
            let (found, took) = looked_up(&records, at_once, Duration::from_secs(2)).await;
            let rate = u128::from(found) * 1000 / took.as_millis();
            println!("{name}: {rate} look-ups of keys a second, {at_once} at once");
        }
        records.close().await;
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_795_000_000).unwrap()
}

async fn flushed(records: &Records, batches: u64, length: Duration) -> (u64, u64, Duration) {
    let node = NodeId(format!("node-{batches}").into());
    let (begun, mut flushes) = (Instant::now(), 0);
    while begun.elapsed() < length {
        let all: Vec<_> = (1..=batches).map(|n| batch(&node, flushes * batches + n)).collect();
        records.flush(&all, now()).await.unwrap();
        flushes += 1;
    }
    (flushes * batches * ROWS, flushes, begun.elapsed())
}

/// One record of 1 000 tenants.
fn batch(node: &NodeId, seq: u64) -> Batch {
    let row = |tenant| Row {
        tenant: TenantNum(tenant),
        period: PeriodId(1_795_000_000),
        meter: "api_units".into(),
        route: "GET /signals".into(),
        hour_s: 1_795_000_000 / 3600 * 3600,
        status: 200,
        outcome: Outcome::Completed,
        key: KeyNum(tenant),
        units: 3,
        requests: 1,
    };
    Batch { node: node.clone(), worker: 0, from: seq, to: seq, rows: (1..=ROWS).map(row).collect() }
}

fn hash(n: u32) -> [u8; 32] {
    let mut hash = [7; 32];
    hash[..4].copy_from_slice(&n.to_le_bytes());
    hash
}

const KEYS: u32 = 10_000;

async fn keys(records: &Records) {
    let id = "acme".to_owned();
    let new = NewTenant { id: id.clone(), name: id.clone(), email: None, plan: "pro".into(), stripe_customer_id: None };
    records.create_tenant(new, now()).await.unwrap();
    let key = |n| NewKey {
        tenant: id.clone(),
        id: format!("key_{n}"),
        name: "k".into(),
        prefix: "tg_".into(),
        sha256: hash(n),
        scopes: Vec::new(),
        expires_at: None,
    };
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    assert_eq!(records.import_keys(&keys, now()).await.unwrap(), u64::from(KEYS));
}

async fn looked_up(records: &Records, at_once: u32, length: Duration) -> (u32, Duration) {
    let begun = Instant::now();
    let callers = (0..at_once).map(|caller| {
        let records = records.clone();
        tokio::spawn(async move {
            let mut found = 0;
            while begun.elapsed() < length {
                let n = (caller * 7919 + found * 31) % KEYS;
                assert!(records.key_by_hash(&hash(n)).await.unwrap().is_some());
                found += 1;
            }
            found
        })
    });
    let found = join_all(callers).await.into_iter().map(Result::unwrap).sum();
    (found, begun.elapsed())
}
