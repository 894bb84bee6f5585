//! What a change of items means in money. Nothing is changed here: the plan says what would be.

use super::cycle::Period;
use super::errors::ApiError;
use super::invoice_lines::{Arrears, Line, lines_of, prorated_discounts};
use super::params::{Change, Metadata, merge_metadata};
use super::prices::Price;
use super::proration::share;
use super::store::Store;
use super::subscriptions::{Item, Mode, Subscription, checked_price, checked_quantity};

/// One entry of `items`.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    /// What errors call it: `items[0]`.
    pub(super) name: String,
    /// The item; `None` for a new one.
    pub(super) id: Option<String>,
    pub(super) price: Option<String>,
    pub(super) quantity: Option<i64>,
    pub(super) deleted: bool,
    pub(super) metadata: Change<Metadata>,
}

/// How a change is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proration {
    /// With the next invoice.
    Create,
    /// At once.
    InvoiceNow,
    /// Not at all.
    Nothing,
}

impl Proration {
    pub(super) const TABLE: &[(&str, Self)] =
        &[("create_prorations", Self::Create), ("always_invoice", Self::InvoiceNow), ("none", Self::Nothing)];
}

/// What a change would do.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The subscription afterwards; new items have no id yet.
    pub(super) after: Subscription,
    pub(super) prorations: Vec<Line>,
    /// Whether a new cycle begins, which is always billed at once.
    pub(super) reset: bool,
}

/// Plans edits as of `at`; with `reset` a new cycle begins whatever they are.
pub(super) fn plan(
    store: &Store,
    known: &Subscription,
    edits: Vec<Edit>,
    at: i64,
    how: Proration,
    reset: bool,
) -> Result<Plan, ApiError> {
    let mut after = known.clone();
    let mut touched = Vec::new();
    for edit in edits {
        apply(store, &mut after, &edit, at, &mut touched)?;
    }
    if after.items.is_empty() {
        let message = "A subscription must have at least one active item.";
        return Err(ApiError::invalid(message).param("items").executed());
    }
    let moved =
        |item: &&Item| known.items.iter().any(|old| old.id == item.id && interval(store, old) != interval(store, item));
    let reset = reset || after.items.iter().any(|item| moved(&item));
    if reset {
        touched = known.items.iter().map(|item| item.id.clone()).collect();
    }
    let trial = known.is_trial_at(at);
    let mut prorations = Vec::new();
    for old in known.items.iter().filter(|old| touched.contains(&old.id) && !trial) {
        if how != Proration::Nothing {
            prorations.extend(credit(store, known, old, at));
        }
        if known.mode == Mode::Flexible && is_metered(store, old) && old.usage_from < at {
            after.closing.push(Arrears::of(old, at));
        }
    }
    place(store, &mut after, at, reset, &touched);
    if !reset && !trial && how != Proration::Nothing {
        for new in after.items.iter().filter(|item| item.id.is_empty() || touched.contains(&item.id)) {
            prorations.extend(debit(store, &after, new, at));
        }
    }
    Ok(Plan { after, prorations, reset })
}

fn interval(store: &Store, item: &Item) -> Option<(super::cycle::Interval, i64)> {
    store.prices.get(&item.price).map(Price::interval)
}

fn is_metered(store: &Store, item: &Item) -> bool {
    store.prices.get(&item.price).is_some_and(Price::is_metered)
}

/// Changes, adds or takes away one item; those whose money changes are `touched`.
fn apply(
    store: &Store,
    after: &mut Subscription,
    edit: &Edit,
    at: i64,
    touched: &mut Vec<String>,
) -> Result<(), ApiError> {
    let Some(id) = &edit.id else { return add(store, after, edit, at) };
    let currency = after.currency.clone();
    let known = after.items.iter_mut().find(|item| item.id == *id);
    let item =
        known.ok_or_else(|| ApiError::no_such_reference("subscription item", id, &format!("{}[id]", edit.name)))?;
    if edit.deleted {
        touched.push(id.clone());
        after.items.retain(|item| item.id != *id);
        return Ok(());
    }
    merge_metadata(&mut item.metadata, edit.metadata.clone())?;
    let price = edit.price.clone().unwrap_or_else(|| item.price.clone());
    let checked = checked_price_or_same(store, item, &price, &edit.name, &currency)?;
    let kept = edit.quantity.or((!checked.is_metered()).then_some(item.quantity));
    let quantity = checked_quantity(checked, kept, &format!("{}[quantity]", edit.name))?;
    if price != item.price || quantity != item.quantity {
        touched.push(id.clone());
        (item.price, item.quantity) = (price, quantity);
    }
    Ok(())
}

/// An item may keep a price that has been archived since.
fn checked_price_or_same<'a>(
    store: &'a Store,
    item: &Item,
    price: &str,
    name: &str,
    currency: &str,
) -> Result<&'a Price, ApiError> {
    let param = format!("{name}[price]");
    if item.price == price {
        store.prices.refer(price, &param)
    } else {
        checked_price(store, price, &param, Some(currency))
    }
}

fn add(store: &Store, after: &mut Subscription, edit: &Edit, at: i64) -> Result<(), ApiError> {
    let name = format!("{}[price]", edit.name);
    let id = edit.price.as_ref().ok_or_else(|| ApiError::missing(&name))?;
    let price = checked_price(store, id, &name, Some(&after.currency))?;
    let quantity = checked_quantity(price, edit.quantity, &format!("{}[quantity]", edit.name))?;
    if after.items.iter().any(|item| item.price == *id) {
        let message = format!("Cannot add multiple subscription items with the same price: {id}");
        return Err(ApiError::invalid(message).param(&name).executed());
    }
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, edit.metadata.clone())?;
    let period = Period { start: at, end: after.cycle(price).period_at(at).end };
    let period =
        after.trial.filter(|trial| at < trial.end).map_or(period, |trial| Period { start: at, end: trial.end });
    let item = Item { id: String::new(), price: id.clone(), quantity, created: at, metadata, period, usage_from: at };
    after.items.push(item);
    Ok(())
}

/// Gives the items their periods: new ones from `at` if a cycle begins, otherwise usage of new prices from `at`.
fn place(store: &Store, after: &mut Subscription, at: i64, reset: bool, touched: &[String]) {
    if reset {
        after.anchor = at;
    }
    let cycles: Vec<_> =
        after.items.iter().map(|item| store.prices.get(&item.price).map(|price| after.cycle(price))).collect();
    for (item, cycle) in after.items.iter_mut().zip(cycles) {
        if let Some(cycle) = cycle.filter(|_| reset) {
            item.period = Period { start: at, end: cycle.period_at(at).end };
        }
        if reset || touched.contains(&item.id) {
            item.usage_from = item.usage_from.max(at);
        }
    }
}

/// What was paid ahead for the rest of the period, to be given back.
pub(super) fn credit(store: &Store, subscription: &Subscription, item: &Item, at: i64) -> Vec<Line> {
    prorated(store, subscription, item, at, "Unused time on", -1)
}

/// What the rest of the period costs.
fn debit(store: &Store, subscription: &Subscription, item: &Item, at: i64) -> Vec<Line> {
    prorated(store, subscription, item, at, "Remaining time on", 1)
}

fn prorated(store: &Store, subscription: &Subscription, item: &Item, at: i64, words: &str, sign: i64) -> Vec<Line> {
    let Some(price) = store.prices.get(&item.price).filter(|price| !price.is_metered()) else { return Vec::new() };
    let whole = subscription.cycle(price).period_at(item.period.start).seconds();
    let Some(mut line) =
        lines_of(store, price, item.quantity, &subscription.id, &item.id, item.period).into_iter().next()
    else {
        return Vec::new();
    };
    let amount = price.tariff().amount(item.quantity);
    line.amount = sign * share(amount, item.period.end - at, whole);
    line.quantity = item.quantity;
    line.period = Period { start: at, end: item.period.end };
    line.proration = true;
    line.description =
        format!("{words} {} × {} after {}", item.quantity, store.product_name(price), super::store::day(at));
    line.own_discounts = Some(prorated_discounts(store, subscription));
    vec![line]
}
