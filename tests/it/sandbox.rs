//! The Stripe stand-in over real sockets: Stripe's own client, Stripe's own API description, broken connections.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tollgate::clock::Clock;
use tollgate::sandbox::{Config, Effect, Fault, Sandbox, start};

use crate::judge::{Verdict, judge, python, run};

/// What the stand-in has.
const EVERY_OPERATION: [&str; 23] = [
    "DELETE /v1/customers/{id}",
    "DELETE /v1/products/{id}",
    "GET /v1/billing/meters",
    "GET /v1/billing/meters/{id}",
    "GET /v1/billing/meters/{id}/event_summaries",
    "GET /v1/customers",
    "GET /v1/customers/{id}",
    "GET /v1/prices",
    "GET /v1/prices/{id}",
    "GET /v1/products",
    "GET /v1/products/{id}",
    "POST /v1/billing/meter_event_adjustments",
    "POST /v1/billing/meter_events",
    "POST /v1/billing/meters",
    "POST /v1/billing/meters/{id}",
    "POST /v1/billing/meters/{id}/deactivate",
    "POST /v1/billing/meters/{id}/reactivate",
    "POST /v1/customers",
    "POST /v1/customers/{id}",
    "POST /v1/prices",
    "POST /v1/prices/{id}",
    "POST /v1/products",
    "POST /v1/products/{id}",
];

const DEADLINE: Duration = Duration::from_secs(10);

async fn sandbox() -> Sandbox {
    start(Config::on_loopback(Clock::System)).await.expect("a free port on loopback")
}

/// One call on a connection of its own; everything that came back before it was closed.
pub(crate) async fn raw(sandbox: &Sandbox, head: &str, body: &str) -> String {
    let call = async {
        let mut stream = TcpStream::connect(sandbox.addr).await.unwrap();
        let length = body.len();
        let request = format!("{head} HTTP/1.1\r\nhost: sandbox\r\nconnection: close\r\ncontent-length: {length}\r\n");
        let form = "content-type: application/x-www-form-urlencoded\r\n";
        let auth = format!("authorization: Bearer {}\r\n\r\n", sandbox.secret_key);
        stream.write_all(format!("{request}{form}{auth}{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(DEADLINE, call).await.expect("an answer in time")
}

pub(crate) async fn call(sandbox: &Sandbox, head: &str, body: &str) -> Value {
    let answer = raw(sandbox, head, body).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    serde_json::from_str(body).unwrap_or(Value::Null)
}

/// A customer and a `sum` meter for `units`.
async fn with_meter(sandbox: &Sandbox) -> String {
    let customer = call(sandbox, "POST /v1/customers", "name=Acme").await;
    let meter = "event_name=units&display_name=Units&default_aggregation[formula]=sum";
    assert_eq!(call(sandbox, "POST /v1/billing/meters", meter).await["status"], "active");
    customer["id"].as_str().unwrap().to_owned()
}

fn event(customer: &str, identifier: &str) -> String {
    format!("event_name=units&payload[stripe_customer_id]={customer}&payload[value]=1&identifier={identifier}")
}

/// A refused request is wrong by intention: its answer is judged as that of a well-formed call.
pub(crate) fn refusals_answer_a_sound_call(exchanges: &str) -> String {
    let each = |line: &str| {
        let exchange: Value = serde_json::from_str(line).unwrap();
        if exchange["status"] == 200 {
            return format!("{line}\n");
        }
        let (status, response) = (&exchange["status"], &exchange["response"]);
        let sound = json!({ "method": "GET", "path": "/v1/customers", "content_type": null, "body": "",
                            "status": status, "response": response });
        format!("{sound}\n")
    };
    exchanges.lines().map(each).collect()
}

/// The operations that were answered with 200.
pub(crate) fn operations(exchanges: &str) -> BTreeSet<String> {
    let prefixes = [
        "cus_", "prod_", "price_", "mtr_", "pm_", "seti_", "sub_", "si_", "in_", "ii_", "promo_", "co_", "HALF", "cs_",
        "bpc_", "we_", "evt_", "clock_",
    ];
    let id = |segment: &str| prefixes.iter().any(|prefix| segment.starts_with(prefix));
    let operation = |line: &str| {
        let exchange: Value = serde_json::from_str(line).unwrap();
        let path = exchange["path"].as_str().unwrap().split('?').next().unwrap_or_default();
        let segments: Vec<&str> = path.split('/').map(|s| if id(s) { "{id}" } else { s }).collect();
        let (ok, method) = (exchange["status"] == 200, exchange["method"].as_str().unwrap());
        ok.then(|| format!("{method} {}", segments.join("/")))
    };
    exchanges.lines().filter_map(operation).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn stripes_python_client_works_and_every_answer_passes_stripes_description() {
    let Some(python) = python() else { return };
    let sandbox = sandbox().await;
    let (url, key) = (sandbox.url(), sandbox.secret_key.clone());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/stripe_client.py");
    let client = move || run(Command::new(python).arg(script).args([url, key]), b"");
    let (success, said) = tokio::task::spawn_blocking(client).await.unwrap();
    assert!(success, "{said}");
    let exchanges = refusals_answer_a_sound_call(&sandbox.exchanges());
    assert_eq!(operations(&exchanges), EVERY_OPERATION.map(str::to_owned).into());
    match judge(&exchanges) {
        Verdict::Clean(judged) => eprintln!("{judged} exchanges judged, 0 violations"),
        Verdict::Skipped => {}
        Verdict::Violations(found) => panic!("{found}"),
    }
    sandbox.stop().await;
}

#[test]
fn the_judge_does_find_what_is_wrong() {
    let wrong = json!({ "method": "GET", "path": "/v1/customers", "content_type": null, "body": "", "status": 200,
                        "response": { "object": "list", "data": [{ "object": "customer" }] } });
    let verdict = judge(&format!("{wrong}\n"));
    assert!(matches!(verdict, Verdict::Violations(_) | Verdict::Skipped), "{verdict:?}");
}

#[tokio::test]
async fn a_lost_answer_is_a_closed_connection_and_the_effect_is_there() {
    let sandbox = sandbox().await;
    let customer = with_meter(&sandbox).await;
    sandbox.fault(Fault::new(Effect::LostAnswer).on("POST", "/v1/billing/meter_events").times(1)).unwrap();
    assert_eq!(raw(&sandbox, "POST /v1/billing/meter_events", &event(&customer, "a")).await, "");
    assert_eq!(sandbox.meter_total("units", &customer), 1);
    let again = call(&sandbox, "POST /v1/billing/meter_events", &event(&customer, "a")).await;
    assert_eq!(again["error"]["message"], "An event already exists with identifier a.");
}

#[tokio::test]
async fn a_delayed_call_takes_effect_even_if_its_caller_has_left() {
    let sandbox = sandbox().await;
    let customer = with_meter(&sandbox).await;
    sandbox.fault(Fault::new(Effect::Delay { ms: 500 }).times(1)).unwrap();
    let form = event(&customer, "a");
    let let_in = async {
        while call(&sandbox, "GET /_sandbox/faults", "").await[0]["fired"] == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = raw(&sandbox, "POST /v1/billing/meter_events", &form) => panic!("answered before the delay was over"),
        () = let_in => {}
    }
    let counted = async {
        while sandbox.meter_total("units", &customer) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, counted).await.expect("the event is counted");
}

#[tokio::test]
async fn the_control_paths_arm_faults_move_time_and_show_what_was_said() {
    let sandbox = sandbox().await;
    let customer = with_meter(&sandbox).await;
    let armed = call(&sandbox, "POST /_sandbox/faults", r#"{"effect":"outage","times":1}"#).await;
    assert_eq!(armed, json!({ "id": 1 }));
    let out = raw(&sandbox, "GET /v1/customers", "").await;
    assert!(out.starts_with("HTTP/1.1 503"), "{out}");
    assert_eq!(call(&sandbox, "GET /_sandbox/faults", "").await[0]["fired"], 1);
    let refused = raw(&sandbox, "POST /_sandbox/faults", r#"{"effect":"meteor"}"#).await;
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");

    assert_eq!(call(&sandbox, "POST /v1/billing/meter_events", &event(&customer, "a")).await["identifier"], "a");
    let before = call(&sandbox, "GET /_sandbox/clock", "").await["now"].as_i64().unwrap();
    let after = call(&sandbox, "POST /_sandbox/clock", r#"{"advance_s":86400}"#).await["now"].as_i64().unwrap();
    assert!((86_400..86_420).contains(&(after - before)));
    assert_eq!(call(&sandbox, "POST /v1/billing/meter_events", &event(&customer, "a")).await["identifier"], "a");
    let totals = call(&sandbox, "GET /_sandbox/meter_totals", "").await;
    assert_eq!((&totals[0]["sum"], &totals[0]["events"]), (&json!(2), &json!(2)));

    let recorded = raw(&sandbox, "GET /_sandbox/exchanges", "").await;
    assert!(recorded.contains("sandbox-recorded: 5\r\n"), "{recorded}");
    assert!(!recorded.contains(&sandbox.secret_key));
}

#[tokio::test]
async fn every_answer_carries_stripes_headers() {
    let sandbox = sandbox().await;
    let head = "GET /v1/customers HTTP/1.1\r\nstripe-version: 2025-03-31.basil\r\nx-rest:";
    let answer = raw(&sandbox, head, "").await.to_ascii_lowercase();
    assert!(answer.contains("request-id: req_"), "{answer}");
    assert!(answer.contains("stripe-version: 2025-03-31.basil"), "{answer}");
    assert!(answer.contains("content-type: application/json"), "{answer}");
}

#[tokio::test]
async fn a_stopped_sandbox_takes_no_more_connections() {
    let sandbox = sandbox().await;
    let addr = sandbox.addr;
    sandbox.stop().await;
    assert!(TcpStream::connect(addr).await.is_err());
}
