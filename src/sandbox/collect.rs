//! From a draft to money: finalizing, charging, retrying, giving up.

use super::cards::Decline;
use super::errors::ApiError;
use super::invoices::{Reason, Status};
use super::payment_methods;
use super::store::Store;
use super::subscriptions::{self, Collection};

/// Days from each failed attempt to the next; after the last one the subscription ends as the settings say.
const RETRY_DAYS: [i64; 3] = [3, 5, 7];
const DAY_S: i64 = 86_400;

/// Whether a finalized invoice is charged at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charge {
    Now,
    Later,
}

const NO_METHOD: Decline = Decline {
    code: "resource_missing",
    reason: None,
    message: "This customer has no attached payment source or default payment method. Please consider adding a \
              default payment method.",
};

/// Draft → open, or paid where nothing is due.
pub(super) fn finalize(store: &mut Store, id: &str, charge: Charge) -> Result<(), ApiError> {
    let customer = store.invoices.need(id, "invoice")?.customer.clone();
    // The balance as it is now: another draft may have used it since this one was made.
    let balance = store.customers.get(&customer).map_or(0, |customer| customer.balance);
    store.invoices.need_mut(id, "invoice")?.starting_balance = balance;
    store.refresh_draft(id);
    let now = store.time_of(Some(&customer));
    let (payment, intent) = (store.ids.make("inpay"), store.ids.make("pi"));
    let number = store.next_invoice_number(&customer);
    let invoice = store.invoices.need_mut(id, "invoice")?;
    (invoice.status, invoice.finalized_at, invoice.finalizes_at) = (Status::Open, Some(now), None);
    invoice.number = Some(number);
    let ending = match invoice.total() + invoice.starting_balance {
        credit if credit < 0 => credit,
        _ => 0,
    };
    invoice.ending_balance = Some(ending);
    if invoice.amount_due > 0 {
        invoice.begin_payment(payment, intent, now);
    }
    let (due, automatic) = (invoice.amount_due, invoice.collection == Collection::Automatic);
    if let Ok(customer) = store.customers.need_mut(&customer, "customer") {
        customer.balance = ending;
    }
    store.schedule_invoice(id);
    store.announce_object("invoice.finalized", id);
    if due == 0 {
        return settle(store, id);
    }
    if charge == Charge::Now && automatic && store.invoices.need(id, "invoice")?.auto_advance {
        // A refusal is on the invoice; whoever asked for the money at once looks there.
        attempt(store, id, None).map(drop)?;
    }
    Ok(())
}

/// Which payment method an invoice would be charged to.
pub(super) fn method_for(store: &Store, id: &str) -> Option<String> {
    let invoice = store.invoices.get(id)?;
    let subscription = invoice.subscription.as_ref().and_then(|id| store.subscriptions.get(id));
    let own = invoice.default_payment_method.clone();
    let subscribed = || subscription.and_then(|subscription| subscription.default_payment_method.clone());
    own.or_else(subscribed).or_else(|| store.customers.get(&invoice.customer)?.default_payment_method().cloned())
}

/// Charges an open invoice. The inner error is the bank's; it is noted on the invoice, and dunning goes on from it.
pub(super) fn attempt(store: &mut Store, id: &str, method: Option<String>) -> Result<Result<(), Decline>, ApiError> {
    let charged = match method.or_else(|| method_for(store, id)) {
        None => Err((NO_METHOD, "requires_payment_method")),
        Some(method) => payment_methods::charge(store, &method).map(|()| method),
    };
    store.invoices.need_mut(id, "invoice")?.attempts += 1;
    match charged {
        Ok(method) => {
            remember_method(store, id, &method);
            settle(store, id).map(Ok)
        }
        Err((decline, status)) => {
            refused(store, id, status)?;
            Ok(Err(decline))
        }
    }
}

/// The payment method of a paid first invoice becomes the subscription's, if it asked for that.
fn remember_method(store: &mut Store, id: &str, method: &str) {
    let subscription = store.invoices.get(id).and_then(|invoice| invoice.subscription.clone());
    if let Some(subscription) = subscription.and_then(|id| store.subscriptions.need_mut(&id, "subscription").ok())
        && subscription.save_default == "on_subscription"
    {
        subscription.default_payment_method = Some(method.to_owned());
    }
}

/// Open → paid.
pub(super) fn settle(store: &mut Store, id: &str) -> Result<(), ApiError> {
    let customer = store.invoices.need(id, "invoice")?.customer.clone();
    let now = store.time_of(Some(&customer));
    let invoice = store.invoices.need_mut(id, "invoice")?;
    (invoice.status, invoice.paid_at, invoice.next_attempt) = (Status::Paid, Some(now), None);
    invoice.amount_paid = invoice.amount_due;
    let (payment, subscription) = (invoice.payments()["data"][0].clone(), invoice.subscription.clone());
    store.schedule_invoice(id);
    if payment.is_object() {
        store.announce("invoice_payment.paid", payment);
    }
    store.announce_object("invoice.paid", id);
    store.announce_object("invoice.payment_succeeded", id);
    if let Ok(customer) = store.customers.need_mut(&customer, "customer") {
        customer.delinquent = false;
    }
    if let Some(subscription) = subscription {
        reopen(store, &subscription);
    }
    Ok(())
}

/// A subscription that waited for this money goes on, once none of its invoices is open.
fn reopen(store: &mut Store, id: &str) {
    let owes = |invoice: &super::invoices::Invoice| {
        invoice.subscription.as_deref() == Some(id) && invoice.status == Status::Open && invoice.attempts > 0
    };
    let still_owes = || store.invoices.iter().any(owes);
    let Some(status) = store.subscriptions.get(id).map(|subscription| subscription.status) else { return };
    let waits = match status {
        subscriptions::Status::Incomplete => true,
        subscriptions::Status::PastDue | subscriptions::Status::Unpaid => !still_owes(),
        subscriptions::Status::Trialing
        | subscriptions::Status::Active
        | subscriptions::Status::Canceled
        | subscriptions::Status::IncompleteExpired
        | subscriptions::Status::Paused => false,
    };
    if waits {
        set_status(store, id, subscriptions::Status::Active);
    }
}

/// A subscription's new state, announced and scheduled.
pub(super) fn set_status(store: &mut Store, id: &str, status: subscriptions::Status) {
    let before = store.shown(id);
    if let Ok(subscription) = store.subscriptions.need_mut(id, "subscription") {
        subscription.status = status;
    }
    store.schedule_subscription(id);
    store.announce_change("customer.subscription.updated", id, before.as_ref());
}

/// The bank said no: what becomes of the invoice and its subscription.
fn refused(store: &mut Store, id: &str, status: &str) -> Result<(), ApiError> {
    let invoice = store.invoices.need(id, "invoice")?;
    let now = store.time_of(Some(&invoice.customer));
    let (customer, subscription, reason) = (invoice.customer.clone(), invoice.subscription.clone(), invoice.reason);
    let retries = reason != Reason::Create && invoice.auto_advance && subscription.is_some();
    let failed = usize::try_from(invoice.attempts).unwrap_or(usize::MAX);
    let next = RETRY_DAYS.get(failed.saturating_sub(1)).map(|days| now + days * DAY_S).filter(|_| retries);
    store.invoices.need_mut(id, "invoice")?.next_attempt = next;
    store.schedule_invoice(id);
    store.announce_object("invoice.payment_failed", id);
    if status == "requires_action" {
        store.announce_object("invoice.payment_action_required", id);
    }
    if let Ok(customer) = store.customers.need_mut(&customer, "customer") {
        customer.delinquent = true;
    }
    if let Some(subscription) = subscription {
        fall_behind(store, &subscription, reason, retries && next.is_none());
    }
    Ok(())
}

fn fall_behind(store: &mut Store, id: &str, reason: Reason, given_up: bool) {
    let Some(status) = store.subscriptions.get(id).map(|subscription| subscription.status) else { return };
    if status.is_over() || reason == Reason::Create {
        return;
    }
    if status == subscriptions::Status::Active {
        set_status(store, id, subscriptions::Status::PastDue);
    }
    if given_up {
        match store.dunning_end {
            DunningEnd::Cancel => super::subscription_end::end(store, id, "payment_failed"),
            DunningEnd::Unpaid => set_status(store, id, subscriptions::Status::Unpaid),
            DunningEnd::PastDue => {}
        }
    }
}

/// What becomes of a subscription when the last retry has failed (in Stripe a setting of the account).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DunningEnd {
    /// It is cancelled.
    #[default]
    Cancel,
    /// It is unpaid: invoices stay drafts.
    Unpaid,
    /// It stays past due.
    PastDue,
}

/// Open or uncollectible → void.
pub(super) fn void(store: &mut Store, id: &str) -> Result<(), ApiError> {
    let customer = store.invoices.need(id, "invoice")?.customer.clone();
    let now = store.time_of(Some(&customer));
    let invoice = store.invoices.need_mut(id, "invoice")?;
    (invoice.status, invoice.voided_at, invoice.next_attempt) = (Status::Void, Some(now), None);
    let used = invoice.ending_balance.map_or(0, |ending| ending - invoice.starting_balance);
    if let Ok(customer) = store.customers.need_mut(&customer, "customer") {
        customer.balance -= used;
    }
    store.schedule_invoice(id);
    store.announce_object("invoice.voided", id);
    Ok(())
}
