//! A subscription: its state, its items, how both are shown.

use serde_json::{Value, json};

use super::agenda::Scope;
use super::cycle::{Cycle, Period};
use super::errors::ApiError;
use super::invoice_lines::Arrears;
use super::params::Metadata;
use super::price_draft::UsageType;
use super::prices::Price;
use super::store::Store;

/// An incomplete subscription's first invoice must be paid within 23 hours.
pub(super) const INCOMPLETE_S: i64 = 23 * 3_600;
/// `trial_will_end` comes three days before.
const TRIAL_WARNING_S: i64 = 3 * 86_400;
/// `invoice.upcoming` comes seven days before (Stripe's default).
const UPCOMING_S: i64 = 7 * 86_400;

/// Stripe's eight states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Incomplete,
    IncompleteExpired,
    Trialing,
    Active,
    PastDue,
    Unpaid,
    Canceled,
    Paused,
}

impl Status {
    /// Its words in requests.
    pub(super) const TABLE: &[(&str, Self)] = &[
        ("incomplete", Self::Incomplete),
        ("incomplete_expired", Self::IncompleteExpired),
        ("trialing", Self::Trialing),
        ("active", Self::Active),
        ("past_due", Self::PastDue),
        ("unpaid", Self::Unpaid),
        ("canceled", Self::Canceled),
        ("paused", Self::Paused),
    ];

    pub(super) fn word(self) -> &'static str {
        Self::TABLE.iter().find(|(_, status)| *status == self).map_or("", |(word, _)| word)
    }

    /// Nothing happens to it any more.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }

    /// Its periods go on.
    pub(super) fn renews(self) -> bool {
        matches!(self, Self::Trialing | Self::Active | Self::PastDue | Self::Unpaid)
    }
}

/// What becomes of usage and prorations at changes (Stripe, "Billing mode").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Classic,
    Flexible,
}

/// What a trial's end does without a payment method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Cancel,
    CreateInvoice,
    Pause,
}

impl Missing {
    pub(super) const TABLE: &[(&str, Self)] =
        &[("cancel", Self::Cancel), ("create_invoice", Self::CreateInvoice), ("pause", Self::Pause)];

    fn word(self) -> &'static str {
        Self::TABLE.iter().find(|(_, missing)| *missing == self).map_or("", |(word, _)| word)
    }
}

/// Who sends the money: the card on file, or the customer once the invoice has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collection {
    Automatic,
    SendInvoice,
}

impl Collection {
    pub(super) const TABLE: &[(&str, Self)] =
        &[("charge_automatically", Self::Automatic), ("send_invoice", Self::SendInvoice)];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Automatic => "charge_automatically",
            Self::SendInvoice => "send_invoice",
        }
    }
}

/// One price on a subscription.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) price: String,
    /// 1 for a metered price, which does not show it.
    pub(super) quantity: i64,
    pub(super) created: i64,
    pub(super) metadata: Metadata,
    pub(super) period: Period,
    /// Usage before this is billed, or was free.
    pub(super) usage_from: i64,
}

impl Item {
    pub(super) fn shown(&self, store: &Store, subscription: &str) -> Value {
        let price = store.prices.get(&self.price);
        let mut shown = json!({
            "id": self.id,
            "object": "subscription_item",
            "billing_thresholds": null,
            "created": self.created,
            "current_period_end": self.period.end,
            "current_period_start": self.period.start,
            "discounts": [],
            "metadata": self.metadata,
            "price": price.map(Price::plain),
            "subscription": subscription,
            "tax_rates": [],
        });
        if price.is_some_and(|price| !price.is_metered()) {
            shown["quantity"] = self.quantity.into();
        }
        shown
    }
}

/// A subscription.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) id: String,
    pub(super) customer: String,
    pub(super) status: Status,
    pub(super) items: Vec<Item>,
    pub(super) currency: String,
    pub(super) created: i64,
    pub(super) anchor: i64,
    pub(super) mode: Mode,
    pub(super) cancel_at: Option<i64>,
    pub(super) cancel_at_period_end: bool,
    pub(super) canceled_at: Option<i64>,
    pub(super) ended_at: Option<i64>,
    pub(super) cancellation: Cancellation,
    pub(super) collection: Collection,
    pub(super) days_until_due: Option<i64>,
    pub(super) default_payment_method: Option<String>,
    pub(super) save_default: &'static str,
    pub(super) description: Option<String>,
    pub(super) discounts: Vec<String>,
    /// Those that the current period was billed with.
    pub(super) period_discounts: Vec<String>,
    pub(super) latest_invoice: Option<String>,
    pub(super) metadata: Metadata,
    pub(super) trial: Option<Period>,
    pub(super) missing: Missing,
    /// Usage of prices that were replaced, for the next invoice.
    pub(super) closing: Vec<Arrears>,
    pub(super) warned_of_trial: bool,
    pub(super) warned_of_invoice: Option<i64>,
    pub(super) test_clock: Option<String>,
}

/// Why it was cancelled.
#[derive(Clone, Debug, Default)]
pub(super) struct Cancellation {
    pub(super) comment: Option<String>,
    pub(super) feedback: Option<&'static str>,
    pub(super) reason: Option<&'static str>,
}

impl Subscription {
    pub(super) fn scope(&self) -> Scope {
        self.test_clock.clone().map_or(Scope::Sandbox, Scope::Clock)
    }

    /// The periods of one of its prices.
    pub(super) fn cycle(&self, price: &Price) -> Cycle {
        let (interval, count) = price.interval();
        Cycle { anchor: self.anchor, interval, count }
    }

    /// The first end of an item's period.
    pub(super) fn period_end(&self) -> Option<i64> {
        self.items.iter().map(|item| item.period.end).min()
    }

    pub(super) fn is_trial_at(&self, at: i64) -> bool {
        self.trial.is_some_and(|trial| at < trial.end)
    }

    /// When it is to be looked at again.
    pub(super) fn next_due(&self) -> Option<i64> {
        if self.status.is_over() {
            return None;
        }
        let incomplete = (self.status == Status::Incomplete).then(|| self.created + INCOMPLETE_S);
        let trialing = self.trial.filter(|_| self.status == Status::Trialing);
        let warning = trialing.filter(|_| !self.warned_of_trial).map(|trial| trial.end - TRIAL_WARNING_S);
        let renewal = self.period_end().filter(|_| self.status.renews());
        let upcoming = renewal.filter(|end| self.warned_of_invoice != Some(*end)).map(|end| end - UPCOMING_S);
        let ends = [incomplete, trialing.map(|trial| trial.end), warning, renewal, upcoming, self.cancel_at];
        ends.into_iter().flatten().min()
    }

    /// Whether the warning before its trial's end is due.
    pub(super) fn trial_warning_due(&self, at: i64) -> bool {
        let soon = |trial: Period| at >= trial.end - TRIAL_WARNING_S;
        self.status == Status::Trialing && !self.warned_of_trial && self.trial.is_some_and(soon)
    }

    /// The period's end that `invoice.upcoming` is due for.
    pub(super) fn upcoming_due(&self, at: i64) -> Option<i64> {
        let end = self.period_end().filter(|_| self.status.renews())?;
        (self.warned_of_invoice != Some(end) && at >= end - UPCOMING_S).then_some(end)
    }

    pub(super) fn shown(&self, store: &Store) -> Value {
        let items: Vec<Value> = self.items.iter().map(|item| item.shown(store, &self.id)).collect();
        let flexible = self.mode == Mode::Flexible;
        let mode = json!({
            "flexible": flexible.then(|| json!({ "proration_discounts": "included" })),
            "type": if flexible { "flexible" } else { "classic" },
        });
        let mut shown = json!({
            "id": self.id,
            "object": "subscription",
            "application": null,
            "application_fee_percent": null,
            "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
            "billing_cycle_anchor": self.anchor,
            "billing_cycle_anchor_config": null,
            "billing_mode": mode,
            "billing_schedules": [],
            "billing_thresholds": null,
            "cancel_at": self.cancel_at,
            "cancel_at_period_end": self.cancel_at_period_end,
            "canceled_at": self.canceled_at,
            "cancellation_details": { "comment": self.cancellation.comment, "feedback": self.cancellation.feedback,
                                      "reason": self.cancellation.reason },
            "collection_method": self.collection.word(),
            "created": self.created,
            "currency": self.currency,
            "customer": self.customer,
            "days_until_due": self.days_until_due,
            "default_payment_method": self.default_payment_method,
            "default_source": null,
            "default_tax_rates": [],
            "description": self.description,
            "discounts": self.discounts,
            "ended_at": self.ended_at,
        });
        let rest = self.rest(&items);
        if let (Value::Object(shown), Value::Object(rest)) = (&mut shown, rest) {
            shown.extend(rest);
        }
        shown
    }

    fn rest(&self, items: &[Value]) -> Value {
        let url = format!("/v1/subscription_items?subscription={}", self.id);
        json!({
            "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
            "items": { "object": "list", "data": items, "has_more": false, "total_count": items.len(), "url": url },
            "latest_invoice": self.latest_invoice,
            "livemode": false,
            "metadata": self.metadata,
            "next_pending_invoice_item_invoice": null,
            "on_behalf_of": null,
            "pause_collection": null,
            "payment_settings": { "payment_method_options": null, "payment_method_types": null,
                                  "save_default_payment_method": self.save_default },
            "pending_invoice_item_interval": null,
            "pending_setup_intent": null,
            "pending_update": null,
            "schedule": null,
            "start_date": self.created,
            "status": self.status.word(),
            "test_clock": self.test_clock,
            "transfer_data": null,
            "trial_end": self.trial.map(|trial| trial.end),
            "trial_settings": { "end_behavior": { "missing_payment_method": self.missing.word() } },
            "trial_start": self.trial.map(|trial| trial.start),
        })
    }
}

/// What a call says about one price and its quantity.
pub(super) fn checked_price<'a>(
    store: &'a Store,
    id: &str,
    param: &str,
    currency: Option<&str>,
) -> Result<&'a Price, ApiError> {
    let price = store.prices.refer(id, param)?;
    let refuse = |message: String| Err(ApiError::invalid(message).param(param).executed());
    if !price.is_active() {
        return refuse(format!("The price specified is inactive. This field only accepts active prices. ({id})"));
    }
    if !price.is_recurring() {
        return refuse(
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`."
                .into(),
        );
    }
    match currency {
        Some(currency) if currency != price.currency => refuse(format!(
            "The price specified only supports `{}`. This doesn't match the expected currency: `{currency}`.",
            price.currency
        )),
        Some(_) | None => Ok(price),
    }
}

/// A metered item has no quantity; a licensed one has 1 unless it says more.
pub(super) fn checked_quantity(price: &Price, quantity: Option<i64>, param: &str) -> Result<i64, ApiError> {
    match (price.usage_type(), quantity) {
        (UsageType::Metered, Some(_)) => {
            let message = "You cannot set the quantity for metered prices.";
            Err(ApiError::invalid(message).param(param).executed())
        }
        (UsageType::Metered, None) => Ok(1),
        (UsageType::Licensed, quantity) => match quantity.unwrap_or(1) {
            negative if negative < 0 => {
                Err(ApiError::invalid(format!("Invalid non-negative integer: {negative}")).param(param))
            }
            fine => Ok(fine),
        },
    }
}

impl Store {
    /// Enters when the subscription is due next.
    pub(super) fn schedule_subscription(&mut self, id: &str) {
        if let Some(subscription) = self.subscriptions.get(id) {
            let (scope, at) = (subscription.scope(), subscription.next_due());
            self.agenda.set(&scope, super::agenda::Job::Subscription(id.to_owned()), at);
        }
    }

    /// The subscription that has this item.
    pub(super) fn home_of(&self, item: &str) -> Option<&Subscription> {
        self.subscriptions.get(self.item_homes.get(item)?)
    }
}
