//! Time passes: what is due happens, in the order in which it is due.

use super::agenda::{Job, Scope};
use super::billing::{Ahead, Content, compose, issue, pending_lines};
use super::collect::{self, Charge, set_status};
use super::cycle::Period;
use super::errors::ApiError;
use super::invoice_lines::Arrears;
use super::invoices::{self, DRAFT_S, Reason};
use super::store::Store;
use super::subscription_end;
use super::subscriptions::{INCOMPLETE_S, Missing, Status, Subscription};

/// A draft waits at most this long for an endpoint to acknowledge `invoice.created`.
const MAX_DRAFT_S: i64 = 72 * 3_600;

/// Does everything that is due in a scope by `until`, each at its own time.
pub(super) fn run(store: &mut Store, scope: &Scope, until: i64) {
    let now = store.now_s;
    while let Some((at, job)) = store.agenda.take(scope, until) {
        store.set_time(scope, at);
        if let Err(error) = carry_out(store, &job, at) {
            tracing::warn!(?job, at, message = %error.message, "something due in the sandbox could not be done");
        }
    }
    if *scope == Scope::Sandbox {
        store.now_s = now;
    }
}

fn carry_out(store: &mut Store, job: &Job, at: i64) -> Result<(), ApiError> {
    match job {
        Job::Invoice(id) => invoice(store, id, at),
        Job::Subscription(id) => {
            subscription(store, id, at)?;
            store.schedule_subscription(id);
            Ok(())
        }
        Job::Session(id) => super::checkout::expire_now(store, id),
    }
}

fn invoice(store: &mut Store, id: &str, at: i64) -> Result<(), ApiError> {
    let invoice = store.invoices.need(id, "invoice")?;
    match invoice.status {
        invoices::Status::Draft if store.is_unacknowledged(id) && at < invoice.created + MAX_DRAFT_S => {
            // Stripe waits for a 2xx to `invoice.created`, and then an hour more.
            store.invoices.need_mut(id, "invoice")?.finalizes_at = Some(at + DRAFT_S);
            store.schedule_invoice(id);
            Ok(())
        }
        invoices::Status::Draft => collect::finalize(store, id, Charge::Now),
        // A refusal leads to the next retry by itself.
        invoices::Status::Open => collect::attempt(store, id, None).map(drop),
        invoices::Status::Paid | invoices::Status::Void | invoices::Status::Uncollectible => Ok(()),
    }
}

/// The first thing that is due; [`run`] comes back for the next.
fn subscription(store: &mut Store, id: &str, at: i64) -> Result<(), ApiError> {
    let known = store.subscriptions.need(id, "subscription")?.clone();
    if known.status == Status::Incomplete && at >= known.created + INCOMPLETE_S {
        return expire(store, &known, at);
    }
    if known.trial_warning_due(at) {
        store.subscriptions.need_mut(id, "subscription")?.warned_of_trial = true;
        store.announce_object("customer.subscription.trial_will_end", id);
        return Ok(());
    }
    if let Some(end) = known.upcoming_due(at) {
        return warn_of_invoice(store, &known, end);
    }
    if known.cancel_at.is_some_and(|end| at >= end) {
        subscription_end::end(store, id, "cancellation_requested");
        return Ok(());
    }
    if known.status == Status::Trialing && known.trial.is_some_and(|trial| at >= trial.end) {
        return end_trial(store, &known, at);
    }
    if known.status.renews() && known.period_end().is_some_and(|end| at >= end) {
        return renew(store, known, at);
    }
    Ok(())
}

fn warn_of_invoice(store: &mut Store, known: &Subscription, end: i64) -> Result<(), ApiError> {
    store.subscriptions.need_mut(&known.id, "subscription")?.warned_of_invoice = Some(end);
    if known.cancel_at.is_none_or(|cancel| cancel > end) {
        let upcoming = super::preview::upcoming(store, known);
        store.announce("invoice.upcoming", upcoming);
    }
    Ok(())
}

fn expire(store: &mut Store, known: &Subscription, at: i64) -> Result<(), ApiError> {
    store.subscriptions.need_mut(&known.id, "subscription")?.ended_at = Some(at);
    set_status(store, &known.id, Status::IncompleteExpired);
    match &known.latest_invoice {
        Some(invoice) => collect::void(store, invoice),
        None => Ok(()),
    }
}

/// A trial's end: the first period that is paid for, unless there is nothing to pay with.
pub(super) fn end_trial(store: &mut Store, known: &Subscription, at: i64) -> Result<(), ApiError> {
    let has_method = known.default_payment_method.is_some()
        || store.customers.get(&known.customer).is_some_and(|customer| customer.default_payment_method().is_some());
    match known.missing {
        Missing::Cancel if !has_method => {
            subscription_end::end(store, &known.id, "cancellation_requested");
            Ok(())
        }
        Missing::Pause if !has_method => {
            store.subscriptions.need_mut(&known.id, "subscription")?.status = Status::Paused;
            store.announce_object("customer.subscription.paused", &known.id);
            Ok(())
        }
        Missing::Cancel | Missing::Pause | Missing::CreateInvoice => {
            let mut after = known.clone();
            after.status = Status::Active;
            after.anchor = at;
            renew(store, after, at)
        }
    }
}

/// The next period of every item whose period is over, and the invoice for it.
pub(super) fn renew(store: &mut Store, mut after: Subscription, at: i64) -> Result<(), ApiError> {
    let before = store.shown(&after.id);
    let Some(ended) = after.items.iter().map(|item| item.period).find(|period| period.end <= at) else { return Ok(()) };
    let in_trial = after.trial.is_some_and(|trial| trial.end >= ended.end);
    let mut arrears = std::mem::take(&mut after.closing);
    arrears.extend(roll(store, &mut after, at, in_trial));
    let pending = pending_lines(store, &after.id);
    let reason = Reason::Cycle;
    let content = Content { reason, ahead: Ahead::Starting(at), arrears, pending, period: ended };
    let unpaid = after.status == Status::Unpaid;
    let id = after.id.clone();
    *store.subscriptions.need_mut(&id, "subscription")? = after.clone();
    let mut invoice = compose(store, &after, content, at);
    invoice.auto_advance = !unpaid;
    issue(store, invoice)?;
    store.announce_change("customer.subscription.updated", &id, before.as_ref());
    Ok(())
}

/// Moves every item whose period is over into the next one; what they used is the answer.
fn roll(store: &Store, after: &mut Subscription, at: i64, in_trial: bool) -> Vec<Arrears> {
    let cycles: Vec<_> = after
        .items
        .iter()
        .map(|item| store.prices.get(&item.price).map(|price| (after.cycle(price), price.is_metered())))
        .collect();
    let mut arrears = Vec::new();
    for (item, cycle) in after.items.iter_mut().zip(cycles) {
        let Some((cycle, metered)) = cycle.filter(|_| item.period.end <= at) else { continue };
        if metered && !in_trial {
            arrears.push(Arrears::of(item, item.period.end));
        }
        let start = item.period.end;
        item.period = Period { start, end: cycle.period_at(start).end };
        item.usage_from = start;
    }
    arrears
}
