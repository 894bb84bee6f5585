//! `/v1/subscription_items/{id}/usage_records` and their summaries, as they were before `2025-03-31.basil`.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::cycle::Period;
use super::errors::ApiError;
use super::params::TEXT;
use super::shelf::{Cursor, list};
use super::store::{Call, Store};

const ACTIONS: &[(&str, Action)] = &[("increment", Action::Increment), ("set", Action::Set)];
/// Records of all items together.
const MAX_RECORDS: usize = 1_000_000;
/// Timestamps may lie this far ahead.
const AHEAD_S: i64 = 5 * 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Increment,
    Set,
}

/// Every item's records: by second, what they add up to.
#[derive(Debug, Default)]
pub(super) struct Records {
    by_item: HashMap<String, BTreeMap<i64, i64>>,
    seconds: usize,
}

impl Records {
    /// What an item used in a period.
    pub(super) fn total(&self, item: &str, span: Period) -> i64 {
        let seconds = self.by_item.get(item);
        seconds.map_or(0, |seconds| {
            seconds.range(span.start..span.end.max(span.start)).map(|(_, quantity)| quantity).sum()
        })
    }

    fn add(&mut self, item: &str, at: i64, quantity: i64, action: Action) -> Result<i64, ApiError> {
        if self.seconds >= MAX_RECORDS {
            return Err(ApiError::full("usage records", MAX_RECORDS));
        }
        let seconds = self.by_item.entry(item.to_owned()).or_default();
        self.seconds += usize::from(!seconds.contains_key(&at));
        let sum = seconds.entry(at).or_default();
        *sum = match action {
            Action::Increment => sum.saturating_add(quantity),
            Action::Set => quantity,
        };
        Ok(*sum)
    }
}

/// `POST /v1/subscription_items/{subscription_item}/usage_records`
pub(super) fn create(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let params = &mut call.params;
    let quantity = params.integer("quantity")?.ok_or_else(|| ApiError::missing("quantity"))?;
    let action = params.choice("action", ACTIONS)?.unwrap_or(Action::Increment);
    let timestamp = params.text("timestamp", TEXT)?;
    call.finish()?;
    if quantity < 0 {
        return Err(ApiError::invalid(format!("Invalid non-negative integer: {quantity}")).param("quantity"));
    }
    let home = store.home_of(id).ok_or_else(|| ApiError::no_such("subscription item", id, "subscription_item"))?;
    let now = store.time_of(Some(&home.customer));
    let Some(item) = home.items.iter().find(|item| item.id == id) else {
        return Err(ApiError::no_such("subscription item", id, "subscription_item"));
    };
    check_metered(store, &item.price)?;
    let at = moment(timestamp.as_deref(), now)?;
    if at < item.period.start || at > now + AHEAD_S {
        let message = format!(
            "Cannot create the usage record with this timestamp because timestamps must be after the subscription's last \
             invoice period (or current period start time). ({} to {})",
            item.period.start,
            now + AHEAD_S
        );
        return Err(ApiError::invalid(message).code("timestamp_invalid").param("timestamp").executed());
    }
    store.records.add(id, at, quantity, action)?;
    let record = store.ids.make("mbur");
    Ok(json!({ "id": record, "object": "usage_record", "livemode": false, "quantity": quantity,
               "subscription_item": id, "timestamp": at }))
}

fn moment(text: Option<&str>, now: i64) -> Result<i64, ApiError> {
    match text {
        None | Some("now") => Ok(now),
        Some(text) => {
            text.parse().map_err(|_| ApiError::invalid(format!("Invalid integer: {text}")).param("timestamp"))
        }
    }
}

fn check_metered(store: &Store, price: &str) -> Result<(), ApiError> {
    let price = store.prices.refer(price, "subscription_item")?;
    let message = if price.meter().is_some() {
        "Cannot create a usage record for a subscription item with a meter-backed price. Call /v1/billing/meter_events instead."
    } else if price.is_metered() {
        return Ok(());
    } else {
        "Cannot create a usage record because the subscription item's price is not metered."
    };
    Err(ApiError::invalid(message).executed())
}

/// `GET /v1/subscription_items/{subscription_item}/usage_record_summaries`: the current period.
pub(super) fn summaries(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    Cursor::take(&mut call.params)?;
    call.finish()?;
    let home = store.home_of(id).ok_or_else(|| ApiError::no_such("subscription item", id, "subscription_item"))?;
    let item = home.items.iter().find(|item| item.id == id);
    let shown = item.map(|item| {
        json!({
            "id": format!("sis_{}_{}", item.id, item.period.start),
            "object": "usage_record_summary",
            "invoice": null,
            "livemode": false,
            "period": { "end": item.period.end, "start": item.period.start },
            "subscription_item": id,
            "total_usage": store.records.total(id, item.period),
        })
    });
    Ok(list(&format!("/v1/subscription_items/{id}/usage_record_summaries"), shown, false))
}
