//! Units in the ledger = units at Stripe = what the origin served, priced by the rules; with aborts, errors and caps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::gateway::{PRICING, Setup};
use crate::support::origin::Served;
use crate::support::{Client, Gateway};

const CLIENTS: u64 = 64;
const REQUESTS: u64 = 200_000;

/// Path and method, cost, and whether the client leaves in the middle.
const MENU: &[(&str, &str, Ending)] = &[
    ("GET", "/one", Ending::Reads),
    ("GET", "/two/ACME", Ending::Reads),
    ("POST", "/three", Ending::Reads),
    ("GET", "/five", Ending::Reads),
    ("GET", "/status/404", Ending::Reads),
    ("GET", "/status/503", Ending::Reads),
    ("GET", "/status/204", Ending::Reads),
    ("HEAD", "/one", Ending::Reads),
    ("GET", "/health", Ending::Reads),
    ("GET", "/slow/40", Ending::LeavesWaiting),
    ("GET", "/drip/20", Ending::LeavesReading),
];

#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Reads,
    LeavesWaiting,
    LeavesReading,
}

fn cost(path: &str) -> u64 {
    match path {
        "/health" | "/status/404" | "/status/503" => 0,
        "/two/ACME" => 2,
        "/three" => 3,
        "/five" => 5,
        _ => 1,
    }
}

fn priced(served: &Served, tenant: &str) -> u64 {
    served.iter().filter(|((of, _), _)| of == tenant).map(|((_, path), times)| cost(path) * times).sum()
}

/// A small generator of numbers: the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[derive(Default)]
struct Tally {
    completed: AtomicU64,
    refused: AtomicU64,
    left: AtomicU64,
}

async fn drive(mut client: Client, keys: Arc<Vec<String>>, seed: u64, requests: u64, tally: Arc<Tally>) {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for _ in 0..requests {
        let key = &keys[usize::try_from(dice.roll(keys.len() as u64)).unwrap()];
        // One request in a hundred is one that the client leaves.
        let last = if dice.roll(100) == 0 { MENU.len() as u64 } else { MENU.len() as u64 - 2 };
        let (method, path, ending) = MENU[usize::try_from(dice.roll(last)).unwrap()];
        match ending {
            Ending::Reads => {
                let body: &[u8] = if method == "POST" { b"{\"n\":1}" } else { b"" };
                let bearer = format!("Bearer {key}");
                let got = client.send(method, path, &[("authorization", &bearer)], body).await.unwrap();
                match got.status {
                    402 => tally.refused.fetch_add(1, Ordering::Relaxed),
                    200 | 204 | 404 => tally.completed.fetch_add(1, Ordering::Relaxed),
                    503 if path == "/status/503" => tally.completed.fetch_add(1, Ordering::Relaxed),
                    other => panic!("{other} for {method} {path}: {}", got.text()),
                };
            }
            Ending::LeavesWaiting | Ending::LeavesReading => {
                let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\r\n");
                client.write(head.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                client.abort();
                tally.left.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn two_hundred_thousand_requests_are_charged_to_the_unit() {
    let pricing =
        PRICING.replace("  pro: ", "  small: { monthly: 9, included: { api_units: 30000 }, overage: none }\n  pro: ");
    let gateway = Gateway::with(&Setup { pricing: &pricing, ..Setup::default() });
    let tenants = [("a", "pro"), ("b", "pro"), ("c", "small"), ("d", "free")];
    let tally = Arc::new(Tally::default());
    let started = Instant::now();
    gateway.runtime.block_on(async {
        let mut keys = Vec::new();
        for (tenant, plan) in tenants {
            keys.push(gateway.tenant(tenant, plan).await);
        }
        let keys = Arc::new(keys);
        let drivers: Vec<_> = (1..=CLIENTS)
            .map(|seed| {
                let (keys, tally) = (Arc::clone(&keys), Arc::clone(&tally));
                tokio::spawn(drive(gateway.client(), keys, seed, REQUESTS / CLIENTS, tally))
            })
            .collect();
        for driver in drivers {
            driver.await.unwrap();
        }
        println!("{REQUESTS} requests in {:?}", started.elapsed());
        // The last aborted ones end at the origin.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut client = gateway.client();
        for (n, (tenant, cap)) in [(2, ("c", 30_000)), (3, ("d", 100))] {
            // What is left of the cap can be spent to the last unit, and not one more.
            for _ in 0..6 {
                let got = client.get("/one", &keys[n]).await.unwrap();
                assert!(matches!(got.status, 200 | 402), "{}", got.text());
            }
            let got = client.get("/one", &keys[n]).await.unwrap();
            assert_eq!(got.status, 402);
            let problem = got.json();
            assert_eq!((problem["used"].as_u64(), problem["limit"].as_u64()), (Some(cap), Some(cap)), "{tenant}");
        }
        gateway.running().report_now().await.unwrap();
        let served = gateway.origin.served();
        for (tenant, _) in tenants {
            let expected = priced(&served, tenant);
            assert_eq!(gateway.used(tenant).await, expected, "used by {tenant}");
            assert_eq!(gateway.at_stripe(tenant).await, expected, "at Stripe for {tenant}");
            println!("{tenant}: {expected} units");
        }
        assert_eq!(priced(&served, "c"), 30_000, "the cap, exactly");
        assert_eq!(priced(&served, "d"), 100, "the cap, exactly");
    });
    let (completed, refused, left) = (
        tally.completed.load(Ordering::Relaxed),
        tally.refused.load(Ordering::Relaxed),
        tally.left.load(Ordering::Relaxed),
    );
    println!("{completed} completed, {refused} refused, {left} left by the client");
    assert!(refused > 1_000 && left > 100, "the mix has caps and aborts in it");
}
