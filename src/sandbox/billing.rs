//! From a subscription to an invoice: which periods, which usage, which changes.

use super::cycle::Period;
use super::errors::ApiError;
use super::invoice_lines::{Arrears, Line, lines_of, no_usage_line};
use super::invoices::{DRAFT_S, Invoice, Reason};
use super::store::Store;
use super::subscriptions::{Collection, Item, Subscription};

/// Which of a subscription's items an invoice bills ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// Those whose period begins at this second.
    Starting(i64),
    /// None: only what is behind.
    Nothing,
}

/// What goes onto an invoice.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) reason: Reason,
    pub(super) ahead: Ahead,
    pub(super) arrears: Vec<Arrears>,
    /// Changes: prorations and other pending items.
    pub(super) pending: Vec<Line>,
    pub(super) period: Period,
}

/// An invoice of a subscription as it is now, without an id and not yet in the store.
pub(super) fn compose(store: &Store, subscription: &Subscription, content: Content, at: i64) -> Invoice {
    let Content { reason, ahead, arrears, pending, period } = content;
    let mut invoice = Invoice::draft(String::new(), &subscription.customer, &subscription.currency, reason, at);
    invoice.subscription = Some(subscription.id.clone());
    invoice.period = period;
    invoice.fixed = pending;
    invoice.fixed.extend(ahead_lines(store, subscription, ahead, &arrears));
    invoice.arrears = arrears;
    invoice.discounts = super::discounts::remaining(store, &subscription.discounts, at, false);
    invoice.collection = subscription.collection;
    invoice.test_clock.clone_from(&subscription.test_clock);
    let days = subscription.days_until_due.filter(|_| subscription.collection == Collection::SendInvoice);
    invoice.due_date = days.map(|days| at + days * 86_400);
    invoice.starting_balance = store.customers.get(&subscription.customer).map_or(0, |customer| customer.balance);
    invoice
}

fn ahead_lines(store: &Store, subscription: &Subscription, ahead: Ahead, arrears: &[Arrears]) -> Vec<Line> {
    let Ahead::Starting(start) = ahead else { return Vec::new() };
    let begins = |item: &&Item| item.period.start == start && item.created <= start;
    let mut lines = Vec::new();
    for item in subscription.items.iter().filter(begins) {
        let Some(price) = store.prices.get(&item.price) else { continue };
        if price.is_metered() {
            let billed = arrears.iter().any(|arrears| arrears.item == item.id);
            lines.extend(no_usage_line(store, subscription, item).filter(|_| !billed));
        } else {
            lines.extend(ahead_of(store, subscription, item));
        }
    }
    lines
}

/// A licensed item's lines for the period that begins; free during the trial, a share of a short first period.
fn ahead_of(store: &Store, subscription: &Subscription, item: &Item) -> Vec<Line> {
    let Some(price) = store.prices.get(&item.price) else { return Vec::new() };
    let mut lines = lines_of(store, price, item.quantity, &subscription.id, &item.id, item.period);
    let whole = subscription.cycle(price).period_at(item.period.start).seconds();
    let trial = subscription.is_trial_at(item.period.start);
    for line in &mut lines {
        if trial {
            line.amount = 0;
            line.description = format!("Trial period for {}", store.product_name(price));
        } else if item.period.seconds() < whole {
            line.amount = super::proration::share(line.amount, item.period.seconds(), whole);
        }
    }
    lines
}

/// Puts an invoice into the store, makes it the subscription's latest, and announces it.
pub(super) fn issue(store: &mut Store, invoice: Invoice) -> Result<String, ApiError> {
    let id = enter(store, invoice)?;
    store.announce_object("invoice.created", &id);
    Ok(id)
}

/// The same without a word.
pub(super) fn enter(store: &mut Store, mut invoice: Invoice) -> Result<String, ApiError> {
    invoice.id = store.ids.make("in");
    let id = invoice.id.clone();
    if invoice.reason == Reason::Cycle {
        invoice.finalizes_at = Some(invoice.created + DRAFT_S);
    }
    let (subscription, discounts) = (invoice.subscription.clone(), invoice.discounts.clone());
    let used = invoice.created;
    for item in invoice.fixed.iter().filter_map(|line| line.invoice_item.as_ref()) {
        store.invoice_items.need_mut(item, "invoiceitem")?.invoice = Some(id.clone());
    }
    store.invoices.put(id.clone(), invoice)?;
    store.refresh_draft(&id);
    let charged = store.invoices.get(&id).is_some_and(|invoice| invoice.subtotal() > 0);
    if let Some(subscription) = subscription.and_then(|id| store.subscriptions.get(&id)) {
        let mut after = subscription.clone();
        after.latest_invoice = Some(id.clone());
        after.discounts = super::discounts::remaining(store, &after.discounts, used, charged);
        after.period_discounts = discounts;
        let place = after.id.clone();
        *store.subscriptions.need_mut(&place, "subscription")? = after;
    }
    store.schedule_invoice(&id);
    Ok(id)
}

/// The items of a subscription that are on no invoice yet.
pub(super) fn pending_lines(store: &Store, subscription: &str) -> Vec<Line> {
    let pending = |item: &&super::invoice_items::InvoiceItem| {
        item.invoice.is_none() && item.line.subscription.as_deref() == Some(subscription)
    };
    store.invoice_items.iter().filter(pending).map(|item| item.line.clone()).collect()
}
