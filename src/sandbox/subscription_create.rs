//! `POST /v1/subscriptions`

use serde_json::Value;

use super::billing::{Ahead, Content, compose, enter};
use super::changes::Edit;
use super::collect::{self, Charge};
use super::cycle::Period;
use super::discounts::{self, Wanted};
use super::errors::ApiError;
use super::invoices::Reason;
use super::params::{Change, Metadata, Params, TEXT, merge_metadata};
use super::payment_methods;
use super::prices::Price;
use super::store::{Call, Store};
use super::subscriptions::{
    Cancellation, Collection, Item, Missing, Mode, Status, Subscription, checked_price, checked_quantity,
};

const MODES: &[(&str, Mode)] = &[("classic", Mode::Classic), ("flexible", Mode::Flexible)];
const BEHAVIORS: &[(&str, Behavior)] = &[
    ("allow_incomplete", Behavior::Allow),
    ("default_incomplete", Behavior::Wait),
    ("error_if_incomplete", Behavior::Refuse),
];
const SAVING: &[(&str, &str)] = &[("off", "off"), ("on_subscription", "on_subscription")];
const NOT_YET: &[&str] = &[
    "add_invoice_items",
    "application_fee_percent",
    "backdate_start_date",
    "billing_cycle_anchor_config",
    "billing_schedules",
    "billing_thresholds",
    "default_source",
    "default_tax_rates",
    "invoice_settings",
    "on_behalf_of",
    "pending_invoice_item_interval",
    "transfer_data",
    "trial_from_plan",
];
const DAY_S: i64 = 86_400;
const MAX_ITEMS: usize = 20;

/// What becomes of a subscription whose first invoice is not paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behavior {
    /// The card is tried; without success it is incomplete.
    Allow,
    /// Nothing is tried: it is incomplete until somebody pays.
    Wait,
    /// It is not made.
    Refuse,
}

impl Behavior {
    /// Takes `payment_behavior`.
    pub(super) fn take(params: &mut Params) -> Result<Self, ApiError> {
        Ok(params.choice("payment_behavior", BEHAVIORS)?.unwrap_or(Self::Allow))
    }
}

/// All that a new subscription says.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) customer: String,
    pub(super) items: Vec<Edit>,
    pub(super) trial_end: Option<i64>,
    pub(super) missing: Missing,
    pub(super) anchor: Option<i64>,
    pub(super) prorate: bool,
    pub(super) mode: Mode,
    pub(super) discounts: Vec<Wanted>,
    pub(super) cancel_at: Option<i64>,
    pub(super) cancel_at_period_end: bool,
    pub(super) collection: Collection,
    pub(super) days_until_due: Option<i64>,
    pub(super) method: Option<String>,
    pub(super) save_default: &'static str,
    pub(super) description: Option<String>,
    pub(super) metadata: Metadata,
}

impl Draft {
    /// One that says nothing but who and what.
    pub(super) fn plain(customer: String, items: Vec<Edit>) -> Self {
        Self {
            customer,
            items,
            trial_end: None,
            missing: Missing::CreateInvoice,
            anchor: None,
            prorate: true,
            mode: Mode::Classic,
            discounts: Vec::new(),
            cancel_at: None,
            cancel_at_period_end: false,
            collection: Collection::Automatic,
            days_until_due: None,
            method: None,
            save_default: "off",
            description: None,
            metadata: Metadata::new(),
        }
    }

    fn read(store: &Store, params: &mut Params) -> Result<Self, ApiError> {
        params.unsupported(NOT_YET)?;
        let customer = params.required_text("customer", TEXT)?;
        store.customers.refer(&customer, "customer")?;
        let items = params.objects("items")?.ok_or_else(|| ApiError::missing("items"))?;
        let mut draft = Self::plain(customer, items.into_iter().map(new_item).collect::<Result<_, _>>()?);
        let now = store.time_of(Some(&draft.customer));
        draft.trial_end = trial_end(params, now)?;
        draft.missing = missing(params)?.unwrap_or(draft.missing);
        draft.anchor = params.integer("billing_cycle_anchor")?;
        draft.prorate = params.text("proration_behavior", TEXT)?.is_none_or(|word| word != "none");
        draft.mode = mode(params)?.unwrap_or(Mode::Classic);
        draft.discounts = discounts::take(params)?.unwrap_or_default();
        draft.cancel_at = params.integer("cancel_at")?;
        draft.cancel_at_period_end = params.boolean("cancel_at_period_end")?.unwrap_or(false);
        draft.collection = params.choice("collection_method", Collection::TABLE)?.unwrap_or(Collection::Automatic);
        draft.days_until_due = params.integer("days_until_due")?;
        draft.method = params.text("default_payment_method", TEXT)?;
        draft.save_default = saving(params)?.unwrap_or("off");
        draft.description = params.text("description", 500)?;
        params.boolean("off_session")?;
        params.text("currency", 3)?;
        no_tax(params)?;
        merge_metadata(&mut draft.metadata, params.metadata()?)?;
        Ok(draft)
    }
}

/// Automatic tax is known, and off.
pub(super) fn no_tax(params: &mut Params) -> Result<(), ApiError> {
    let Some(mut tax) = params.object("automatic_tax")? else { return Ok(()) };
    let (name, enabled) = (tax.name("enabled"), tax.boolean("enabled")?);
    tax.finish()?;
    match enabled {
        Some(true) => Err(ApiError::invalid("The sandbox calculates no taxes.").param(&name)),
        Some(false) | None => Ok(()),
    }
}

fn new_item(mut params: Params) -> Result<Edit, ApiError> {
    params.unsupported(&["billing_thresholds", "discounts", "price_data", "tax_rates"])?;
    let name = params.name("price").trim_end_matches("[price]").to_owned();
    let price = Some(params.required_text("price", TEXT)?);
    let edit = Edit {
        name,
        id: None,
        price,
        quantity: params.integer("quantity")?,
        deleted: false,
        metadata: params.metadata()?,
    };
    params.finish().map(|()| edit)
}

/// Takes `trial_period_days` or `trial_end`; `now` ends a trial where there is one.
fn trial_end(params: &mut Params, now: i64) -> Result<Option<i64>, ApiError> {
    let (days, end) = (params.integer("trial_period_days")?, params.text("trial_end", TEXT)?);
    match (days, end.as_deref()) {
        (Some(days), None) if (0..=730).contains(&days) => Ok((days > 0).then_some(now + days * DAY_S)),
        (Some(_), None) => {
            Err(ApiError::invalid("The maximum number of trial period days is 730.").param("trial_period_days"))
        }
        (None, None | Some("now")) => Ok(None),
        (None, Some(text)) => match text.parse::<i64>() {
            Ok(end) if end > now => Ok(Some(end)),
            Ok(_) => Err(ApiError::invalid("Invalid timestamp: must be in the future.").param("trial_end")),
            Err(_) => Err(ApiError::invalid(format!("Invalid integer: {text}")).param("trial_end")),
        },
        (Some(_), Some(_)) => {
            Err(ApiError::invalid("You may only specify one of these parameters: trial_end, trial_period_days.")
                .param("trial_end"))
        }
    }
}

/// Takes `trial_settings`.
pub(super) fn missing(params: &mut Params) -> Result<Option<Missing>, ApiError> {
    let Some(mut settings) = params.object("trial_settings")? else { return Ok(None) };
    let mut end = settings.object("end_behavior")?.ok_or_else(|| ApiError::missing("trial_settings[end_behavior]"))?;
    settings.finish()?;
    let missing = end.required_choice("missing_payment_method", Missing::TABLE)?;
    end.finish().map(|()| Some(missing))
}

/// Takes `billing_mode`.
pub(super) fn mode(params: &mut Params) -> Result<Option<Mode>, ApiError> {
    let Some(mut inner) = params.object("billing_mode")? else { return Ok(None) };
    let mode = inner.required_choice("type", MODES)?;
    inner.unsupported(&["flexible"])?;
    inner.finish().map(|()| Some(mode))
}

/// Takes `payment_settings`.
pub(super) fn saving(params: &mut Params) -> Result<Option<&'static str>, ApiError> {
    let Some(mut settings) = params.object("payment_settings")? else { return Ok(None) };
    let saving = settings.choice("save_default_payment_method", SAVING)?;
    settings.texts("payment_method_types", TEXT)?;
    settings.unsupported(&["payment_method_options"])?;
    settings.finish().map(|()| saving)
}

/// `POST /v1/subscriptions`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let behavior = Behavior::take(&mut call.params)?;
    let draft = Draft::read(store, &mut call.params)?;
    call.finish()?;
    let id = begin(store, &draft, behavior)?;
    store.subscriptions.need(&id, "id").map(|subscription| subscription.shown(store))
}

/// Makes a subscription and its first invoice, and tries to be paid. Its id is the answer.
pub(super) fn begin(store: &mut Store, draft: &Draft, behavior: Behavior) -> Result<String, ApiError> {
    discounts::check(store, &draft.discounts, Some(&draft.customer))?;
    let customer = draft.customer.clone();
    let method = draft.method.as_ref().map(|id| payment_methods::owned(store, id, &customer, "default_payment_method"));
    let method = method.transpose()?;
    let mut subscription = build(store, draft)?;
    subscription.default_payment_method = method;
    check_payable(store, &subscription, draft, behavior)?;
    subscription.id = store.ids.make("sub");
    let id = subscription.id.clone();
    for item in &mut subscription.items {
        item.id = store.ids.make("si");
        store.item_homes.insert(item.id.clone(), id.clone());
    }
    store.subscriptions.put(id.clone(), subscription)?;
    let begun = discounts::begin(store, &draft.discounts, &customer, &id)?;
    store.subscriptions.need_mut(&id, "subscription")?.discounts = begun;
    first_invoice(store, &id, behavior)?;
    Ok(id)
}

/// The subscription as it begins, without ids.
pub(super) fn build(store: &Store, draft: &Draft) -> Result<Subscription, ApiError> {
    let now = store.time_of(Some(&draft.customer));
    if draft.items.is_empty() || draft.items.len() > MAX_ITEMS {
        return Err(ApiError::invalid(format!("A subscription has 1 to {MAX_ITEMS} items.")).param("items"));
    }
    let first = draft.items.first().and_then(|edit| edit.price.as_ref()).and_then(|id| store.prices.get(id));
    let currency = first.map(|price| price.currency.clone()).unwrap_or_default();
    let trial = draft.trial_end.map(|end| Period { start: now, end });
    let anchor = draft.anchor.or(draft.trial_end).unwrap_or(now);
    let mut subscription = Subscription {
        id: String::new(),
        customer: draft.customer.clone(),
        status: if trial.is_some() { Status::Trialing } else { Status::Incomplete },
        items: Vec::new(),
        currency: currency.clone(),
        created: now,
        anchor,
        mode: draft.mode,
        cancel_at: draft.cancel_at,
        cancel_at_period_end: draft.cancel_at_period_end,
        canceled_at: (draft.cancel_at_period_end || draft.cancel_at.is_some()).then_some(now),
        ended_at: None,
        cancellation: Cancellation::default(),
        collection: draft.collection,
        days_until_due: draft.days_until_due,
        default_payment_method: None,
        save_default: draft.save_default,
        description: draft.description.clone(),
        discounts: Vec::new(),
        period_discounts: Vec::new(),
        latest_invoice: None,
        metadata: draft.metadata.clone(),
        trial,
        missing: draft.missing,
        closing: Vec::new(),
        warned_of_trial: false,
        warned_of_invoice: None,
        test_clock: store.customers.get(&draft.customer).and_then(|customer| customer.test_clock().map(str::to_owned)),
    };
    for edit in &draft.items {
        let item = first_item(store, &subscription, edit, now)?;
        subscription.items.push(item);
    }
    if draft.cancel_at_period_end {
        subscription.cancel_at = subscription.items.iter().map(|item| item.period.end).max();
    }
    Ok(subscription)
}

fn first_item(store: &Store, subscription: &Subscription, edit: &Edit, now: i64) -> Result<Item, ApiError> {
    let name = format!("{}[price]", edit.name);
    let id = edit.price.as_ref().ok_or_else(|| ApiError::missing(&name))?;
    let price: &Price = checked_price(store, id, &name, Some(&subscription.currency))?;
    let quantity = checked_quantity(price, edit.quantity, &format!("{}[quantity]", edit.name))?;
    if subscription.items.iter().any(|item| item.price == *id) {
        return Err(ApiError::invalid(format!("Cannot add multiple subscription items with the same price: {id}"))
            .param(&name)
            .executed());
    }
    let mixed = subscription
        .items
        .iter()
        .any(|item| store.prices.get(&item.price).is_some_and(|p| p.interval() != price.interval()));
    if mixed && subscription.mode == Mode::Classic {
        let message = "Currency and interval fields must match across all prices of a subscription with `billing_mode[type]=classic`.";
        return Err(ApiError::invalid(message).param(&name).executed());
    }
    let period = match subscription.trial {
        Some(trial) => trial,
        None => subscription.cycle(price).first(now),
    };
    let mut metadata = Metadata::new();
    if let Change::Set(given) = &edit.metadata {
        metadata.clone_from(given);
    }
    Ok(Item { id: String::new(), price: id.clone(), quantity, created: now, metadata, period, usage_from: now })
}

/// What the first invoice will say.
pub(super) fn first_content(subscription: &Subscription) -> Content {
    let start = subscription.created;
    let period = Period { start, end: start };
    Content { reason: Reason::Create, ahead: Ahead::Starting(start), arrears: Vec::new(), pending: Vec::new(), period }
}

/// Whether the first invoice, as it will be, can be paid; looked at before anything is made.
fn check_payable(
    store: &Store,
    subscription: &Subscription,
    draft: &Draft,
    behavior: Behavior,
) -> Result<(), ApiError> {
    let free_by_discount = draft.discounts.iter().any(|wanted| takes_all(store, wanted));
    let mut invoice = compose(store, subscription, first_content(subscription), subscription.created);
    invoice.refresh(store, &mut String::new);
    let due = invoice.amount_due > 0 && !free_by_discount;
    if !due || draft.collection == Collection::SendInvoice || behavior == Behavior::Wait {
        return Ok(());
    }
    let known = store.customers.get(&subscription.customer).and_then(|customer| customer.default_payment_method());
    let Some(method) = subscription.default_payment_method.as_ref().or(known) else {
        let message = "This customer has no attached payment source or default payment method. Please consider adding a default payment method.";
        return Err(ApiError::invalid(message).code("resource_missing").executed());
    };
    match payment_methods::charge(store, method) {
        Err((decline, _)) if behavior == Behavior::Refuse => Err(decline.error()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn takes_all(store: &Store, wanted: &Wanted) -> bool {
    let coupon = match wanted {
        Wanted::Coupon(id) => store.coupons.get(id),
        Wanted::PromotionCode(id) => store.promotion_codes.get(id).and_then(|code| store.coupons.get(&code.coupon)),
        Wanted::Discount(_) => None,
    };
    let all = super::proration::Off::Percent(super::decimal::Decimal::from(100));
    coupon.is_some_and(|coupon| coupon.off == all)
}

fn first_invoice(store: &mut Store, id: &str, behavior: Behavior) -> Result<(), ApiError> {
    let subscription = store.subscriptions.need(id, "subscription")?.clone();
    if subscription.collection == Collection::SendInvoice && subscription.status == Status::Incomplete {
        store.subscriptions.need_mut(id, "subscription")?.status = Status::Active;
    }
    let invoice = compose(store, &subscription, first_content(&subscription), subscription.created);
    let invoice = enter(store, invoice)?;
    store.announce_object("customer.subscription.created", id);
    store.announce_object("invoice.created", &invoice);
    let charge = if behavior == Behavior::Wait { Charge::Later } else { Charge::Now };
    collect::finalize(store, &invoice, charge)?;
    store.schedule_subscription(id);
    Ok(())
}
