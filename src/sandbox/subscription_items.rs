//! `/v1/subscription_items`

use serde_json::{Value, json};

use super::changes::{Edit, Proration};
use super::errors::ApiError;
use super::params::{Change, Metadata, Params, TEXT};
use super::shelf::{Cursor, From, list};
use super::store::{Call, Store};
use super::subscription_create::Behavior;
use super::subscription_update::{Money, change};

const NOT_YET: &[&str] = &["billing_thresholds", "discounts", "price_data", "tax_rates", "proration_date"];

/// What all three changes say.
struct Request {
    price: Option<String>,
    quantity: Option<i64>,
    metadata: Change<Metadata>,
    how: Proration,
    behavior: Behavior,
}

impl Request {
    fn take(params: &mut Params) -> Result<Self, ApiError> {
        params.unsupported(NOT_YET)?;
        params.boolean("off_session")?;
        params.boolean("clear_usage")?;
        Ok(Self {
            price: params.text("price", TEXT)?,
            quantity: params.integer("quantity")?,
            metadata: params.metadata()?,
            how: params.choice("proration_behavior", Proration::TABLE)?.unwrap_or(Proration::Create),
            behavior: Behavior::take(params)?,
        })
    }

    fn run(self, store: &mut Store, subscription: &str, id: Option<&str>, deleted: bool) -> Result<(), ApiError> {
        let known = store.subscriptions.need(subscription, "subscription")?.clone();
        let now = store.time_of(Some(&known.customer));
        let (price, quantity, metadata) = (self.price, self.quantity, self.metadata);
        let edit = Edit { name: "items[0]".to_owned(), id: id.map(str::to_owned), price, quantity, deleted, metadata };
        let money = Money::of_edits(vec![edit], self.how, now);
        change(store, &known, &known, money, self.behavior, None)
    }
}

/// `POST /v1/subscription_items`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let subscription = call.params.required_text("subscription", TEXT)?;
    let request = Request::take(&mut call.params)?;
    call.finish()?;
    store.subscriptions.refer(&subscription, "subscription")?;
    let price = request.price.clone().ok_or_else(|| ApiError::missing("price"))?;
    request.run(store, &subscription, None, false)?;
    let home = store.subscriptions.need(&subscription, "subscription")?;
    let item = home.items.iter().find(|item| item.price == price);
    Ok(item.map_or(Value::Null, |item| item.shown(store, &subscription)))
}

/// `GET /v1/subscription_items/{item}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.shown(id).ok_or_else(|| ApiError::no_such("subscription item", id, "item"))
}

/// `POST /v1/subscription_items/{item}`
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let request = Request::take(&mut call.params)?;
    call.finish()?;
    let home = home_of(store, id)?;
    request.run(store, &home, Some(id), false)?;
    store.shown(id).ok_or_else(|| ApiError::no_such("subscription item", id, "item"))
}

/// `DELETE /v1/subscription_items/{item}`
pub(super) fn delete(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let request = Request::take(&mut call.params)?;
    call.finish()?;
    let home = home_of(store, id)?;
    request.run(store, &home, Some(id), true)?;
    Ok(json!({ "id": id, "object": "subscription_item", "deleted": true }))
}

fn home_of(store: &Store, id: &str) -> Result<String, ApiError> {
    let home = store.home_of(id).map(|subscription| subscription.id.clone());
    home.ok_or_else(|| ApiError::no_such("subscription item", id, "item"))
}

/// `GET /v1/subscription_items`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let cursor = Cursor::take(&mut call.params)?;
    let subscription = call.params.required_text("subscription", TEXT)?;
    call.finish()?;
    let home = store.subscriptions.refer(&subscription, "subscription")?;
    let place = |id: &String| home.items.iter().position(|item| item.id == *id);
    let (from, to) = match &cursor.from {
        From::Newest => (0, home.items.len()),
        From::After(id) => (place(id).map_or(0, |at| at + 1), home.items.len()),
        From::Before(id) => (0, place(id).unwrap_or(home.items.len())),
    };
    let found = home.items.get(from..to).unwrap_or_default();
    let page = found.iter().take(cursor.limit).map(|item| item.shown(store, &subscription));
    Ok(list("/v1/subscription_items", page, found.len() > cursor.limit))
}
