//! `/api/v1/tenants/{id}/usage`, `/reports` and `/dead-letters`.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tollgate::journal::Outcome;
use tollgate::journal::batch::{Batch, Row};
use tollgate::pricing::{Gate, Status};
use tollgate::records::{Answer, Report};
use tollgate::units::{Account, KeyNum, NodeId, PeriodId, TenantNum};

use super::harness::{ADMIN, Api};

/// The period of a tenant created at the harness' `NOW`, and an hour later within it.
const PERIOD: &str = "2026-11-20T12:30:00Z";
const LATER: &str = "2026-11-20T13:30:00Z";

fn at(time: &str) -> Timestamp {
    time.parse().expect("RFC 3339")
}

fn account() -> Account {
    Account { tenant: TenantNum(1), period: PeriodId(at(PERIOD).as_second()), meter: "api_units".into() }
}

/// Flushes rows of (route, hour, status, key, units, requests) as one batch of tenant 1.
async fn flush(api: &Api, rows: &[(&str, &str, u16, KeyNum, u64, u64)]) {
    let row = |&(route, hour, status, key, units, requests): &(&str, &str, u16, KeyNum, u64, u64)| Row {
        tenant: TenantNum(1),
        period: account().period,
        meter: account().meter,
        route: route.into(),
        hour_s: at(hour).as_second(),
        status,
        outcome: Outcome::Completed,
        key,
        units,
        requests,
    };
    let node = NodeId(Arc::from("n1"));
    api.records.register_node(&node, 1, api.clock.now()).await.expect("a new node");
    let batch = Batch { node, worker: 0, from: 1, to: 10, rows: rows.iter().map(row).collect() };
    api.records.flush(&[batch], api.clock.now()).await.expect("flushed");
}

/// 1 250 units in two hours, 200 by a key; the clock an hour on.
async fn with_usage(api: &Api) -> String {
    let key = api.call("POST", "/tenants/acme/keys", json!({"key": "legacy-key-1"})).await.ok(201);
    let hash = super::keys::hash("legacy-key-1");
    let (stored, _) = api.records.key_by_hash(&hash).await.expect("readable").expect("there");
    flush(
        api,
        &[
            ("GET /signals", "2026-11-20T12:00:00Z", 200, stored.num, 200, 200),
            ("GET /signals", "2026-11-20T13:00:00Z", 200, KeyNum::NONE, 1000, 500),
            ("* /export/csv", "2026-11-20T13:00:00Z", 201, KeyNum::NONE, 50, 10),
            ("* /export/csv", "2026-11-20T13:00:00Z", 500, KeyNum::NONE, 0, 4),
        ],
    )
    .await;
    api.clock.set(at(LATER));
    key["id"].as_str().expect("an id").to_owned()
}

async fn seal(api: &Api) -> Report {
    let sealed = api.records.seal(&account(), api.clock.now(), api.clock.now()).await.expect("sealed");
    sealed.expect("there is something to report")
}

#[tokio::test]
async fn before_any_traffic_everything_is_left() {
    let api = Api::start().await;
    api.acme().await;
    let expected = json!({
        "tenant": "acme", "plan": "starter",
        "period": {"start": "2026-11-20T12:30:00Z", "end": "2026-12-20T12:30:00Z"},
        "meters": [{"meter": "api_units", "used": 0, "included": 1000, "limit": null, "remaining": 1000, "overage": 0,
                    "overage_amount": {"amount": 0, "currency": "usd"}, "pending": 0, "reported": 0}],
        "rows": []
    });
    assert_eq!(api.get("/tenants/acme/usage").await.ok(200), expected);
    api.get("/tenants/nobody/usage").await.refused(404, "unknown_tenant", None);
    api.stop().await;
}

#[tokio::test]
async fn usage_overage_and_what_stripe_has() {
    let api = Api::start().await;
    api.acme().await;
    with_usage(&api).await;
    let report = seal(&api).await;
    api.records.answered(&report, Answer::Delivered, api.clock.now()).await.expect("noted");
    let usage = api.get("/tenants/acme/usage").await.ok(200);
    let meter = json!({"meter": "api_units", "used": 1250, "included": 1000, "limit": null, "remaining": 0,
                       "overage": 250, "overage_amount": {"amount": 750, "currency": "usd"}, "pending": 0,
                       "reported": 1250});
    assert_eq!(usage["meters"], json!([meter]));
    let rows = json!([
        {"meter": "api_units", "route": "* /export/csv", "units": 50, "requests": 14},
        {"meter": "api_units", "route": "GET /signals", "units": 1200, "requests": 700}
    ]);
    assert_eq!(usage["rows"], rows);
    *api.live.lock().expect("sound") = Some(1253);
    let fresher = api.get("/tenants/acme/usage").await.ok(200)["meters"][0].clone();
    assert_eq!((&fresher["used"], &fresher["pending"], &fresher["reported"]), (&json!(1253), &json!(3), &json!(1250)));
    *api.live.lock().expect("sound") = Some(7);
    assert_eq!(api.get("/tenants/acme/usage").await.ok(200)["meters"][0]["used"], 1250, "flushed by other nodes");
    api.stop().await;
}

/// A bug to keep out: periods rarely begin on the hour, history is kept by the hour.
#[tokio::test]
async fn the_hour_in_which_a_period_begins_is_split_between_both() {
    let api = Api::start().await;
    api.acme().await;
    with_usage(&api).await;
    api.call("PATCH", "/tenants/acme", json!({"period_anchor": "2026-11-20T13:15:00Z"})).await.ok(200);
    let running = api.get("/tenants/acme/usage").await.ok(200);
    assert_eq!((&running["period"]["start"], &running["rows"]), (&json!("2026-11-20T13:15:00Z"), &json!([])));
    assert_eq!(running["meters"][0]["used"], 0);
    let hour = api.get("/tenants/acme/usage?from=2026-11-20T13:15:00Z&by=meter").await.ok(200);
    assert_eq!(hour["rows"][0]["units"], 1050, "a span shows every hour that it touches");
    api.stop().await;
}

#[tokio::test]
async fn a_capped_plan_has_a_limit() {
    let api = Api::start().await;
    api.call("POST", "/tenants", json!({"id": "small", "plan": "free"})).await.ok(201);
    *api.live.lock().expect("sound") = Some(97);
    let meter = api.get("/tenants/small/usage").await.ok(200)["meters"][0].clone();
    let numbers = ["used", "included", "limit", "remaining", "overage"].map(|name| meter[name].as_u64());
    assert_eq!(numbers, [Some(97), Some(100), Some(100), Some(3), Some(0)]);
    api.stop().await;
}

#[tokio::test]
async fn rows_are_grouped_as_asked() {
    let api = Api::start().await;
    api.acme().await;
    let key = with_usage(&api).await;
    let rows = async |by: &str| {
        let usage = api.get(&format!("/tenants/acme/usage?by={by}")).await.ok(200);
        let rows = usage["rows"].as_array().expect("a list").clone();
        let mut cells: Vec<(String, u64, u64)> = rows
            .iter()
            .map(|row| {
                let group = row[by].as_str().unwrap_or_else(|| panic!("{row}")).to_owned();
                (group, row["units"].as_u64().expect("units"), row["requests"].as_u64().expect("requests"))
            })
            .collect();
        cells.sort();
        cells
    };
    let row = |group: &str, units, requests| (group.to_owned(), units, requests);
    assert_eq!(rows("hour").await, [row("2026-11-20T12:00:00Z", 200, 200), row("2026-11-20T13:00:00Z", 1050, 514)]);
    assert_eq!(rows("day").await, [row("2026-11-20", 1250, 714)]);
    assert_eq!(rows("meter").await, [row("api_units", 1250, 714)]);
    assert_eq!(rows("status").await, [row("200", 1200, 700), row("201", 50, 10), row("500", 0, 4)]);
    assert_eq!(rows("key").await, [row("", 1050, 514), row(&key, 200, 200)]);
    let first = api.get("/tenants/acme/usage?from=2026-11-20T12:30:00Z&to=2026-11-20T13:00:00Z").await.ok(200);
    assert_eq!(first["rows"], json!([{"meter": "api_units", "route": "GET /signals", "units": 200, "requests": 200}]));
    let whole_day = api.get("/tenants/acme/usage?from=2026-11-20&by=meter").await.ok(200);
    assert_eq!(whole_day["rows"][0]["units"], 1250);
    api.get("/tenants/acme/usage?by=colour").await.refused(400, "bad_request", Some("by"));
    api.get("/tenants/acme/usage?from=yesterday").await.refused(422, "invalid_value", Some("from"));
    api.get("/tenants/acme/usage?from=2026-11-21&to=2026-11-20").await.refused(422, "invalid_value", Some("from"));
    api.stop().await;
}

#[tokio::test]
async fn the_same_rows_as_csv() {
    let api = Api::start().await;
    api.acme().await;
    with_usage(&api).await;
    let expected = "route,meter,units,requests\r\n* /export/csv,api_units,50,14\r\nGET /signals,api_units,1200,700\r\n";
    let by_parameter = api.get("/tenants/acme/usage?format=csv").await;
    assert_eq!(by_parameter.headers["content-type"], "text/csv; charset=utf-8; header=present");
    assert_eq!(by_parameter.text, expected);
    let headers = [("authorization", &*format!("Bearer {ADMIN}")), ("accept", "text/csv")];
    let by_header = api.raw("GET", "/api/v1/tenants/acme/usage", &headers, String::new()).await;
    assert_eq!(by_header.text, expected);
    api.stop().await;
}

#[tokio::test]
async fn where_a_status_opens_only_the_free_plan_its_limits_are_shown() {
    let api = Api::start().await;
    api.acme().await;
    let mut active = (**api.active.load()).clone();
    let starter = Arc::make_mut(&mut active.pricing).plans.get_mut("starter").expect("in the file");
    Arc::make_mut(starter).gates.insert(Status::Canceled, Gate::Free);
    api.active.store(Arc::new(active));
    api.call("PATCH", "/tenants/acme", json!({"status": "canceled"})).await.ok(200);
    let usage = api.get("/tenants/acme/usage").await.ok(200);
    assert_eq!((&usage["plan"], &usage["meters"][0]["limit"]), (&json!("free"), &json!(100)));
    api.stop().await;
}

#[tokio::test]
async fn a_plan_that_is_gone_from_the_file_is_a_conflict() {
    let api = Api::start().await;
    api.acme().await;
    let mut active = (**api.active.load()).clone();
    let mut pricing = (*active.pricing).clone();
    pricing.plans.remove("starter");
    active.pricing = Arc::new(pricing);
    api.active.store(Arc::new(active));
    api.get("/tenants/acme/usage").await.refused(409, "unknown_plan", Some("plan"));
    api.stop().await;
}

#[tokio::test]
async fn reports_and_dead_letters() {
    let api = Api::start().await;
    api.acme().await;
    assert_eq!(api.get("/reports").await.ok(200), json!({"data": [], "next": null}));
    with_usage(&api).await;
    let report = seal(&api).await;
    let listed = api.get("/reports").await.ok(200)["data"][0].clone();
    assert_eq!(
        (&listed["tenant"], &listed["meter"], &listed["state"]),
        (&json!("acme"), &json!("api_units"), &json!("pending"))
    );
    assert_eq!((&listed["value"], &listed["identifier"]), (&json!(1250), &json!(report.identifier)));
    assert_eq!((&listed["period_start"], &listed["at"]), (&json!(PERIOD), &json!(LATER)));
    assert_eq!(api.get("/dead-letters").await.ok(200)["data"], json!([]));
    let refused = Answer::Rejected("no such customer".to_owned());
    api.records.answered(&report, refused, api.clock.now()).await.expect("noted");
    let dead = api.get("/dead-letters").await.ok(200)["data"].clone();
    assert_eq!((dead[0]["state"].clone(), dead[0]["detail"].clone()), (json!("rejected"), json!("no such customer")));
    assert_eq!(api.get("/reports?state=rejected&tenant=acme").await.ok(200)["data"], dead);
    assert_eq!(api.get("/reports?state=delivered").await.ok(200)["data"], json!([]));
    assert_eq!(api.get("/reports?tenant=nobody").await.ok(200)["data"], json!([]));
    api.get("/reports?state=lost").await.refused(400, "bad_request", Some("state"));
    api.stop().await;
}

#[tokio::test]
async fn usage_without_a_customer_is_held() {
    let api = Api::start().await;
    api.call("POST", "/tenants", json!({"id": "acme", "plan": "starter"})).await.ok(201);
    with_usage(&api).await;
    let held = api.get("/reports?state=no_customer").await.ok(200);
    let expected =
        json!({"tenant": "acme", "meter": "api_units", "period_start": PERIOD, "value": 1250, "state": "no_customer"});
    assert_eq!(held["data"], json!([expected]));
    api.call("PATCH", "/tenants/acme", json!({"stripe_customer_id": "cus_1"})).await.ok(200);
    assert_eq!(api.get("/reports?state=no_customer").await.ok(200)["data"], Value::Array(Vec::new()));
    api.stop().await;
}
