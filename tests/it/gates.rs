//! Who may pass: subscription status, features, rates, keys and scopes, against a clock that the test moves.

use jiff::Timestamp;
use serde_json::{Value, json};
use tollgate::clock::Clock;

use crate::support::gateway::Setup;
use crate::support::{Client, Gateway};

const PRICING: &str = r#"
meters: { api_units: { kind: counter, stripe_event: api_units } }
plans:
  free:    { monthly: 0, included: { api_units: 5 }, overage: none }
  starter: { monthly: 9, included: { api_units: 100 }, overage: none }
  lenient: { monthly: 9, included: { api_units: 100 }, overage: none, grace: 2h,
             status: { past_due: pass, unpaid: grace, canceled: free, incomplete: pass, paused: free, active: pass } }
  pro:     { monthly: 99, included: { api_units: 1000 }, overage: { api_units: 0.02 },
             features: { exports: true, models: 10, beta: false, region: "eu" } }
  paced:   { monthly: 9, included: { api_units: 100 }, overage: none, rate: { sustained: 1/m, burst: 2, per: key } }
routes:
  - { match: /export/csv, cost: 1, requires: exports }
  - { match: GET /rare,   cost: 1, rate: { sustained: 1/m, burst: 1 } }
  - { match: "GET /files/{name}", cost: 1 }
  - { match: "GET /secret/{name}", cost: 1 }
"#;

const NOON: &str = "2026-03-10T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn gateway() -> (Gateway, Clock) {
    let clock = Clock::manual(at(NOON));
    (Gateway::with(&Setup { pricing: PRICING, clock: clock.clone(), ..Setup::default() }), clock)
}

async fn patch(gateway: &Gateway, body: Value) {
    let patched = gateway.admin("PATCH", "/api/v1/tenants/acme", &body).await;
    assert_eq!(patched.status, 200, "{}", patched.text());
}

/// Status and problem code of one call.
async fn call(client: &mut Client, path: &str, key: &str) -> (u16, String) {
    let got = client.get(path, key).await.unwrap();
    let code = if got.status == 200 { String::new() } else { got.json()["code"].as_str().unwrap().to_owned() };
    (got.status, code)
}

#[test]
fn every_status_has_its_default() {
    let (gateway, clock) = gateway();
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "starter").await;
        let mut client = gateway.client();
        let passes = ["trialing", "active"];
        let refused = ["unpaid", "canceled", "incomplete", "incomplete_expired", "paused"];
        for status in passes {
            patch(&gateway, json!({ "status": status })).await;
            assert_eq!(call(&mut client, "/one", &key).await.0, 200, "{status}");
        }
        for status in refused {
            patch(&gateway, json!({ "status": status })).await;
            let got = client.get("/one", &key).await.unwrap();
            let problem = got.json();
            assert_eq!((got.status, problem["code"].as_str()), (402, Some("subscription_inactive")), "{status}");
            assert_eq!(problem["plan"], "starter");
        }
        // Three days of grace from the moment of the status, to the second.
        patch(&gateway, json!({ "status": "past_due" })).await;
        for (moment, expected) in [(NOON, 200), ("2026-03-13T11:59:59Z", 200), ("2026-03-13T12:00:00Z", 402)] {
            clock.set(at(moment));
            assert_eq!(call(&mut client, "/one", &key).await.0, expected, "past_due at {moment}");
        }
        patch(&gateway, json!({ "status": "active" })).await;
        assert_eq!(call(&mut client, "/one", &key).await.0, 200, "paid");
        patch(&gateway, json!({ "status": null })).await;
        assert_eq!(call(&mut client, "/one", &key).await.0, 200, "without a subscription the plan holds as assigned");
    });
}

#[test]
fn a_plan_may_say_otherwise_for_each_status() {
    let (gateway, clock) = gateway();
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "lenient").await;
        let mut client = gateway.client();
        for (status, expected) in [("past_due", 200), ("incomplete", 200), ("incomplete_expired", 402), ("unpaid", 200)]
        {
            patch(&gateway, json!({ "status": status })).await;
            assert_eq!(call(&mut client, "/one", &key).await.0, expected, "{status}");
        }
        clock.set(at("2026-03-10T13:59:59Z"));
        assert_eq!(call(&mut client, "/one", &key).await.0, 200, "two hours of grace");
        clock.set(at("2026-03-10T14:00:00Z"));
        assert_eq!(call(&mut client, "/one", &key).await, (402, "subscription_inactive".into()));
    });
}

#[test]
fn a_fallen_subscription_has_the_free_plans_cap() {
    let (gateway, _clock) = gateway();
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "lenient").await;
        let mut client = gateway.client();
        for _ in 0..3 {
            assert_eq!(call(&mut client, "/one", &key).await.0, 200);
        }
        patch(&gateway, json!({ "status": "canceled" })).await;
        let got = client.send("GET", "/echo", &[("x-api-key", &key)], b"").await.unwrap();
        assert!(got.text().contains("x-tenant-plan: free\n"), "{}", got.text());
        assert!(got.header("ratelimit-policy").starts_with("\"api_units\";q=5;"), "{got:?}");
        assert_eq!(call(&mut client, "/one", &key).await.0, 200);
        let got = client.get("/one", &key).await.unwrap();
        let problem = got.json();
        assert_eq!((got.status, problem["code"].as_str()), (402, Some("limit_exceeded")));
        assert_eq!((problem["plan"].as_str(), problem["used"].as_u64()), (Some("free"), Some(5)));
        assert_eq!(problem["limit"], 5);
        patch(&gateway, json!({ "status": "active" })).await;
        assert_eq!(call(&mut client, "/one", &key).await.0, 200, "and back");
        gateway.running().flush_now().await.unwrap();
        assert_eq!(gateway.used("acme").await, 6);
    });
}

#[test]
fn features_open_routes_and_are_told_to_the_origin() {
    let (gateway, _clock) = gateway();
    gateway.runtime.block_on(async {
        let (poor, rich) = (gateway.tenant("acme", "starter").await, gateway.tenant("rich", "pro").await);
        let mut client = gateway.client();
        assert_eq!(call(&mut client, "/export/csv", &poor).await, (403, "feature_required".into()));
        assert_eq!(call(&mut client, "/export/csv", &rich).await.0, 200);
        assert_eq!(gateway.origin.count("acme", "/export/csv"), 0);
        for path in ["/export/%63sv", "/export//csv", "/export%2Fcsv", "/export/csv;x=1"] {
            let got = call(&mut client, path, &poor).await;
            assert_eq!(got, (403, "feature_required".into()), "{path} may be read as the same route");
        }
        let forged = [("x-api-key", rich.as_str()), ("x-tenant-id", "acme"), ("x-tenant-features", "all")];
        let text = client.send("GET", "/echo", &forged, b"").await.unwrap().text();
        for line in
            ["x-tenant-id: rich\n", "x-tenant-plan: pro\n", "x-tenant-features: exports, models=10, region=\"eu\"\n"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
        let text =
            client.send("GET", "/echo", &[("x-api-key", &poor), ("x-tenant-features", "all")], b"").await.unwrap();
        assert!(!text.text().contains("x-tenant-features"), "a plan without features says nothing");
    });
}

#[test]
fn rates_are_per_key_and_per_route() {
    let (gateway, _clock) = gateway();
    gateway.runtime.block_on(async {
        let first = gateway.tenant("acme", "paced").await;
        let made = gateway.admin("POST", "/api/v1/tenants/acme/keys", &json!({ "name": "second" })).await.json();
        let second = made["key"].as_str().unwrap();
        let mut client = gateway.client();
        for key in [&first, second] {
            let mut seen = Vec::new();
            for _ in 0..3 {
                seen.push(call(&mut client, "/one", key).await);
            }
            assert_eq!(seen[..2], [(200, String::new()), (200, String::new())], "each key has its own");
            assert_eq!(seen[2], (429, "rate_limited".into()));
        }
        let other = gateway.tenant("other", "starter").await;
        assert_eq!(call(&mut client, "/rare", &other).await.0, 200);
        let got = client.get("/rare", &other).await.unwrap();
        assert_eq!(got.status, 429);
        let wait: u64 = got.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        assert_eq!(call(&mut client, "/one", &other).await.0, 200, "other routes are not held up");
        let third = gateway.tenant("third", "starter").await;
        assert_eq!(call(&mut client, "/rare", &third).await.0, 200, "nor other tenants");
        gateway.running().flush_now().await.unwrap();
        assert_eq!((gateway.used("acme").await, gateway.used("other").await), (4, 2), "429 is free");
    });
}

#[test]
fn a_key_ends_at_its_expiry_and_a_rotated_one_after_the_overlap() {
    let (gateway, clock) = gateway();
    gateway.runtime.block_on(async {
        gateway.tenant("acme", "starter").await;
        let body = json!({ "name": "short", "expires_at": "2026-03-10T12:10:00Z" });
        let made = gateway.admin("POST", "/api/v1/tenants/acme/keys", &body).await.json();
        let (id, old) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
        let mut client = gateway.client();
        assert_eq!(call(&mut client, "/one", old).await.0, 200);
        let path = format!("/api/v1/tenants/acme/keys/{id}/rotate");
        let rotated = gateway.admin("POST", &path, &json!({ "overlap": 300 })).await.json();
        let new = rotated["key"].as_str().unwrap();
        assert_eq!(rotated["replaces"]["expires_at"], "2026-03-10T12:05:00Z");
        for (moment, of_old, of_new) in [
            ("2026-03-10T12:04:59.999Z", 200, 200),
            ("2026-03-10T12:05:00Z", 401, 200),
            ("2026-03-10T12:09:59.999Z", 401, 200),
            ("2026-03-10T12:10:00Z", 401, 401),
        ] {
            clock.set(at(moment));
            let (old, new) = (call(&mut client, "/one", old).await, call(&mut client, "/one", new).await);
            assert_eq!((old.0, new.0), (of_old, of_new), "{moment}");
            assert!(old.0 == 200 || old.1 == "expired_credential", "{old:?}");
        }
    });
}

#[test]
fn a_scope_covers_a_path_only_in_all_its_readings() {
    let (gateway, _clock) = gateway();
    gateway.runtime.block_on(async {
        gateway.tenant("acme", "starter").await;
        let body = json!({ "name": "narrow", "scopes": ["GET /files/{name}"] });
        let made = gateway.admin("POST", "/api/v1/tenants/acme/keys", &body).await.json();
        let key = made["key"].as_str().unwrap();
        let mut client = gateway.client();
        for (path, expected) in [
            ("/files/a", 200),
            ("/%66iles/a", 200),
            ("/files/%61?x=1", 200),
            ("/secret/a", 403),
            ("/%73ecret/a", 403),
            ("/files/a/b", 403),
            ("/files%2Fa", 403),
            ("/files//a", 403),
            ("/files/..%2Fsecret", 400),
            ("/files/%2e%2e/secret/a", 400),
        ] {
            let got = call(&mut client, path, key).await;
            assert_eq!(got.0, expected, "{path}: {got:?}");
        }
    });
}
