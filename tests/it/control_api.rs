//! The admin API over real HTTP, every endpoint of it, and the commands that talk to it.

mod commands;
mod harness;
mod keys;
mod tenants;
mod usage;

use harness::{ADMIN, Api, BILLING, READ};
use serde_json::{Value, json};

#[tokio::test]
async fn health_readiness_and_metrics_need_no_token() {
    let api = Api::start().await;
    assert_eq!(api.raw("GET", "/healthz", &[], String::new()).await.ok(200), json!({"status": "ok"}));
    let unready = api.raw("GET", "/readyz", &[], String::new()).await;
    assert_eq!(unready.ok(503), json!({"ready": false, "missing": {"journal": "starting"}}));
    api.journal.met();
    assert_eq!(api.raw("GET", "/readyz", &[], String::new()).await.ok(200), json!({"ready": true, "missing": {}}));
    metrics::counter!(tollgate::telemetry::names::UNITS_TOTAL, "meter" => "control_api_test").increment(7);
    let metrics = api.raw("GET", "/metrics", &[], String::new()).await;
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(metrics.text.contains("tollgate_units_total{meter=\"control_api_test\"} 7"), "{}", metrics.text);
    api.stop().await;
}

#[tokio::test]
async fn without_a_good_token_nothing_is_told() {
    let api = Api::start().await;
    let missing = api.raw("GET", "/api/v1/tenants", &[], String::new()).await;
    missing.refused(401, "missing_credential", Some("Authorization"));
    assert_eq!(missing.headers["www-authenticate"], "Bearer");
    api.call_as("wrong", "GET", "/tenants", Value::Null).await.refused(
        401,
        "unknown_credential",
        Some("Authorization"),
    );
    api.call_as("wrong", "GET", "/no-such-thing", Value::Null).await.refused(
        401,
        "unknown_credential",
        Some("Authorization"),
    );
    api.stop().await;
}

#[tokio::test]
async fn each_role_may_do_what_it_is_for() {
    let api = Api::start().await;
    let new = |id: &str| json!({"id": id, "plan": "free"});
    api.call_as(READ, "POST", "/tenants", new("a")).await.refused(403, "insufficient_role", None);
    api.call_as(BILLING, "POST", "/tenants", new("a")).await.ok(201);
    api.call_as(READ, "GET", "/tenants/a", Value::Null).await.ok(200);
    api.call_as(READ, "PATCH", "/tenants/a", json!({"name": "A"})).await.refused(403, "insufficient_role", None);
    api.call_as(BILLING, "PATCH", "/tenants/a", json!({"name": "A"})).await.ok(200);
    api.call_as(BILLING, "POST", "/tenants/a/keys", json!({})).await.refused(403, "insufficient_role", None);
    api.call_as(BILLING, "POST", "/config/reload", Value::Null).await.refused(403, "insufficient_role", None);
    api.call_as(BILLING, "DELETE", "/tenants/a", Value::Null).await.refused(403, "insufficient_role", None);
    api.call_as(ADMIN, "POST", "/tenants/a/keys", json!({})).await.ok(201);
    api.call_as(ADMIN, "DELETE", "/tenants/a", Value::Null).await.ok(204);
    let who: Vec<String> =
        api.audited().await.into_iter().map(|(actor, action, _)| format!("{actor} {action}")).collect();
    let expected = ["admin tenant.delete", "admin key.create", "billing tenant.update", "billing tenant.create"];
    assert_eq!(who, expected);
    api.stop().await;
}

#[tokio::test]
async fn unknown_paths_methods_and_parameters_are_problems_too() {
    let api = Api::start().await;
    api.get("/nothing").await.refused(404, "unknown_path", None);
    api.raw("GET", "/nothing", &[], String::new()).await.refused(404, "unknown_path", None);
    let wrong = api.call("DELETE", "/config", Value::Null).await;
    wrong.refused(405, "method_not_allowed", None);
    assert_eq!(wrong.headers["allow"], "GET,HEAD");
    api.get("/tenants?colour=red").await.refused(400, "bad_request", Some("colour"));
    api.get("/tenants?limit=many").await.refused(400, "bad_request", Some("limit"));
    api.get("/tenants?limit=0").await.refused(422, "invalid_value", Some("limit"));
    api.get("/tenants?after=nonsense").await.refused(422, "invalid_value", None);
    api.stop().await;
}

#[tokio::test]
async fn a_body_is_json_of_at_most_a_mebibyte() {
    let api = Api::start().await;
    let post = async |body: String| {
        let authorization = format!("Bearer {ADMIN}");
        api.raw("POST", "/api/v1/tenants", &[("authorization", &authorization)], body).await
    };
    post("{".to_owned()).await.refused(400, "bad_request", None);
    post("[]".to_owned()).await.refused(400, "bad_request", None);
    post(format!("{{\"id\":\"{}\"}}", "x".repeat(1 << 20))).await.refused(413, "body_too_large", None);
    post("{\"id\":\"curl\",\"plan\":\"free\"}".to_owned()).await.ok(201);
    api.stop().await;
}

#[tokio::test]
async fn without_the_records_nothing_is_made_up() {
    let api = Api::start().await;
    api.acme().await;
    api.take_changes();
    api.records.close().await;
    for path in ["/tenants", "/tenants/acme", "/tenants/acme/usage", "/reports", "/audit"] {
        api.get(path).await.refused(503, "records_unavailable", None);
    }
    api.call("POST", "/tenants", json!({"id": "b", "plan": "free"})).await.refused(503, "records_unavailable", None);
    api.call("PATCH", "/tenants/acme", json!({"plan": "free"})).await.refused(503, "records_unavailable", None);
    assert!(api.take_changes().is_empty(), "nothing happened");
    assert_eq!(api.raw("GET", "/healthz", &[], String::new()).await.ok(200), json!({"status": "ok"}));
    api.stop().await;
}

#[tokio::test]
async fn the_configuration_in_force_and_a_reload() {
    let api = Api::start().await;
    let shown = api.get("/config").await.ok(200);
    assert_eq!((&shown["version"], &shown["loaded_at"]), (&json!(1), &json!(harness::NOW)));
    assert_eq!(shown["sha256"].as_str().map(str::len), Some(64));
    assert_eq!(shown["last_error"], Value::Null);
    assert_eq!(api.call("POST", "/config/reload", Value::Null).await.ok(200), json!({"version": 2}));
    *api.reload.lock().expect("sound") = Err("pricing.yaml:3:7: plans.pro: …".to_owned());
    let refused = api.call("POST", "/config/reload", Value::Null).await;
    let problem = refused.refused(422, "invalid_configuration", None);
    assert_eq!(problem["detail"], "pricing.yaml:3:7: plans.pro: …");
    let audit = api.get("/audit?limit=1").await.ok(200);
    assert_eq!(audit["data"][0]["action"], "config.reload");
    assert_eq!(audit["data"][0]["detail"], json!({"refused": "pricing.yaml:3:7: plans.pro: …"}));
    let older = api.get(&format!("/audit?after={}", audit["next"].as_str().expect("a cursor"))).await.ok(200);
    assert_eq!(older["data"][0]["detail"], json!({"version": 2}));
    assert_eq!(older["next"], Value::Null);
    api.stop().await;
}
