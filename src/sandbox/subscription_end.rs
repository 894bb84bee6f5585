//! How a subscription ends, or goes on after a pause.

use serde_json::Value;

use super::agenda::Job;
use super::billing::{Ahead, Content, compose, issue, pending_lines};
use super::collect::{self, Charge};
use super::errors::ApiError;
use super::invoice_lines::{Arrears, Line};
use super::invoices::{self, Reason};
use super::params::{Params, TEXT};
use super::renewal;
use super::store::{Call, Store};
use super::subscriptions::{Cancellation, Mode, Status, Subscription};

const FEEDBACK: &[(&str, &str)] = &[
    ("customer_service", "customer_service"),
    ("low_quality", "low_quality"),
    ("missing_features", "missing_features"),
    ("other", "other"),
    ("switched_service", "switched_service"),
    ("too_complex", "too_complex"),
    ("too_expensive", "too_expensive"),
    ("unused", "unused"),
];
const ANCHORS: &[(&str, &str)] = &[("now", "now"), ("unchanged", "unchanged")];
const PRORATIONS: &[(&str, ())] = &[("always_invoice", ()), ("create_prorations", ()), ("none", ())];

/// Takes `cancellation_details`.
pub(super) fn details(params: &mut Params, into: &mut Cancellation) -> Result<(), ApiError> {
    let Some(mut inner) = params.object("cancellation_details")? else { return Ok(()) };
    inner.clearable_text("comment", TEXT)?.apply(&mut into.comment);
    into.feedback = inner.choice("feedback", FEEDBACK)?.or(into.feedback);
    inner.finish()
}

/// `DELETE /v1/subscriptions/{id}`: at once.
pub(super) fn cancel(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let known = store.subscriptions.need(id, "subscription_exposed_id")?.clone();
    let mut cancellation = known.cancellation.clone();
    details(&mut call.params, &mut cancellation)?;
    let invoice_now = call.params.boolean("invoice_now")?.unwrap_or(known.mode == Mode::Flexible);
    let prorate = call.params.boolean("prorate")?.unwrap_or(false);
    call.finish()?;
    if known.status.is_over() {
        return Err(ApiError::no_such("subscription", id, "id").executed());
    }
    let at = store.time_of(Some(&known.customer));
    store.subscriptions.need_mut(id, "subscription")?.cancellation = cancellation;
    if prorate {
        let lines = unused(store, &known, at);
        super::invoice_items::put_all(store, &known, lines)?;
    }
    close(store, id, "cancellation_requested", at, invoice_now)?;
    store.subscriptions.need(id, "id").map(|subscription| subscription.shown(store))
}

/// Credit for what was paid ahead.
fn unused(store: &Store, known: &Subscription, at: i64) -> Vec<Line> {
    let credits = |item: &super::subscriptions::Item| super::changes::credit(store, known, item, at);
    if known.is_trial_at(at) { Vec::new() } else { known.items.iter().flat_map(credits).collect() }
}

/// The end that comes by itself: the last usage is billed.
pub(super) fn end(store: &mut Store, id: &str, reason: &'static str) {
    let Some(known) = store.subscriptions.get(id) else { return };
    let at = store.time_of(Some(&known.customer));
    if let Err(error) = close(store, id, reason, at, reason != "payment_failed") {
        tracing::warn!(id, message = %error.message, "a subscription of the sandbox could not be ended");
    }
}

/// The end that comes with its customer's.
pub(super) fn end_without_invoice(store: &mut Store, id: &str) -> Result<(), ApiError> {
    let at = store.time_of(Some(&store.subscriptions.need(id, "subscription")?.customer.clone()));
    close(store, id, "cancellation_requested", at, false)
}

/// Ends it; with `invoice` the usage and the changes that are on no invoice yet get one.
fn close(store: &mut Store, id: &str, reason: &'static str, at: i64, invoice: bool) -> Result<(), ApiError> {
    let known = store.subscriptions.need(id, "subscription")?.clone();
    let subscription = store.subscriptions.need_mut(id, "subscription")?;
    (subscription.status, subscription.ended_at) = (Status::Canceled, Some(at));
    subscription.canceled_at.get_or_insert(at);
    subscription.cancellation.reason = Some(reason);
    subscription.closing.clear();
    store.agenda.set(&known.scope(), Job::Subscription(id.to_owned()), None);
    if let Some(first) = known.latest_invoice.as_ref().filter(|_| known.status == Status::Incomplete) {
        collect::void(store, first)?;
    } else if invoice {
        last_invoice(store, &known, at)?;
    }
    stop_collecting(store, id);
    store.announce_object("customer.subscription.deleted", id);
    Ok(())
}

fn last_invoice(store: &mut Store, known: &Subscription, at: i64) -> Result<(), ApiError> {
    let mut arrears = known.closing.clone();
    if !known.is_trial_at(at - 1) {
        let metered = known
            .items
            .iter()
            .filter(|item| store.prices.get(&item.price).is_some_and(super::prices::Price::is_metered));
        arrears.extend(metered.map(|item| Arrears::of(item, at.min(item.period.end))));
    }
    let pending = pending_lines(store, &known.id);
    if arrears.is_empty() && pending.is_empty() {
        return Ok(());
    }
    let period = known.items.first().map_or(super::cycle::Period { start: known.created, end: at }, |item| item.period);
    let at_period_end = known.period_end().is_some_and(|end| at >= end);
    let reason = if at_period_end { Reason::Cycle } else { Reason::Update };
    let content = Content { reason, ahead: Ahead::Nothing, arrears, pending, period };
    let invoice = compose(store, known, content, at);
    let invoice = issue(store, invoice)?;
    // At the period's end it waits as a draft for late usage, as every period's invoice does.
    if at_period_end { Ok(()) } else { collect::finalize(store, &invoice, Charge::Now) }
}

/// A cancelled subscription's open invoices are not retried any more.
fn stop_collecting(store: &mut Store, id: &str) {
    let open: Vec<String> = store
        .invoices
        .iter()
        .filter(|invoice| invoice.subscription.as_deref() == Some(id) && invoice.status == invoices::Status::Open)
        .map(|invoice| invoice.id.clone())
        .collect();
    for invoice in open {
        if let Ok(invoice) = store.invoices.need_mut(&invoice, "invoice") {
            (invoice.auto_advance, invoice.next_attempt) = (false, None);
        }
        store.schedule_invoice(&invoice);
    }
}

/// `POST /v1/subscriptions/{subscription}/resume`: from a pause.
pub(super) fn resume(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    call.params.choice("billing_cycle_anchor", ANCHORS)?;
    call.params.choice("proration_behavior", PRORATIONS)?;
    call.params.unsupported(&["proration_date"])?;
    call.finish()?;
    let known = store.subscriptions.need(id, "subscription")?.clone();
    if known.status != Status::Paused {
        let message = "Only paused subscriptions can be resumed.";
        return Err(ApiError::invalid(message).code("resource_missing").executed());
    }
    let at = store.time_of(Some(&known.customer));
    let mut after = known;
    (after.status, after.anchor) = (Status::Active, at);
    for item in &mut after.items {
        (item.period.start, item.period.end, item.usage_from) = (at.min(item.period.start), at, at);
    }
    renewal::renew(store, after, at)?;
    if let Some(invoice) = store.subscriptions.need(id, "subscription")?.latest_invoice.clone() {
        collect::finalize(store, &invoice, Charge::Now)?;
    }
    store.schedule_subscription(id);
    store.announce_object("customer.subscription.resumed", id);
    store.subscriptions.need(id, "subscription").map(|subscription| subscription.shown(store))
}
