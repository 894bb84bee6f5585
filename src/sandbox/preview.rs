//! `POST /v1/invoices/create_preview`: the next invoice, as it would be; nothing is made.

use serde_json::{Value, json};

use super::billing::{Ahead, Content, compose, pending_lines};
use super::changes::{Edit, Plan, Proration};
use super::cycle::Period;
use super::errors::ApiError;
use super::invoice_lines::{Arrears, Line};
use super::invoices::{Invoice, Reason};
use super::params::{Params, TEXT};
use super::prices::Price;
use super::store::{Call, Store};
use super::subscription_create::{Draft, build, first_content, mode};
use super::subscription_update::{Money, immediate, planned};
use super::subscriptions::Subscription;

const MODES: &[(&str, ())] = &[("next", ())];
const NOT_YET: &[&str] =
    &["customer_details", "discounts", "invoice_items", "issuer", "on_behalf_of", "schedule", "schedule_details"];

/// `POST /v1/invoices/create_preview`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    params.unsupported(NOT_YET)?;
    params.choice("preview_mode", MODES)?;
    params.text("currency", 3)?;
    super::subscription_create::no_tax(params)?;
    let (customer, subscription) = (params.text("customer", TEXT)?, params.text("subscription", TEXT)?);
    let details = params.object("subscription_details")?;
    call.finish()?;
    let invoice = match (subscription, customer) {
        (Some(id), _) => of_subscription(store, &id, details)?,
        (None, Some(customer)) => of_new(store, customer, details)?,
        (None, None) => return Err(ApiError::missing("customer")),
    };
    Ok(shown(store, invoice))
}

fn of_subscription(store: &Store, id: &str, details: Option<Params>) -> Result<Invoice, ApiError> {
    let known = store.subscriptions.refer(id, "subscription")?;
    let now = store.time_of(Some(&known.customer));
    let Some(mut details) = details else { return next(store, known, Vec::new()) };
    details.unsupported(&[
        "billing_mode",
        "billing_schedules",
        "cancel_now",
        "default_tax_rates",
        "resume_at",
        "start_date",
    ])?;
    let money = Money::take(&mut details, known, now)?;
    details.finish()?;
    let how = money.how;
    let Plan { after, prorations, reset } = planned(store, known, money, now)?;
    if reset || how == Proration::InvoiceNow {
        return Ok(immediate(store, &after, prorations, reset, now));
    }
    next(store, &after, prorations)
}

fn of_new(store: &Store, customer: String, details: Option<Params>) -> Result<Invoice, ApiError> {
    store.customers.refer(&customer, "customer")?;
    let mut details = details.ok_or_else(|| ApiError::missing("subscription_details"))?;
    let items = details.objects("items")?.ok_or_else(|| ApiError::missing("subscription_details[items]"))?;
    let mut edits = Vec::new();
    for mut item in items {
        let name = item.name("price").trim_end_matches("[price]").to_owned();
        let price = Some(item.required_text("price", TEXT)?);
        let edit = Edit {
            name,
            id: None,
            price,
            quantity: item.integer("quantity")?,
            deleted: false,
            metadata: item.metadata()?,
        };
        item.finish()?;
        edits.push(edit);
    }
    let mut draft = Draft::plain(customer, edits);
    draft.mode = mode(&mut details)?.unwrap_or(draft.mode);
    draft.trial_end = details.integer("trial_end")?;
    details.finish()?;
    let mut subscription = build(store, &draft)?;
    "sub_preview".clone_into(&mut subscription.id);
    let mut invoice = compose(store, &subscription, first_content(&subscription), subscription.created);
    invoice.subscription = None;
    Ok(invoice)
}

/// The invoice at the end of the period that ends first.
fn next(store: &Store, known: &Subscription, prorations: Vec<Line>) -> Result<Invoice, ApiError> {
    let ends = known.cancel_at.is_some_and(|end| known.period_end().is_some_and(|period| end <= period));
    let end = known.period_end().filter(|_| known.status.renews());
    let Some(end) = end else {
        let message = "No upcoming invoices for this subscription.";
        return Err(ApiError::invalid(message).code("invoice_upcoming_none").executed());
    };
    let mut arrears = known.closing.clone();
    let in_trial = known.is_trial_at(end - 1);
    let mut after = known.clone();
    let metered: Vec<bool> =
        known.items.iter().map(|item| store.prices.get(&item.price).is_some_and(Price::is_metered)).collect();
    let cycles: Vec<_> =
        known.items.iter().map(|item| store.prices.get(&item.price).map(|price| known.cycle(price))).collect();
    let period = known.items.iter().map(|item| item.period).find(|period| period.end <= end);
    for ((item, metered), cycle) in after.items.iter_mut().zip(metered).zip(cycles) {
        let Some(cycle) = cycle.filter(|_| item.period.end <= end) else { continue };
        if metered && !in_trial {
            arrears.push(Arrears::of(item, item.period.end));
        }
        item.period = Period { start: end, end: cycle.period_at(end).end };
        item.created = item.created.min(end);
    }
    let mut pending = pending_lines(store, &known.id);
    pending.extend(prorations);
    let ahead = if ends { Ahead::Nothing } else { Ahead::Starting(end) };
    let period = period.unwrap_or(Period { start: end, end });
    Ok(compose(store, &after, Content { reason: Reason::Upcoming, ahead, arrears, pending, period }, end))
}

/// The next invoice of a subscription, as the event about it has it.
pub(super) fn upcoming(store: &Store, known: &Subscription) -> Value {
    match next(store, known, Vec::new()) {
        Ok(invoice) => {
            let mut shown = shown(store, invoice);
            // The event is about an invoice that does not exist: it has no id.
            if let Some(fields) = shown.as_object_mut() {
                fields.remove("id");
            }
            shown
        }
        Err(_) => Value::Null,
    }
}

fn shown(store: &Store, mut invoice: Invoice) -> Value {
    let mut n = 0;
    invoice.refresh(store, &mut || {
        n += 1;
        format!("il_tmp_{n}")
    });
    invoice.id = format!("upcoming_in_{}", invoice.subscription.as_deref().unwrap_or(&invoice.customer));
    let mut shown = invoice.shown(store);
    // Nobody waits for it: it is no draft that will be finalized.
    shown["automatically_finalizes_at"] = json!(null);
    shown
}
