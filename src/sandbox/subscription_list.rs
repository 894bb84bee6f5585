//! Subscriptions, looked at.

use serde_json::Value;

use super::errors::ApiError;
use super::params::TEXT;
use super::shelf::{Created, Cursor, list};
use super::store::{Call, Store};
use super::subscriptions::{Collection, Status, Subscription};

/// Which states a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    NotCanceled,
    Ended,
    Only(Status),
}

impl Wanted {
    fn read(word: Option<&str>) -> Result<Self, ApiError> {
        match word {
            None => Ok(Self::NotCanceled),
            Some("all") => Ok(Self::All),
            Some("ended") => Ok(Self::Ended),
            Some(word) => {
                let found = Status::TABLE.iter().find(|(known, _)| *known == word);
                let refuse = || ApiError::invalid(format!("Invalid status: {word}")).param("status");
                found.map(|(_, status)| Self::Only(*status)).ok_or_else(refuse)
            }
        }
    }

    fn holds(self, status: Status) -> bool {
        match self {
            Self::All => true,
            Self::NotCanceled => status != Status::Canceled,
            Self::Ended => status.is_over(),
            Self::Only(only) => status == only,
        }
    }
}

/// `GET /v1/subscriptions/{id}`: also when it is over.
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.subscriptions.need(id, "id").map(|subscription| subscription.shown(store))
}

/// `GET /v1/subscriptions`: without the cancelled ones, unless they are asked for.
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    params.unsupported(&["automatic_tax", "current_period_end", "current_period_start"])?;
    let (cursor, created) = (Cursor::take(params)?, Created::take(params)?);
    let wanted = Wanted::read(params.text("status", TEXT)?.as_deref())?;
    let (customer, price) = (params.text("customer", TEXT)?, params.text("price", TEXT)?);
    let collection = params.choice("collection_method", Collection::TABLE)?;
    let clock = params.text("test_clock", TEXT)?;
    call.finish()?;
    let keep = |subscription: &Subscription| {
        created.holds(subscription.created)
            && wanted.holds(subscription.status)
            && customer.as_ref().is_none_or(|customer| subscription.customer == *customer)
            && price.as_ref().is_none_or(|price| subscription.items.iter().any(|item| item.price == *price))
            && collection.is_none_or(|collection| subscription.collection == collection)
            && (clock.is_none() || subscription.test_clock == clock)
    };
    let (page, more) = store.subscriptions.page(&cursor, keep)?;
    Ok(list("/v1/subscriptions", page.into_iter().map(|subscription| subscription.shown(store)), more))
}
