//! Billing periods and several meters: each unit lands in its own period and on its own meter, here and at Stripe.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tollgate::clock::Clock;

use crate::support::Gateway;
use crate::support::gateway::{PRICING, Setup, rows};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn second(text: &str) -> i64 {
    at(text).as_second()
}

const FEBRUARY: &str = "2026-02-15T10:30:00Z";
const MARCH: &str = "2026-03-15T10:30:00Z";
const APRIL: &str = "2026-04-15T10:30:00Z";

/// A tenant whose periods begin on the 15th at half past ten.
async fn anchored(gateway: &Gateway, id: &str, plan: &str) -> String {
    let key = gateway.tenant(id, plan).await;
    let body = json!({ "period_anchor": "2026-01-15T10:30:00Z" });
    let patched = gateway.admin("PATCH", &format!("/api/v1/tenants/{id}"), &body).await;
    assert_eq!(patched.status, 200, "{}", patched.text());
    key
}

/// Flushed units of a tenant, by the beginning of their period.
async fn totals(gateway: &Gateway, tenant: &str) -> Vec<(i64, i64)> {
    gateway.running().flush_now().await.unwrap();
    let query = "SELECT u.period, SUM(u.total) FROM usage AS u JOIN tenant AS t ON t.num = u.tenant \
                 WHERE t.id = $1 AND u.total > 0 GROUP BY 1 ORDER BY 1";
    rows(gateway.folder.path(), query, tenant).await.iter().map(|row| (row[0], row[1])).collect()
}

#[test]
fn use_lands_in_its_own_period_and_the_cap_resets_at_the_anchor() {
    let clock = Clock::manual(at("2026-03-15T10:29:59Z"));
    let gateway = Gateway::with(&Setup { clock: clock.clone(), ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = anchored(&gateway, "acme", "free").await;
        let mut client = gateway.client();
        for _ in 0..50 {
            assert_eq!(client.get("/two/x", &key).await.unwrap().status, 200);
        }
        let refused = client.get("/one", &key).await.unwrap();
        assert_eq!((refused.status, refused.json()["resets_at"].as_str()), (402, Some(MARCH)));
        clock.set(at("2026-03-15T10:29:59.999Z"));
        assert_eq!(client.get("/one", &key).await.unwrap().status, 402, "not a millisecond early");
        clock.set(at(MARCH));
        let got = client.get("/three", &key).await.unwrap();
        assert_eq!(got.status, 200, "the cap is reset");
        assert!(got.header("ratelimit").starts_with("\"api_units\";r=97;t=2678400"), "{got:?}");
        assert_eq!(totals(&gateway, "acme").await, [(second(FEBRUARY), 100), (second(MARCH), 3)]);
        // The clock steps back an hour: what is used then belongs to the old period, which is spent.
        clock.set(at("2026-03-15T09:30:00Z"));
        assert_eq!(client.get("/one", &key).await.unwrap().status, 402);
        assert_eq!(totals(&gateway, "acme").await, [(second(FEBRUARY), 100), (second(MARCH), 3)]);
        clock.set(at("2026-03-15T10:31:00Z"));
        for _ in 0..97 {
            assert_eq!(client.get("/one", &key).await.unwrap().status, 200);
        }
        assert_eq!(client.get("/one", &key).await.unwrap().status, 402, "to the unit, whatever the clock did");
        gateway.running().report_now().await.unwrap();
        assert_eq!(totals(&gateway, "acme").await, [(second(FEBRUARY), 100), (second(MARCH), 100)]);
        assert_eq!(gateway.at_stripe("acme").await, 200);
    });
}

#[test]
fn an_exchange_over_the_border_stays_in_the_period_of_its_admission() {
    let clock = Clock::manual(at("2026-03-15T10:29:58Z"));
    let gateway = Gateway::with(&Setup { clock: clock.clone(), ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = anchored(&gateway, "acme", "pro").await;
        let (mut slow, mut quick) = (gateway.client(), gateway.client());
        let started = tokio::spawn({
            let key = key.clone();
            async move { slow.get("/slow/300", &key).await.unwrap().status }
        });
        while gateway.origin.count("acme", "/slow/300") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        clock.set(at("2026-03-15T10:30:05Z"));
        assert_eq!(quick.get("/five", &key).await.unwrap().status, 200);
        assert_eq!(started.await.unwrap(), 200);
        gateway.running().report_now().await.unwrap();
        assert_eq!(totals(&gateway, "acme").await, [(second(FEBRUARY), 1), (second(MARCH), 5)]);
        let reports = gateway.admin("GET", "/api/v1/reports?tenant=acme", &Value::Null).await.json();
        let mut seen: Vec<_> = reports["data"].as_array().unwrap().iter().map(report).collect();
        seen.sort();
        assert_eq!(seen.len(), 2, "{seen:?}");
        for (period, stamp, value, end) in
            [(FEBRUARY, &seen[0], 1, MARCH), (MARCH, &seen[1], 5, APRIL)].map(|(p, s, v, e)| (p, s, v, e))
        {
            assert_eq!((stamp.0, stamp.2), (at(period), value));
            assert!(
                (at(period)..at(end)).contains(&stamp.1),
                "Stripe is told {} for the period from {period}",
                stamp.1
            );
        }
    });
}

fn report(report: &Value) -> (Timestamp, Timestamp, u64) {
    assert_eq!(report["state"], "delivered", "{report}");
    let moment = |name: &str| at(report[name].as_str().unwrap());
    (moment("period_start"), moment("at"), report["value"].as_u64().unwrap())
}

const METERS: &str = r"
meters:
  api_units: { kind: counter, stripe_event: api_units }
  tokens:    { kind: counter, stripe_event: tokens_used }
plans:
  free: { monthly: 0, included: { api_units: 20, tokens: 7 }, overage: none }
  pro:  { monthly: 9, included: { api_units: 20, tokens: 7 }, overage: { tokens: 0.01 } }
routes:
  - { match: GET /both, cost: { api_units: 2, tokens: 3 } }
  - { match: GET /unit, cost: 1 }
  - { match: GET /token, cost: { tokens: 1 } }
";

/// What Stripe holds of a tenant on the meter of that event.
async fn at_stripe(gateway: &Gateway, tenant: &str, event: &str) -> u64 {
    use tollgate::stripe::client::Span;
    let customer = gateway.running().records().tenant(tenant).await.unwrap().unwrap().stripe_customer_id.unwrap();
    let client = gateway.running().billing().unwrap().client();
    let meters = client.meters().await.unwrap();
    let meter = meters.iter().find(|meter| meter.event_name == event).unwrap();
    let minute_s = Clock::System.now_s().div_euclid(60) * 60;
    let span = Span { start_s: minute_s - 86_400, end_s: minute_s + 600 };
    client.metered(&meter.id, &customer, span).await.unwrap()
}

#[test]
fn a_refusal_on_one_meter_reserves_nothing_on_the_other() {
    let gateway = Gateway::with(&Setup { pricing: METERS, ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        let mut client = gateway.client();
        for _ in 0..2 {
            let got = client.get("/both", &key).await.unwrap();
            assert_eq!((got.status, got.header("x-tollgate-cost")), (200, "5"));
        }
        for _ in 0..5 {
            let refused = client.get("/both", &key).await.unwrap().json();
            assert_eq!((refused["code"].as_str(), refused["meter"].as_str()), (Some("limit_exceeded"), Some("tokens")));
            assert_eq!((refused["used"].as_u64(), refused["limit"].as_u64()), (Some(6), Some(7)));
        }
        assert_eq!(gateway.origin.count("acme", "/both"), 2);
        for (path, times) in [("/unit", 16), ("/token", 1)] {
            for _ in 0..times {
                assert_eq!(client.get(path, &key).await.unwrap().status, 200, "{path}: nothing is left reserved");
            }
            assert_eq!(client.get(path, &key).await.unwrap().status, 402, "{path}");
        }
        gateway.running().report_now().await.unwrap();
        let usage = gateway.admin("GET", "/api/v1/tenants/acme/usage", &Value::Null).await.json();
        let used =
            |n: usize| (usage["meters"][n]["meter"].as_str().unwrap(), usage["meters"][n]["used"].as_u64().unwrap());
        assert_eq!([used(0), used(1)], [("api_units", 20), ("tokens", 7)]);
        let stripe = (at_stripe(&gateway, "acme", "api_units").await, at_stripe(&gateway, "acme", "tokens_used").await);
        assert_eq!(stripe, (20, 7));
        assert_eq!(
            gateway.rows("acme", "route").await.iter().map(|row| row.2).sum::<u64>(),
            26,
            "19 served, 7 refused"
        );
    });
}

#[test]
fn meters_at_once_are_exact_under_load_with_a_cap_on_one() {
    let gateway = Gateway::with(&Setup { pricing: METERS, ..Setup::default() });
    gateway.runtime.block_on(async {
        // api_units stop at 20, tokens run on.
        let key = gateway.tenant("acme", "pro").await;
        let drive = |_| {
            let (mut client, key) = (gateway.client(), key.clone());
            tokio::spawn(async move {
                let mut served = 0;
                for _ in 0..20 {
                    served += u64::from(client.get("/both", &key).await.unwrap().status == 200);
                    assert_eq!(client.get("/token", &key).await.unwrap().status, 200);
                }
                served
            })
        };
        let drivers: Vec<_> = (0..8).map(drive).collect();
        let mut served = 0;
        for driver in drivers {
            served += driver.await.unwrap();
        }
        assert_eq!(served, 10, "twenty units, two each");
        gateway.running().report_now().await.unwrap();
        let stripe = (at_stripe(&gateway, "acme", "api_units").await, at_stripe(&gateway, "acme", "tokens_used").await);
        assert_eq!(stripe, (20, 30 + 160));
    });
}

#[test]
fn a_trial_is_a_period_of_its_own() {
    let clock = Clock::manual(at("2026-03-01T00:00:00Z"));
    let gateway = Gateway::with(&Setup { pricing: PRICING, clock: clock.clone(), ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        let body = json!({ "status": "trialing", "trial_ends_at": "2026-03-20T00:00:00Z",
                           "period_anchor": "2026-03-20T00:00:00Z" });
        assert_eq!(gateway.admin("PATCH", "/api/v1/tenants/acme", &body).await.status, 200);
        let mut client = gateway.client();
        for _ in 0..20 {
            assert_eq!(client.get("/five", &key).await.unwrap().status, 200);
        }
        clock.set(at("2026-03-19T23:59:59Z"));
        assert_eq!(client.get("/one", &key).await.unwrap().status, 402);
        clock.set(at("2026-03-20T00:00:00Z"));
        assert_eq!(client.get("/one", &key).await.unwrap().status, 200, "the trial has ended, the first month begins");
    });
}
