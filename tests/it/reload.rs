//! Prices change under load: no request is dropped, each is charged by one of the two valid files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::Gateway;
use crate::support::gateway::PRICING;

const CLIENTS: usize = 64;
const CHANGES: usize = 20;

#[derive(Default)]
struct Seen {
    cheap: AtomicU64,
    dear: AtomicU64,
    stop: AtomicBool,
}

#[test]
fn prices_change_under_load_without_a_dropped_request() {
    let dear = PRICING.replace("GET /one,              cost: 1", "GET /one, cost: 7");
    let bad = [PRICING.replace("cost: 2", "cost: two"), "plans: [".to_owned(), String::new()];
    assert!(dear.contains("cost: 7"));
    let gateway = Gateway::start();
    let seen = Arc::new(Seen::default());
    gateway.runtime.block_on(async {
        let (pro, free) = (gateway.tenant("acme", "pro").await, gateway.tenant("small", "free").await);
        let drive = |_| {
            let (mut client, key, seen) = (gateway.client(), pro.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                while !seen.stop.load(Ordering::Relaxed) {
                    let got = client.get("/one", &key).await.expect("no request is dropped");
                    assert_eq!(got.status, 200, "{}", got.text());
                    match got.header("x-tollgate-cost") {
                        "1" => seen.cheap.fetch_add(1, Ordering::Relaxed),
                        "7" => seen.dear.fetch_add(1, Ordering::Relaxed),
                        other => panic!("charged {other}"),
                    };
                }
            })
        };
        let drivers: Vec<_> = (0..CLIENTS).map(drive).collect();
        let path = gateway.folder.path().join("pricing.yaml");
        let reload = async || gateway.admin("POST", "/api/v1/config/reload", &Value::Null).await.status;
        for change in 0..CHANGES {
            std::fs::write(&path, if change % 2 == 0 { &dear } else { PRICING }).unwrap();
            assert_eq!(reload().await, 200, "{change}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            std::fs::write(&path, &bad[change % bad.len()]).unwrap();
            assert!(reload().await >= 400, "a bad file is refused");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        seen.stop.store(true, Ordering::Relaxed);
        for driver in drivers {
            driver.await.unwrap();
        }
        let (cheap, dear) = (seen.cheap.load(Ordering::Relaxed), seen.dear.load(Ordering::Relaxed));
        println!("{cheap} calls at 1, {dear} at 7, over {CHANGES} changes");
        assert!(cheap > 100 && dear > 100, "both held for a while");
        gateway.running().report_now().await.unwrap();
        assert_eq!(gateway.used("acme").await, cheap + 7 * dear);
        assert_eq!(gateway.at_stripe("acme").await, cheap + 7 * dear);
        // Caps follow each change too, also back to what once was.
        for (text, cap) in [(PRICING.replace(": 100 }", ": 3 }"), 3), (PRICING.to_owned(), 100)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(reload().await, 200);
            let got = gateway.client().get("/one", &free).await.unwrap();
            assert!(got.header("ratelimit-policy").contains(&format!("q={cap};")), "{got:?}");
        }
        let mut client = gateway.client();
        for _ in 0..98 {
            assert_eq!(client.get("/one", &free).await.unwrap().status, 200);
        }
        assert_eq!(client.get("/one", &free).await.unwrap().status, 402);
    });
}
