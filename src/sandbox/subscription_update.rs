//! `POST /v1/subscriptions/{id}`: settings, upgrades and downgrades, the end of a trial, the end at period end.

use serde_json::Value;

use super::billing::{Ahead, Content, compose, issue, pending_lines};
use super::changes::{Edit, Plan, Proration, plan};
use super::collect::{self, Charge, method_for};
use super::cycle::Period;
use super::discounts;
use super::errors::ApiError;
use super::invoices::{Invoice, Reason};
use super::params::{Change, Params, TEXT, merge_metadata};
use super::payment_methods;
use super::store::{Call, Store};
use super::subscription_create::{Behavior, missing, no_tax, saving};
use super::subscription_end::details;
use super::subscriptions::{Collection, Status, Subscription};

const ANCHORS: &[(&str, bool)] = &[("now", true), ("unchanged", false)];
const NOT_YET: &[&str] = &[
    "add_invoice_items",
    "application_fee_percent",
    "billing_schedules",
    "billing_thresholds",
    "default_source",
    "default_tax_rates",
    "invoice_settings",
    "on_behalf_of",
    "pause_collection",
    "pending_invoice_item_interval",
    "transfer_data",
    "trial_from_plan",
];

/// The part of an update that costs money.
#[derive(Clone, Debug)]
pub(super) struct Money {
    pub(super) edits: Vec<Edit>,
    pub(super) how: Proration,
    /// When the change counts as made, Unix seconds.
    pub(super) at: i64,
    pub(super) reset: bool,
    /// `Clear`: the trial ends now.
    pub(super) trial_end: Change<i64>,
    pub(super) cancel_at: Change<i64>,
}

impl Money {
    /// Takes everything a preview takes too.
    pub(super) fn take(params: &mut Params, known: &Subscription, now: i64) -> Result<Self, ApiError> {
        let edits = params.objects("items")?.unwrap_or_default();
        Ok(Self {
            edits: edits.into_iter().map(edit).collect::<Result<_, _>>()?,
            how: params.choice("proration_behavior", Proration::TABLE)?.unwrap_or(Proration::Create),
            at: proration_date(params, known, now)?,
            reset: params.choice("billing_cycle_anchor", ANCHORS)?.unwrap_or(false),
            trial_end: trial_end(params, now)?,
            cancel_at: cancel_at(params, known)?,
        })
    }

    /// Nothing but these edits, now.
    pub(super) fn of_edits(edits: Vec<Edit>, how: Proration, at: i64) -> Self {
        Self { edits, how, at, reset: false, trial_end: Change::Keep, cancel_at: Change::Keep }
    }
}

fn edit(mut params: Params) -> Result<Edit, ApiError> {
    params.unsupported(&["billing_thresholds", "discounts", "price_data", "tax_rates"])?;
    let name = params.name("id").trim_end_matches("[id]").to_owned();
    params.boolean("clear_usage")?;
    let edit = Edit {
        name,
        id: params.text("id", TEXT)?,
        price: params.text("price", TEXT)?,
        quantity: params.integer("quantity")?,
        deleted: params.boolean("deleted")?.unwrap_or(false),
        metadata: params.metadata()?,
    };
    params.finish().map(|()| edit)
}

fn proration_date(params: &mut Params, known: &Subscription, now: i64) -> Result<i64, ApiError> {
    let at = params.integer("proration_date")?.unwrap_or(now);
    let start = known.items.iter().map(|item| item.period.start).max().unwrap_or(at);
    let end = known.period_end().unwrap_or(at);
    if at != now && !(start..=end).contains(&at) {
        let message = "The proration date must lie within the current period.";
        return Err(ApiError::invalid(message).param("proration_date").executed());
    }
    Ok(at)
}

fn trial_end(params: &mut Params, now: i64) -> Result<Change<i64>, ApiError> {
    match params.text("trial_end", TEXT)?.as_deref() {
        None => Ok(Change::Keep),
        Some("now") => Ok(Change::Clear),
        Some(text) => match text.parse::<i64>() {
            Ok(end) if end > now => Ok(Change::Set(end)),
            Ok(_) | Err(_) => {
                Err(ApiError::invalid("Invalid timestamp: must be `now` or in the future.").param("trial_end"))
            }
        },
    }
}

/// Takes `cancel_at` and `cancel_at_period_end`; the latter is the end of the longest period.
fn cancel_at(params: &mut Params, known: &Subscription) -> Result<Change<i64>, ApiError> {
    let explicit = match params.clearable_text("cancel_at", TEXT)? {
        Change::Keep => Change::Keep,
        Change::Clear => Change::Clear,
        Change::Set(text) => match text.as_str() {
            "min_period_end" => known.period_end().map_or(Change::Keep, Change::Set),
            "max_period_end" | "max_billed_until" => last_end(known).map_or(Change::Keep, Change::Set),
            number => Change::Set(
                number
                    .parse()
                    .map_err(|_| ApiError::invalid(format!("Invalid integer: {number}")).param("cancel_at"))?,
            ),
        },
    };
    Ok(match params.boolean("cancel_at_period_end")? {
        Some(true) => last_end(known).map_or(Change::Keep, Change::Set),
        Some(false) => Change::Clear,
        None => explicit,
    })
}

fn last_end(known: &Subscription) -> Option<i64> {
    known.items.iter().map(|item| item.period.end).max()
}

/// `POST /v1/subscriptions/{id}`
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let known = store.subscriptions.need(id, "subscription_exposed_id")?.clone();
    let params = &mut call.params;
    params.unsupported(NOT_YET)?;
    let now = store.time_of(Some(&known.customer));
    let behavior = Behavior::take(params)?;
    let money = Money::take(params, &known, now)?;
    let wanted = discounts::take(params)?;
    let mut after = known.clone();
    settings(params, &mut after)?;
    let method = params.text("default_payment_method", TEXT)?;
    params.boolean("off_session")?;
    call.finish()?;
    if known.status.is_over() {
        let message = "A canceled subscription can only update its cancellation_details and metadata.";
        return Err(ApiError::invalid(message).executed());
    }
    discounts::check(store, wanted.as_deref().unwrap_or_default(), Some(&known.customer))?;
    let method = method.map(|method| payment_methods::owned(store, &method, &known.customer, "default_payment_method"));
    after.default_payment_method = method.transpose()?.or(after.default_payment_method);
    change(store, &known, &after, money, behavior, wanted.as_deref())?;
    store.subscriptions.need(id, "id").map(|subscription| subscription.shown(store))
}

/// What costs nothing.
fn settings(params: &mut Params, after: &mut Subscription) -> Result<(), ApiError> {
    params.clearable_text("description", 500)?.apply(&mut after.description);
    merge_metadata(&mut after.metadata, params.metadata()?)?;
    after.collection = params.choice("collection_method", Collection::TABLE)?.unwrap_or(after.collection);
    after.days_until_due = params.integer("days_until_due")?.or(after.days_until_due);
    after.missing = missing(params)?.unwrap_or(after.missing);
    after.save_default = saving(params)?.unwrap_or(after.save_default);
    details(params, &mut after.cancellation)?;
    no_tax(params)
}

/// Carries an update out.
pub(super) fn change(
    store: &mut Store,
    known: &Subscription,
    settled: &Subscription,
    money: Money,
    behavior: Behavior,
    wanted: Option<&[discounts::Wanted]>,
) -> Result<(), ApiError> {
    let now = store.time_of(Some(&known.customer));
    let how = money.how;
    let Plan { mut after, prorations, reset } = planned(store, settled, money, now)?;
    refuse_unpayable(store, &after, &prorations, reset, how, behavior)?;
    for item in after.items.iter_mut().filter(|item| item.id.is_empty()) {
        item.id = store.ids.make("si");
    }
    let mut prorations = prorations;
    for line in prorations.iter_mut().filter(|line| line.item.as_deref() == Some("")) {
        line.item =
            after.items.iter().find(|item| Some(&item.price) == line.price.as_ref()).map(|item| item.id.clone());
    }
    rehome(store, known, &after);
    if let Some(wanted) = wanted {
        after.discounts = discounts::begin(store, wanted, &known.customer, &known.id)?;
    }
    let before = store.shown(&known.id);
    *store.subscriptions.need_mut(&known.id, "subscription")? = after.clone();
    super::invoice_items::put_all(store, &after, prorations)?;
    if reset || how == Proration::InvoiceNow {
        bill_now(store, &known.id, reset, now, behavior)?;
    }
    store.schedule_subscription(&known.id);
    store.announce_change("customer.subscription.updated", &known.id, before.as_ref());
    Ok(())
}

/// What an update would do, its trial and its end included.
pub(super) fn planned(store: &Store, settled: &Subscription, money: Money, now: i64) -> Result<Plan, ApiError> {
    let ends_trial = money.trial_end == Change::Clear && settled.is_trial_at(now);
    let mut plan = plan(store, settled, money.edits, money.at, money.how, money.reset || ends_trial)?;
    if ends_trial {
        plan.after.status = Status::Active;
        plan.after.trial = plan.after.trial.map(|trial| Period { end: now, ..trial });
    }
    if let Change::Set(end) = money.trial_end {
        let start = plan.after.trial.map_or(now, |trial| trial.start);
        plan.after.trial = Some(Period { start, end });
        (plan.after.status, plan.after.anchor, plan.after.warned_of_trial) = (Status::Trialing, end, false);
        for item in &mut plan.after.items {
            item.period.end = end;
        }
    }
    apply_end(&mut plan.after, &money.cancel_at, now);
    Ok(plan)
}

fn apply_end(after: &mut Subscription, cancel_at: &Change<i64>, now: i64) {
    match *cancel_at {
        Change::Keep => {}
        Change::Clear => {
            (after.cancel_at, after.cancel_at_period_end, after.canceled_at) = (None, false, None);
            after.cancellation.reason = None;
        }
        Change::Set(at) => {
            after.cancel_at_period_end = last_end(after) == Some(at);
            after.cancel_at = Some(at);
            after.canceled_at.get_or_insert(now);
            after.cancellation.reason = Some("cancellation_requested");
        }
    }
}

/// `error_if_incomplete`: the money is looked at before anything is changed.
fn refuse_unpayable(
    store: &Store,
    after: &Subscription,
    prorations: &[super::invoice_lines::Line],
    reset: bool,
    how: Proration,
    behavior: Behavior,
) -> Result<(), ApiError> {
    if behavior != Behavior::Refuse || !(reset || how == Proration::InvoiceNow) {
        return Ok(());
    }
    let now = store.time_of(Some(&after.customer));
    let mut invoice = immediate(store, after, prorations.to_vec(), reset, now);
    invoice.refresh(store, &mut String::new);
    let known = store.customers.get(&after.customer).and_then(|customer| customer.default_payment_method());
    match after.default_payment_method.as_ref().or(known).map(|method| payment_methods::charge(store, method)) {
        Some(Err((decline, _))) if invoice.amount_due > 0 => Err(decline.error()),
        Some(_) | None => Ok(()),
    }
}

/// The invoice for a change that is billed at once.
pub(super) fn immediate(
    store: &Store,
    after: &Subscription,
    mut pending: Vec<super::invoice_lines::Line>,
    reset: bool,
    now: i64,
) -> Invoice {
    let waiting = pending_lines(store, &after.id);
    pending.splice(0..0, waiting);
    let ahead = if reset { Ahead::Starting(now) } else { Ahead::Nothing };
    let period = after.items.first().map_or(Period { start: now, end: now }, |item| item.period);
    let content = Content { reason: Reason::Update, ahead, arrears: after.closing.clone(), pending, period };
    compose(store, after, content, now)
}

fn bill_now(store: &mut Store, id: &str, reset: bool, now: i64, behavior: Behavior) -> Result<(), ApiError> {
    let after = store.subscriptions.need(id, "subscription")?.clone();
    let invoice = immediate(store, &after, Vec::new(), reset, now);
    if invoice.fixed.is_empty() && invoice.arrears.is_empty() {
        return Ok(());
    }
    store.subscriptions.need_mut(id, "subscription")?.closing.clear();
    let invoice = issue(store, invoice)?;
    let wait = behavior == Behavior::Wait && method_for(store, &invoice).is_none();
    collect::finalize(store, &invoice, if wait { Charge::Later } else { Charge::Now })
}

/// The table of items' homes follows.
fn rehome(store: &mut Store, known: &Subscription, after: &Subscription) {
    for item in &known.items {
        store.item_homes.remove(&item.id);
    }
    for item in &after.items {
        store.item_homes.insert(item.id.clone(), after.id.clone());
    }
}
