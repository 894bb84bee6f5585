//! Whole months of billing in the Stripe stand-in, through Stripe's own client, judged by Stripe's own description.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};
use tollgate::clock::Clock;
use tollgate::sandbox::{Config, Sandbox, start};

use crate::judge::{Verdict, judge, judge_by, python, run};
use crate::sandbox::{call, operations, refusals_answer_a_sound_call};

/// What a month of billing needs besides customers, products, prices and meters.
const EVERY_OPERATION: [&str; 74] = [
    "DELETE /v1/coupons/{id}",
    "DELETE /v1/invoiceitems/{id}",
    "DELETE /v1/invoices/{id}",
    "DELETE /v1/subscription_items/{id}",
    "DELETE /v1/subscriptions/{id}",
    "DELETE /v1/test_helpers/test_clocks/{id}",
    "GET /v1/billing_portal/configurations",
    "GET /v1/billing_portal/configurations/{id}",
    "GET /v1/checkout/sessions",
    "GET /v1/checkout/sessions/{id}",
    "GET /v1/checkout/sessions/{id}/line_items",
    "GET /v1/coupons",
    "GET /v1/customers/search",
    "GET /v1/invoices/search",
    "GET /v1/prices/search",
    "GET /v1/products/search",
    "GET /v1/subscriptions/search",
    "GET /v1/coupons/{id}",
    "GET /v1/customers/{id}/payment_methods",
    "GET /v1/customers/{id}/payment_methods/{id}",
    "GET /v1/events",
    "GET /v1/events/{id}",
    "GET /v1/invoiceitems",
    "GET /v1/invoiceitems/{id}",
    "GET /v1/invoices",
    "GET /v1/invoices/{id}",
    "GET /v1/invoices/{id}/lines",
    "GET /v1/payment_methods",
    "GET /v1/promotion_codes",
    "GET /v1/promotion_codes/{id}",
    "GET /v1/setup_intents",
    "GET /v1/setup_intents/{id}",
    "GET /v1/subscription_items",
    "GET /v1/subscription_items/{id}",
    "GET /v1/subscriptions",
    "GET /v1/subscriptions/{id}",
    "GET /v1/test_helpers/test_clocks",
    "GET /v1/test_helpers/test_clocks/{id}",
    "POST /v1/billing_portal/configurations",
    "POST /v1/billing_portal/configurations/{id}",
    "POST /v1/billing_portal/sessions",
    "POST /v1/checkout/sessions",
    "POST /v1/checkout/sessions/{id}",
    "POST /v1/checkout/sessions/{id}/expire",
    "POST /v1/coupons",
    "POST /v1/coupons/{id}",
    "POST /v1/invoiceitems",
    "POST /v1/invoices",
    "POST /v1/invoices/create_preview",
    "POST /v1/invoices/{id}",
    "POST /v1/invoices/{id}/finalize",
    "POST /v1/invoices/{id}/mark_uncollectible",
    "POST /v1/invoices/{id}/pay",
    "POST /v1/invoices/{id}/send",
    "POST /v1/invoices/{id}/void",
    "POST /v1/payment_methods/{id}",
    "POST /v1/payment_methods/{id}/attach",
    "POST /v1/payment_methods/{id}/detach",
    "POST /v1/promotion_codes",
    "POST /v1/promotion_codes/{id}",
    "POST /v1/setup_intents",
    "POST /v1/setup_intents/{id}",
    "POST /v1/setup_intents/{id}/cancel",
    "POST /v1/setup_intents/{id}/confirm",
    "POST /v1/subscription_items",
    "POST /v1/subscription_items/{id}",
    "POST /v1/subscriptions",
    "POST /v1/subscriptions/{id}",
    "POST /v1/subscriptions/{id}/resume",
    "POST /v1/test_helpers/test_clocks",
    "POST /v1/test_helpers/test_clocks/{id}/advance",
    "POST /v1/customers/{id}",
    "POST /v1/customers",
    "GET /v1/customers/{id}",
];

/// Where the objects of events can be fetched, for the judge.
const HOMES: [(&str, &str); 12] = [
    ("billing.meter", "/v1/billing/meters/"),
    ("billing_portal.configuration", "/v1/billing_portal/configurations/"),
    ("checkout.session", "/v1/checkout/sessions/"),
    ("coupon", "/v1/coupons/"),
    ("customer", "/v1/customers/"),
    ("invoice", "/v1/invoices/"),
    ("invoiceitem", "/v1/invoiceitems/"),
    ("payment_method", "/v1/payment_methods/"),
    ("promotion_code", "/v1/promotion_codes/"),
    ("setup_intent", "/v1/setup_intents/"),
    ("subscription", "/v1/subscriptions/"),
    ("test_helpers.test_clock", "/v1/test_helpers/test_clocks/"),
];

/// Stripe's client sends a DELETE's parameters in the query; Stripe's description has them in a body.
fn without_queries_of_deletions(exchanges: &str) -> String {
    let each = |line: &str| {
        let mut exchange: Value = serde_json::from_str(line).unwrap();
        if exchange["method"] == "DELETE" {
            exchange["path"] = exchange["path"].as_str().unwrap().split('?').next().into();
        }
        format!("{exchange}\n")
    };
    exchanges.lines().map(each).collect()
}

/// Every object of every event that was listed, as if it had been fetched.
fn objects_of_events(exchanges: &str) -> (String, BTreeSet<String>) {
    let (mut fetched, mut kinds) = (String::new(), BTreeSet::new());
    for line in exchanges.lines() {
        let exchange: Value = serde_json::from_str(line).unwrap();
        let listed = exchange["path"].as_str().unwrap().starts_with("/v1/events?");
        for event in exchange["response"]["data"].as_array().into_iter().flatten().filter(|_| listed) {
            kinds.insert(event["type"].as_str().unwrap().to_owned());
            let object = &event["data"]["object"];
            let home = HOMES.iter().find(|(kind, _)| object["object"] == *kind);
            // An upcoming invoice has no id, so that it can be no answer.
            let Some(((_, home), id)) = home.zip(object["id"].as_str()) else { continue };
            let answer = json!({ "method": "GET", "path": format!("{home}{id}"), "content_type": null, "body": "",
                                 "status": 200, "response": object });
            fetched.push_str(&answer.to_string());
            fetched.push('\n');
        }
    }
    (fetched, kinds)
}

fn clean(verdict: Verdict) {
    match verdict {
        Verdict::Clean(judged) => eprintln!("{judged} exchanges judged, 0 violations"),
        Verdict::Skipped => {}
        Verdict::Violations(found) => panic!("{found}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_month_through_stripes_client_passes_stripes_description() {
    let Some(python) = python() else { return };
    let sandbox = start(Config::on_loopback(Clock::System)).await.unwrap();
    let (url, key) = (sandbox.url(), sandbox.secret_key.clone());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/month.py");
    let client = move || run(Command::new(python).arg(script).args([url, key]), b"");
    let (success, said) = tokio::task::spawn_blocking(client).await.unwrap();
    assert!(success, "{said}");
    let exchanges = without_queries_of_deletions(&refusals_answer_a_sound_call(&sandbox.exchanges()));
    let served = operations(&exchanges);
    let missing: Vec<&str> = EVERY_OPERATION.into_iter().filter(|wanted| !served.contains(*wanted)).collect();
    assert!(missing.is_empty(), "nobody called {missing:?}");
    clean(judge(&exchanges));
    let (objects, kinds) = objects_of_events(&exchanges);
    for kind in [
        "customer.subscription.paused",
        "invoice.upcoming",
        "invoice.payment_action_required",
        "customer.discount.created",
    ] {
        assert!(kinds.contains(kind), "no {kind} in {kinds:?}");
    }
    clean(judge(&objects));
    sandbox.stop().await;
}

/// A customer with a card, and a price of 29 USD a month; their ids.
async fn shop(sandbox: &Sandbox) -> (String, String) {
    let id = |object: Value| object["id"].as_str().unwrap_or_else(|| panic!("{object}")).to_owned();
    let customer = id(call(
        sandbox,
        "POST /v1/customers",
        "name=Acme&payment_method=pm_card_visa&invoice_settings[default_payment_method]=pm_card_visa",
    )
    .await);
    let price = "currency=usd&unit_amount=2900&recurring[interval]=month&product_data[name]=Starter";
    (customer, id(call(sandbox, "POST /v1/prices", price).await))
}

#[tokio::test]
async fn the_account_is_the_same_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { state: Some(folder.path().join("account.jsonl")), ..Config::on_loopback(Clock::System) };
    let sandbox = start(config.clone()).await.unwrap();
    let (customer, price) = shop(&sandbox).await;
    let made = call(&sandbox, "POST /v1/subscriptions", &format!("customer={customer}&items[0][price]={price}")).await;
    assert_eq!(made["status"], "active");
    call(&sandbox, "POST /_sandbox/clock", r#"{"advance_s":2764800}"#).await;
    let lists = ["/v1/customers", "/v1/subscriptions", "/v1/invoices", "/v1/payment_methods", "/v1/events?limit=100"];
    let mut before = Vec::new();
    for path in lists {
        before.push(call(&sandbox, &format!("GET {path}"), "").await);
    }
    assert_eq!(before[2]["data"].as_array().unwrap().len(), 2, "the first invoice and the renewal's");
    let (old, old_url) = (sandbox.addr.port().to_string(), sandbox.url());
    sandbox.stop().await;

    let again = start(config).await.unwrap();
    for (path, before) in lists.into_iter().zip(before) {
        let after = call(&again, &format!("GET {path}"), "").await.to_string();
        // The port differs, and with it the addresses of the hosted pages.
        assert_eq!(after.replace(&again.url(), &old_url), before.to_string(), "{path} ({old})");
    }
    let next = call(&again, "POST /v1/customers", "name=Next").await;
    assert_ne!(next["id"], json!(customer));
}

#[tokio::test]
async fn usage_records_are_taken_and_billed_under_an_old_version_only() {
    let sandbox = start(Config::on_loopback(Clock::System)).await.unwrap();
    let (customer, _) = shop(&sandbox).await;
    let old = "HTTP/1.1\r\nstripe-version: 2024-06-20\r\nx-rest:";
    let price = "currency=usd&unit_amount=3&recurring[interval]=month&recurring[usage_type]=metered&recurring[aggregate_usage]=sum&product_data[name]=Calls";
    assert_eq!(call(&sandbox, "POST /v1/prices", price).await["error"]["param"], "recurring[aggregate_usage]");
    let price = call(&sandbox, &format!("POST /v1/prices {old}"), price).await["id"].as_str().unwrap().to_owned();
    let made = call(&sandbox, "POST /v1/subscriptions", &format!("customer={customer}&items[0][price]={price}")).await;
    let item = &made["items"]["data"][0];
    let (id, start, end) = (
        item["id"].as_str().unwrap(),
        item["current_period_start"].as_i64().unwrap(),
        item["current_period_end"].as_i64().unwrap(),
    );
    let url = format!("/v1/subscription_items/{id}/usage_records");
    let at = start + 1;
    for (body, quantity) in [
        (format!("quantity=5&timestamp={at}&action=increment"), 5),
        (format!("quantity=7&timestamp={at}&action=set"), 7),
        (format!("quantity=7&timestamp={at}&action=set"), 7),
        ("quantity=2&timestamp=now".to_owned(), 2),
    ] {
        assert_eq!(call(&sandbox, &format!("POST {url} {old}"), &body).await["quantity"], quantity, "{body}");
    }
    let early = call(&sandbox, &format!("POST {url} {old}"), &format!("quantity=1&timestamp={}", start - 1)).await;
    assert_eq!(early["error"]["code"], "timestamp_invalid");
    assert_eq!(call(&sandbox, &format!("POST {url}"), "quantity=1").await["error"]["type"], "invalid_request_error");
    let summaries = format!("GET /v1/subscription_items/{id}/usage_record_summaries {old}");
    let judged = sandbox.exchanges();
    assert_eq!(call(&sandbox, &summaries, "").await["data"][0]["total_usage"], 9);
    let legacy: Vec<&str> = judged.lines().filter(|line| line.contains("usage_record\"")).collect();
    assert_eq!(legacy.len(), 4);
    clean(judge_by("legacy_usage_records.json", &legacy.join("\n")));
    let now = call(&sandbox, "GET /_sandbox/clock", "").await["now"].as_i64().unwrap();
    call(&sandbox, "POST /_sandbox/clock", &format!(r#"{{"advance_s":{}}}"#, end - now + 3_700)).await;
    let invoices = call(&sandbox, "GET /v1/invoices", "").await;
    assert_eq!((&invoices["data"][0]["status"], &invoices["data"][0]["total"]), (&json!("paid"), &json!(27)));
}
