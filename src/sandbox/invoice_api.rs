//! `/v1/invoices`

use serde_json::{Value, json};

use super::billing::{Ahead, Content, compose, issue, pending_lines};
use super::collect::{self, Charge};
use super::cycle::Period;
use super::errors::ApiError;
use super::invoices::{Invoice, Reason, Status};
use super::params::{Metadata, TEXT, merge_metadata};
use super::payment_methods;
use super::shelf::{Created, Cursor, From, list};
use super::store::{Call, Store};
use super::subscriptions::Collection;

const NOT_YET: &[&str] = &[
    "account_tax_ids",
    "application_fee_amount",
    "custom_fields",
    "default_source",
    "default_tax_rates",
    "discounts",
    "effective_at",
    "from_invoice",
    "issuer",
    "number",
    "on_behalf_of",
    "payment_settings",
    "rendering",
    "shipping_cost",
    "shipping_details",
    "statement_descriptor",
    "transfer_data",
];
const PENDING: &[(&str, bool)] = &[("include", true), ("exclude", false)];

/// `POST /v1/invoices`: the pending items of a customer, or of one of its subscriptions.
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    params.unsupported(NOT_YET)?;
    super::subscription_create::no_tax(params)?;
    let customer = params.required_text("customer", TEXT)?;
    let subscription = params.text("subscription", TEXT)?;
    let currency = params.text("currency", 3)?;
    let include = params.choice("pending_invoice_items_behavior", PENDING)?;
    let auto_advance = params.boolean("auto_advance")?.unwrap_or(false);
    let collection = params.choice("collection_method", Collection::TABLE)?.unwrap_or(Collection::Automatic);
    let days = params.integer("days_until_due")?;
    let (description, footer) = (params.text("description", TEXT)?, params.text("footer", TEXT)?);
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, params.metadata()?)?;
    call.finish()?;
    store.customers.refer(&customer, "customer")?;
    let now = store.time_of(Some(&customer));
    let mut invoice = match &subscription {
        Some(id) => {
            let known = store.subscriptions.refer(id, "subscription")?;
            let period = Period { start: now, end: now };
            let pending = pending_lines(store, id);
            compose(
                store,
                known,
                Content { reason: Reason::Manual, ahead: Ahead::Nothing, arrears: Vec::new(), pending, period },
                now,
            )
        }
        None => by_hand(store, &customer, currency.as_deref(), include.unwrap_or(false), now),
    };
    (invoice.auto_advance, invoice.collection) = (auto_advance, collection);
    (invoice.description, invoice.footer, invoice.metadata) = (description, footer, metadata);
    invoice.due_date = days.map(|days| now + days * 86_400);
    invoice.finalizes_at = auto_advance.then_some(now + super::invoices::DRAFT_S);
    let id = issue(store, invoice)?;
    shown(store, &id)
}

fn by_hand(store: &Store, customer: &str, currency: Option<&str>, include: bool, now: i64) -> Invoice {
    let mine = |item: &&super::invoice_items::InvoiceItem| {
        include && item.customer == customer && item.invoice.is_none() && item.line.subscription.is_none()
    };
    let items: Vec<_> = store.invoice_items.iter().filter(mine).collect();
    let currency = currency.or_else(|| items.first().map(|item| item.currency.as_str())).unwrap_or("usd");
    let mut invoice = Invoice::draft(String::new(), customer, currency, Reason::Manual, now);
    invoice.fixed = items.iter().map(|item| item.line.clone()).collect();
    if let Some(known) = store.customers.get(customer) {
        invoice.starting_balance = known.balance;
        invoice.test_clock = known.test_clock().map(str::to_owned);
    }
    invoice
}

fn shown(store: &Store, id: &str) -> Result<Value, ApiError> {
    store.invoices.need(id, "invoice").map(|invoice| invoice.shown(store))
}

/// `GET /v1/invoices/{invoice}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    shown(store, id)
}

/// `POST /v1/invoices/{invoice}`
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let mut changed = store.invoices.need(id, "invoice")?.clone();
    let params = &mut call.params;
    params.unsupported(NOT_YET)?;
    changed.auto_advance = params.boolean("auto_advance")?.unwrap_or(changed.auto_advance);
    params.clearable_text("description", TEXT)?.apply(&mut changed.description);
    params.clearable_text("footer", TEXT)?.apply(&mut changed.footer);
    changed.finalizes_at = params.integer("automatically_finalizes_at")?.or(changed.finalizes_at);
    let method = params.text("default_payment_method", TEXT)?;
    merge_metadata(&mut changed.metadata, params.metadata()?)?;
    call.finish()?;
    if let Some(method) = method {
        changed.default_payment_method =
            Some(payment_methods::owned(store, &method, &changed.customer.clone(), "default_payment_method")?);
    }
    *store.invoices.need_mut(id, "invoice")? = changed;
    store.schedule_invoice(id);
    shown(store, id)
}

/// `DELETE /v1/invoices/{invoice}`: a draft made by hand.
pub(super) fn delete(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    let invoice = need_status(store, id, &[Status::Draft], "delete")?;
    if invoice.subscription.is_some() {
        let message = "You can only delete draft invoices that are not attached to a subscription.";
        return Err(ApiError::invalid(message).executed());
    }
    let items: Vec<String> = invoice.fixed.iter().filter_map(|line| line.invoice_item.clone()).collect();
    for item in items {
        store.invoice_items.need_mut(&item, "invoiceitem")?.invoice = None;
    }
    store.announce_object("invoice.deleted", id);
    store.invoices.take(id, "invoice")?;
    store.drafts.remove(id);
    Ok(json!({ "id": id, "object": "invoice", "deleted": true }))
}

fn need_status<'a>(store: &'a Store, id: &str, wanted: &[Status], verb: &str) -> Result<&'a Invoice, ApiError> {
    let invoice = store.invoices.need(id, "invoice")?;
    if wanted.contains(&invoice.status) {
        return Ok(invoice);
    }
    let message = format!("This invoice has the status {}: you can't {verb} it.", invoice.status.word());
    Err(ApiError::invalid(message).code("invoice_not_editable").executed())
}

/// `POST /v1/invoices/{invoice}/finalize`
pub(super) fn finalize(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let auto_advance = call.params.boolean("auto_advance")?;
    call.finish()?;
    need_status(store, id, &[Status::Draft], "finalize")?;
    if let Some(auto_advance) = auto_advance {
        store.invoices.need_mut(id, "invoice")?.auto_advance = auto_advance;
    }
    collect::finalize(store, id, Charge::Now)?;
    shown(store, id)
}

/// `POST /v1/invoices/{invoice}/pay`
pub(super) fn pay(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let params = &mut call.params;
    params.unsupported(&["mandate", "source"])?;
    let method = params.text("payment_method", TEXT)?;
    let outside = params.boolean("paid_out_of_band")?.unwrap_or(false);
    params.boolean("off_session")?;
    params.boolean("forgive")?;
    call.finish()?;
    let invoice = store.invoices.need(id, "invoice")?;
    let (status, customer) = (invoice.status, invoice.customer.clone());
    if status == Status::Paid {
        return Err(ApiError::invalid("Invoice is already paid").code("invoice_already_paid").executed());
    }
    if status == Status::Draft {
        collect::finalize(store, id, Charge::Later)?;
    }
    need_status(store, id, &[Status::Open, Status::Uncollectible, Status::Paid], "pay")?;
    if store.invoices.need(id, "invoice")?.status == Status::Paid {
        return shown(store, id);
    }
    if outside {
        collect::settle(store, id)?;
        return shown(store, id);
    }
    let method =
        method.map(|method| payment_methods::owned(store, &method, &customer, "payment_method")).transpose()?;
    match collect::attempt(store, id, method)? {
        Ok(()) => shown(store, id),
        Err(decline) if decline.code == "resource_missing" => {
            Err(ApiError::invalid(decline.message).code("resource_missing").executed())
        }
        Err(decline) => Err(decline.error()),
    }
}

/// `POST /v1/invoices/{invoice}/void`
pub(super) fn void(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    need_status(store, id, &[Status::Open, Status::Uncollectible], "void")?;
    collect::void(store, id)?;
    shown(store, id)
}

/// `POST /v1/invoices/{invoice}/mark_uncollectible`
pub(super) fn mark_uncollectible(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    let customer = need_status(store, id, &[Status::Open], "mark as uncollectible")?.customer.clone();
    let now = store.time_of(Some(&customer));
    let invoice = store.invoices.need_mut(id, "invoice")?;
    (invoice.status, invoice.uncollectible_at, invoice.next_attempt) = (Status::Uncollectible, Some(now), None);
    store.schedule_invoice(id);
    store.announce_object("invoice.marked_uncollectible", id);
    shown(store, id)
}

/// `POST /v1/invoices/{invoice}/send`
pub(super) fn send(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    if store.invoices.need(id, "invoice")?.status == Status::Draft {
        collect::finalize(store, id, Charge::Later)?;
    }
    store.announce_object("invoice.sent", id);
    shown(store, id)
}

/// `GET /v1/invoices`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    params.unsupported(&["due_date"])?;
    let (cursor, created) = (Cursor::take(params)?, Created::take(params)?);
    let (customer, subscription) = (params.text("customer", TEXT)?, params.text("subscription", TEXT)?);
    let status = params.choice("status", Status::TABLE)?;
    let collection = params.choice("collection_method", Collection::TABLE)?;
    call.finish()?;
    let keep = |invoice: &Invoice| {
        created.holds(invoice.created)
            && customer.as_ref().is_none_or(|customer| invoice.customer == *customer)
            && (subscription.is_none() || invoice.subscription == subscription)
            && status.is_none_or(|status| invoice.status == status)
            && collection.is_none_or(|collection| invoice.collection == collection)
    };
    let (page, more) = store.invoices.page(&cursor, keep)?;
    Ok(list("/v1/invoices", page.into_iter().map(|invoice| invoice.shown(store)), more))
}

/// `GET /v1/invoices/{invoice}/lines`
pub(super) fn lines(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let cursor = Cursor::take(&mut call.params)?;
    call.finish()?;
    let invoice = store.invoices.need(id, "invoice")?;
    let place = |line: &String| invoice.lines.iter().position(|known| known.id == *line);
    let (from, to) = match &cursor.from {
        From::Newest => (0, invoice.lines.len()),
        From::After(line) => (place(line).map_or(0, |at| at + 1), invoice.lines.len()),
        From::Before(line) => (0, place(line).unwrap_or(invoice.lines.len())),
    };
    let found = invoice.lines.get(from..to).unwrap_or_default();
    let page = found.iter().take(cursor.limit).map(|line| line.shown(store, Some(id), &invoice.currency));
    Ok(list(&format!("/v1/invoices/{id}/lines"), page, found.len() > cursor.limit))
}
