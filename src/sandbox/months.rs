//! Months of billing, played on the engine: what is billed when, and what becomes of those who do not pay.

use serde_json::{Value, json};

use super::desk::{Desk, START_S, event};

const DAY: i64 = 86_400;
const HOUR: i64 = 3_600;

/// A customer with a card, a meter, and prices.
struct Shop {
    desk: Desk,
    customer: String,
    fee: String,
    usage: String,
}

impl Shop {
    /// On a test clock that stands at `START_S`, 1 October 2026.
    fn new(card: &str) -> Self {
        let (mut desk, _, meter) = Desk::with_meter();
        let clock = desk.make("/v1/test_helpers/test_clocks", &format!("frozen_time={START_S}"));
        let body = format!("test_clock={clock}&payment_method={card}&invoice_settings[default_payment_method]={card}");
        let customer =
            desk.make("/v1/customers", if card.is_empty() { body.split('&').next().unwrap() } else { &body });
        let fee =
            desk.make("/v1/prices", "currency=usd&unit_amount=3100&recurring[interval]=month&product_data[name]=Fee");
        let tiers = "tiers[0][up_to]=100&tiers[0][unit_amount]=0&tiers[1][up_to]=inf&tiers[1][unit_amount_decimal]=1.5";
        let usage = desk.make(
            "/v1/prices",
            &format!("currency=usd&billing_scheme=tiered&tiers_mode=graduated&{tiers}&recurring[interval]=month&recurring[usage_type]=metered&recurring[meter]={meter}&product_data[name]=Calls"),
        );
        Self { desk, customer, fee, usage }
    }

    fn subscribe(&mut self, rest: &str) -> String {
        let body = format!(
            "customer={}&items[0][price]={}&items[1][price]={}&billing_mode[type]=flexible{rest}",
            self.customer, self.fee, self.usage
        );
        self.desk.make("/v1/subscriptions", &body)
    }

    fn clock(&mut self) -> String {
        self.get("/v1/test_helpers/test_clocks")["data"][0]["id"].as_str().unwrap().to_owned()
    }

    fn to(&mut self, at: i64) {
        let clock = self.clock();
        let (status, said) =
            self.desk.post(&format!("/v1/test_helpers/test_clocks/{clock}/advance"), &format!("frozen_time={at}"));
        assert_eq!((status, &said["status"]), (200, &json!("advancing")), "{said}");
    }

    fn get(&mut self, target: &str) -> Value {
        let (status, shown) = self.desk.get(target);
        assert_eq!(status, 200, "{shown}");
        shown
    }

    fn status(&mut self, subscription: &str) -> String {
        self.get(&format!("/v1/subscriptions/{subscription}"))["status"].as_str().unwrap().to_owned()
    }

    /// Status and total of every invoice, newest first.
    fn invoices(&mut self) -> Vec<(String, i64)> {
        let all = self.get("/v1/invoices?limit=100");
        let row =
            |invoice: &Value| (invoice["status"].as_str().unwrap().to_owned(), invoice["total"].as_i64().unwrap());
        all["data"].as_array().unwrap().iter().map(row).collect()
    }

    fn use_units(&mut self, value: &str, at: i64) {
        let body = event(&self.customer, value, &format!("&timestamp={at}"));
        let (status, said) = self.desk.post("/v1/billing/meter_events", &body);
        assert_eq!(status, 200, "{said}");
    }

    fn kinds(&mut self) -> Vec<String> {
        let all = self.get("/v1/events?limit=100");
        let kind = |event: &Value| event["type"].as_str().unwrap().to_owned();
        let mut kinds: Vec<String> = all["data"].as_array().unwrap().iter().map(kind).collect();
        kinds.reverse();
        kinds
    }
}

fn paid(total: i64) -> (String, i64) {
    ("paid".to_owned(), total)
}

#[test]
fn a_month_is_billed_ahead_and_its_usage_behind() {
    let mut shop = Shop::new("pm_card_visa");
    shop.subscribe("");
    assert_eq!(shop.invoices(), [paid(3_100)]);
    shop.use_units("50", START_S);
    shop.to(START_S + 30 * DAY);
    shop.use_units("151", START_S + 30 * DAY);
    shop.to(START_S + 31 * DAY);
    // The draft follows late usage of its period, and none of the next one's.
    shop.use_units("1", START_S + 31 * DAY - 1);
    shop.use_units("999", START_S + 31 * DAY);
    assert_eq!(shop.invoices()[0], ("draft".to_owned(), 3_100 + 153));
    shop.to(START_S + 31 * DAY + HOUR);
    assert_eq!(shop.invoices(), [paid(3_100 + 153), paid(3_100)]);
}

#[test]
fn a_year_in_one_step_is_twelve_months_one_after_the_other() {
    let mut shop = Shop::new("pm_card_visa");
    shop.subscribe("");
    shop.to(START_S + 366 * DAY);
    assert_eq!(shop.invoices(), vec![paid(3_100); 13]);
    let starts = shop.get("/v1/invoices?limit=100");
    let created: Vec<i64> = starts["data"].as_array().unwrap().iter().map(|i| i["created"].as_i64().unwrap()).collect();
    assert!(created.windows(2).all(|pair| pair[0] > pair[1]), "{created:?}");
}

#[test]
fn without_money_a_subscription_falls_behind_is_retried_and_ends() {
    let mut shop = Shop::new("pm_card_visa");
    let id = shop.subscribe("");
    let bad =
        shop.desk.make("/v1/payment_methods/pm_card_chargeCustomerFail/attach", &format!("customer={}", shop.customer));
    shop.desk.make(&format!("/v1/subscriptions/{id}"), &format!("default_payment_method={bad}"));
    let end = START_S + 31 * DAY;
    let first = end + HOUR;
    shop.to(first);
    assert_eq!(shop.status(&id), "past_due");
    for (days, attempts, status) in [(3, 2, "past_due"), (8, 3, "past_due"), (15, 4, "canceled")] {
        shop.to(first + days * DAY);
        assert_eq!((shop.status(&id).as_str(), days), (status, days));
        let invoice = shop.get("/v1/invoices?limit=1")["data"][0].clone();
        assert_eq!((&invoice["attempt_count"], &invoice["status"]), (&json!(attempts), &json!("open")));
    }
    assert_eq!(shop.get(&format!("/v1/subscriptions/{id}"))["cancellation_details"]["reason"], "payment_failed");
    let kinds = shop.kinds();
    assert_eq!(kinds.iter().filter(|kind| *kind == "invoice.payment_failed").count(), 4);
    assert!(kinds.contains(&"customer.subscription.deleted".to_owned()));
}

#[test]
fn who_pays_late_goes_on() {
    let mut shop = Shop::new("pm_card_visa");
    let id = shop.subscribe("");
    let bad =
        shop.desk.make("/v1/payment_methods/pm_card_chargeCustomerFail/attach", &format!("customer={}", shop.customer));
    shop.desk.make(&format!("/v1/subscriptions/{id}"), &format!("default_payment_method={bad}"));
    shop.to(START_S + 31 * DAY + HOUR);
    let good = shop.desk.make("/v1/payment_methods/pm_card_visa/attach", &format!("customer={}", shop.customer));
    shop.desk.make(&format!("/v1/subscriptions/{id}"), &format!("default_payment_method={good}"));
    shop.to(START_S + 34 * DAY + HOUR);
    assert_eq!(shop.status(&id), "active");
    assert_eq!(shop.invoices(), [paid(3_100), paid(3_100)]);
}

#[test]
fn a_trial_costs_nothing_its_usage_neither_and_its_end_begins_a_cycle() {
    let mut shop = Shop::new("pm_card_visa");
    let id = shop.subscribe("&trial_period_days=14");
    assert_eq!((shop.status(&id).as_str(), shop.invoices()), ("trialing", vec![paid(0)]));
    shop.use_units("500", START_S);
    let end = START_S + 14 * DAY;
    shop.to(end);
    assert_eq!(shop.status(&id), "active");
    shop.use_units("101", end);
    shop.to(end + HOUR);
    assert_eq!(shop.invoices(), [paid(3_100), paid(0)]);
    shop.to(end + 31 * DAY + HOUR);
    // One and a half cents are rounded to two.
    assert_eq!(shop.invoices()[0], paid(3_100 + 2));
}

#[test]
fn a_first_invoice_that_is_not_paid_expires_with_its_subscription() {
    let mut shop = Shop::new("pm_card_chargeCustomerFail");
    let id = shop.subscribe("");
    assert_eq!((shop.status(&id).as_str(), shop.invoices()), ("incomplete", vec![("open".to_owned(), 3_100)]));
    shop.to(START_S + 23 * HOUR);
    assert_eq!((shop.status(&id).as_str(), shop.invoices()), ("incomplete_expired", vec![("void".to_owned(), 3_100)]));
}

#[test]
fn a_change_waits_for_the_next_invoice_unless_it_is_billed_at_once() {
    let mut shop = Shop::new("pm_card_visa");
    let id = shop.subscribe("");
    let dear =
        shop.desk.make("/v1/prices", "currency=usd&unit_amount=9300&recurring[interval]=month&product_data[name]=Dear");
    let item = shop.get(&format!("/v1/subscriptions/{id}"))["items"]["data"][0]["id"].as_str().unwrap().to_owned();
    // Ten of 31 days are left.
    shop.to(START_S + 21 * DAY);
    shop.desk.make(&format!("/v1/subscriptions/{id}"), &format!("items[0][id]={item}&items[0][price]={dear}"));
    assert_eq!(shop.invoices().len(), 1);
    let preview = shop.desk.post("/v1/invoices/create_preview", &format!("subscription={id}")).1;
    assert_eq!(preview["total"], 9_300 - 1_000 + 3_000);
    shop.to(START_S + 31 * DAY + HOUR);
    assert_eq!(shop.invoices()[0], paid(9_300 - 1_000 + 3_000));
    shop.to(START_S + 31 * DAY + HOUR + 1);
    // Down again at once: more is given back than is due, and stays as credit.
    let body = format!("items[0][id]={item}&items[0][price]={}&proration_behavior=always_invoice", shop.fee);
    shop.desk.make(&format!("/v1/subscriptions/{id}"), &body);
    let customer = shop.customer.clone();
    let credit = shop.get(&format!("/v1/customers/{customer}"))["balance"].as_i64().unwrap();
    assert!((-6_200..-6_000).contains(&credit), "{credit}");
    shop.to(START_S + 61 * DAY + HOUR);
    let invoice = shop.get("/v1/invoices?limit=1")["data"][0].clone();
    assert_eq!((&invoice["amount_due"], &invoice["starting_balance"]), (&json!(0), &json!(credit)));
    assert_eq!(shop.get(&format!("/v1/customers/{customer}"))["balance"], json!(credit + 3_100));
}

#[test]
fn usage_before_a_change_of_its_price_is_dropped_by_classic_and_kept_by_flexible() {
    for (mode, total) in [("flexible", 3_100 + 150 + 400), ("classic", 3_100 + 400)] {
        let mut shop = Shop::new("pm_card_visa");
        let meter = shop.get("/v1/billing/meters")["data"][0]["id"].as_str().unwrap().to_owned();
        let body = format!(
            "customer={}&items[0][price]={}&items[1][price]={}&billing_mode[type]={mode}",
            shop.customer, shop.fee, shop.usage
        );
        let id = shop.desk.make("/v1/subscriptions", &body);
        let item = shop.get(&format!("/v1/subscriptions/{id}"))["items"]["data"][1]["id"].as_str().unwrap().to_owned();
        let other = shop.desk.make("/v1/prices", &format!("currency=usd&unit_amount=2&recurring[interval]=month&recurring[usage_type]=metered&recurring[meter]={meter}&product_data[name]=Other"));
        shop.use_units("200", START_S + 60);
        shop.to(START_S + 10 * DAY);
        shop.desk.make(&format!("/v1/subscriptions/{id}"), &format!("items[0][id]={item}&items[0][price]={other}"));
        shop.use_units("200", START_S + 10 * DAY);
        shop.to(START_S + 31 * DAY + HOUR);
        assert_eq!(shop.invoices()[0], paid(total), "{mode}");
    }
}

#[test]
fn a_cancelled_subscription_bills_its_last_usage() {
    let mut shop = Shop::new("pm_card_visa");
    let id = shop.subscribe("");
    shop.use_units("300", START_S);
    shop.to(START_S + DAY);
    assert_eq!(shop.desk.delete(&format!("/v1/subscriptions/{id}")).1["status"], "canceled");
    assert_eq!(shop.invoices(), [paid(300), paid(3_100)]);
    assert_eq!(shop.desk.delete(&format!("/v1/subscriptions/{id}")).0, 404);
    shop.to(START_S + 90 * DAY);
    assert_eq!(shop.invoices().len(), 2);
}

#[test]
fn a_discount_holds_for_its_months() {
    let mut shop = Shop::new("pm_card_visa");
    shop.desk.make("/v1/coupons", "id=TWO&percent_off=50&duration=repeating&duration_in_months=2");
    shop.subscribe("&discounts[0][coupon]=TWO");
    shop.to(START_S + 100 * DAY);
    assert_eq!(shop.invoices(), [paid(3_100), paid(3_100), paid(1_550), paid(1_550)]);
}

#[test]
fn the_sandboxes_own_time_moves_customers_without_a_clock() {
    let mut shop = Shop::new("pm_card_visa");
    let card = "pm_card_visa";
    let customer = shop
        .desk
        .make("/v1/customers", &format!("payment_method={card}&invoice_settings[default_payment_method]={card}"));
    let id = shop.desk.make("/v1/subscriptions", &format!("customer={customer}&items[0][price]={}", shop.fee));
    shop.desk.now_ms += (31 * DAY + HOUR) * 1_000;
    assert_eq!(shop.invoices(), [paid(3_100), paid(3_100)]);
    assert_eq!(
        shop.get(&format!("/v1/subscriptions/{id}"))["items"]["data"][0]["current_period_start"],
        START_S + 31 * DAY
    );
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_made() {
    let mut shop = Shop::new("");
    let (customer, fee) = (shop.customer.clone(), shop.fee.clone());
    let start = format!("customer={customer}&items[0][price]={fee}");
    for (body, status, param) in [
        (start.clone(), 400, Value::Null),
        (format!("{start}&items[0][quantity]=-1"), 400, json!("items[0][quantity]")),
        (format!("{start}&items[1][price]={fee}"), 400, json!("items[1][price]")),
        (format!("{start}&items[1][price]={}&items[1][quantity]=2", shop.usage), 400, json!("items[1][quantity]")),
        (format!("{start}&discounts[0][coupon]=none"), 400, json!("discounts")),
        (format!("{start}&trial_period_days=9999"), 400, json!("trial_period_days")),
        (format!("customer=cus_none&items[0][price]={fee}"), 400, json!("customer")),
        (format!("customer={customer}"), 400, json!("items")),
        (format!("{start}&expand[]=colour"), 400, json!("expand")),
    ] {
        let (got, said) = shop.desk.post("/v1/subscriptions", &body);
        assert_eq!((got, &said["error"]["param"]), (status, &param), "{body}: {said}");
    }
    assert_eq!(shop.get("/v1/subscriptions?status=all")["data"], json!([]));
    assert_eq!(shop.get("/v1/invoices")["data"], json!([]));
}

#[test]
fn an_end_before_the_first_payment_is_an_end() {
    let mut shop = Shop::new("pm_card_chargeCustomerFail");
    let id = shop.subscribe(&format!("&cancel_at={}", START_S + HOUR));
    shop.to(START_S + DAY);
    assert_eq!((shop.status(&id).as_str(), shop.invoices()), ("canceled", vec![("void".to_owned(), 3_100)]));
}

#[test]
fn credit_is_used_once_and_comes_back_when_its_invoice_is_void() {
    let mut shop = Shop::new("pm_card_visa");
    let customer = format!("/v1/customers/{}", shop.customer);
    shop.desk.make(&customer, "balance=-500");
    let draft = |shop: &mut Shop| {
        shop.desk.make("/v1/invoiceitems", &format!("customer={}&amount=300&currency=usd", shop.customer));
        shop.desk.make(
            "/v1/invoices",
            &format!("customer={}&pending_invoice_items_behavior=include&currency=usd", shop.customer),
        )
    };
    let (first, second) = (draft(&mut shop), draft(&mut shop));
    let finalize = |shop: &mut Shop, id: &str| shop.desk.post(&format!("/v1/invoices/{id}/finalize"), "").1;
    assert_eq!(finalize(&mut shop, &first)["status"], "paid");
    let open = finalize(&mut shop, &second);
    assert_eq!((&open["status"], &open["amount_due"]), (&json!("open"), &json!(100)));
    assert_eq!(shop.get(&customer)["balance"], 0);
    shop.desk.make(&format!("/v1/invoices/{second}/void"), "");
    assert_eq!(shop.get(&customer)["balance"], -200);
}

#[test]
fn a_plan_that_ends_with_its_year_bills_usage_by_the_month() {
    let mut shop = Shop::new("pm_card_visa");
    let year =
        shop.desk.make("/v1/prices", "currency=usd&unit_amount=30000&recurring[interval]=year&product_data[name]=Year");
    let body = format!("customer={}&items[0][price]={year}&items[1][price]={}", shop.customer, shop.usage);
    assert_eq!(shop.desk.post("/v1/subscriptions", &body).0, 400, "not with `classic`");
    let id =
        shop.desk.make("/v1/subscriptions", &format!("{body}&billing_mode[type]=flexible&cancel_at_period_end=true"));
    for month in 0..11 {
        let start = crate::sandbox::cycle::later(START_S, crate::sandbox::cycle::Interval::Month, month);
        shop.to((start + HOUR).max(START_S + 1));
        shop.use_units("200", start + HOUR);
    }
    shop.to(START_S + 365 * DAY + HOUR);
    assert_eq!(shop.status(&id), "canceled");
    let invoices = shop.invoices();
    assert_eq!((invoices.len(), invoices.iter().map(|(_, total)| total).sum::<i64>()), (13, 30_000 + 11 * 150));
}
