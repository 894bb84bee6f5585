//! `/v1/setup_intents`: a card is saved for later charges.

use serde_json::{Value, json};

use super::cards::{Decline, Outcome};
use super::errors::ApiError;
use super::params::{Metadata, Params, TEXT, merge_metadata};
use super::payment_methods::{attach_to, materialize};
use super::shelf::{Created, Cursor, list};
use super::store::{Call, Store};

const USAGES: &[(&str, &str)] = &[("off_session", "off_session"), ("on_session", "on_session")];
const REASONS: &[(&str, &str)] =
    &[("abandoned", "abandoned"), ("duplicate", "duplicate"), ("requested_by_customer", "requested_by_customer")];
const REDIRECTS: &[(&str, &str)] = &[("always", "always"), ("never", "never")];
const NOT_YET: &[&str] =
    &["attach_to_self", "confirmation_token", "mandate_data", "payment_method_data", "single_use", "on_behalf_of"];

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    NeedsMethod,
    NeedsConfirmation,
    NeedsAction,
    Succeeded,
    Canceled,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::NeedsMethod => "requires_payment_method",
            Self::NeedsConfirmation => "requires_confirmation",
            Self::NeedsAction => "requires_action",
            Self::Succeeded => "succeeded",
            Self::Canceled => "canceled",
        }
    }
}

/// A setup intent.
#[derive(Clone, Debug)]
pub(super) struct SetupIntent {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) customer: Option<String>,
    payment_method: Option<String>,
    status: Status,
    usage: &'static str,
    description: Option<String>,
    metadata: Metadata,
    automatic: Option<&'static str>,
    types: Vec<String>,
    failed: Option<Decline>,
    reason: Option<&'static str>,
    pub(super) return_url: Option<String>,
}

impl SetupIntent {
    fn read(store: &mut Store, params: &mut Params) -> Result<Self, ApiError> {
        params.unsupported(NOT_YET)?;
        let customer = params.text("customer", TEXT)?;
        if let Some(id) = &customer {
            store.customers.refer(id, "customer")?;
        }
        let automatic = params.object("automatic_payment_methods")?.map(automatic).transpose()?;
        Ok(Self {
            id: store.ids.make("seti"),
            created: store.time_of(customer.as_deref()),
            customer,
            payment_method: None,
            status: Status::NeedsMethod,
            usage: params.choice("usage", USAGES)?.unwrap_or("off_session"),
            description: params.text("description", 1_000)?,
            metadata: Metadata::new(),
            automatic: automatic.flatten(),
            types: params.texts("payment_method_types", TEXT)?.unwrap_or_else(|| vec!["card".to_owned()]),
            failed: None,
            reason: None,
            return_url: params.text("return_url", TEXT)?,
        })
    }

    pub(super) fn shown(&self, base_url: &str) -> Value {
        let secret = format!("{}_secret_{}", self.id, self.id.len() * 7_919);
        let action = (self.status == Status::NeedsAction).then(|| {
            let url = format!("{base_url}/c/authenticate/{}", self.id);
            json!({ "type": "redirect_to_url", "redirect_to_url": { "return_url": self.return_url, "url": url } })
        });
        let error = self.failed.map(|failed| failed.error().body()["error"].clone());
        json!({
            "id": self.id,
            "object": "setup_intent",
            "application": null,
            "automatic_payment_methods":
                self.automatic.map(|redirects| json!({ "allow_redirects": redirects, "enabled": true })),
            "cancellation_reason": self.reason,
            "client_secret": secret,
            "created": self.created,
            "customer": self.customer,
            "description": self.description,
            "flow_directions": null,
            "last_setup_error": error,
            "latest_attempt": null,
            "livemode": false,
            "mandate": null,
            "metadata": self.metadata,
            "next_action": action,
            "on_behalf_of": null,
            "payment_method": self.payment_method,
            "payment_method_options": { "card": { "mandate_options": null, "network": null,
                                                  "request_three_d_secure": "automatic" } },
            "payment_method_types": self.types,
            "single_use_mandate": null,
            "status": self.status.word(),
            "usage": self.usage,
        })
    }
}

fn automatic(mut params: Params) -> Result<Option<&'static str>, ApiError> {
    let enabled = params.boolean("enabled")?.ok_or_else(|| ApiError::missing(&params.name("enabled")))?;
    let redirects = params.choice("allow_redirects", REDIRECTS)?.unwrap_or("always");
    params.finish().map(|()| enabled.then_some(redirects))
}

/// `POST /v1/setup_intents`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let mut intent = SetupIntent::read(store, &mut call.params)?;
    let (method, confirm) = (call.params.text("payment_method", TEXT)?, call.params.boolean("confirm")?);
    call.params.boolean("use_stripe_sdk")?;
    merge_metadata(&mut intent.metadata, call.params.metadata()?)?;
    call.finish()?;
    if let Some(method) = method {
        intent.payment_method = Some(materialize(store, &method)?);
        intent.status = Status::NeedsConfirmation;
    }
    let id = intent.id.clone();
    store.setup_intents.put(id.clone(), intent)?;
    store.announce_object("setup_intent.created", &id);
    if confirm == Some(true) {
        return run(store, &id);
    }
    retrieve_shown(store, &id)
}

/// `GET /v1/setup_intents/{intent}`
pub(super) fn retrieve(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    call.params.text("client_secret", TEXT)?;
    call.finish()?;
    retrieve_shown(store, id)
}

fn retrieve_shown(store: &Store, id: &str) -> Result<Value, ApiError> {
    store.setup_intents.need(id, "intent").map(|intent| intent.shown(&store.base_url))
}

/// `POST /v1/setup_intents/{intent}`
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let mut changed = store.setup_intents.need(id, "intent")?.clone();
    call.params.unsupported(NOT_YET)?;
    call.params.clearable_text("description", 1_000)?.apply(&mut changed.description);
    merge_metadata(&mut changed.metadata, call.params.metadata()?)?;
    let (customer, method) = (call.params.text("customer", TEXT)?, call.params.text("payment_method", TEXT)?);
    call.finish()?;
    if let Some(customer) = customer {
        store.customers.refer(&customer, "customer")?;
        changed.customer = Some(customer);
    }
    if let Some(method) = method {
        changed.payment_method = Some(materialize(store, &method)?);
        changed.status = Status::NeedsConfirmation;
    }
    *store.setup_intents.need_mut(id, "intent")? = changed;
    retrieve_shown(store, id)
}

/// `POST /v1/setup_intents/{intent}/confirm`
pub(super) fn confirm(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    call.params.unsupported(&["confirmation_token", "payment_method_data", "mandate_data"])?;
    let method = call.params.text("payment_method", TEXT)?;
    let (return_url, _) = (call.params.text("return_url", TEXT)?, call.params.boolean("use_stripe_sdk")?);
    call.params.text("client_secret", TEXT)?;
    call.finish()?;
    let intent = store.setup_intents.need(id, "intent")?;
    if matches!(intent.status, Status::Succeeded | Status::Canceled) {
        return Err(unexpected(intent.status));
    }
    let method = method.map(|method| materialize(store, &method)).transpose()?;
    let intent = store.setup_intents.need_mut(id, "intent")?;
    intent.payment_method = method.or_else(|| intent.payment_method.take());
    intent.return_url = return_url.or_else(|| intent.return_url.take());
    run(store, id)
}

/// `POST /v1/setup_intents/{intent}/cancel`
pub(super) fn cancel(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let reason = call.params.choice("cancellation_reason", REASONS)?;
    call.finish()?;
    let intent = store.setup_intents.need_mut(id, "intent")?;
    if matches!(intent.status, Status::Succeeded | Status::Canceled) {
        return Err(unexpected(intent.status));
    }
    (intent.status, intent.reason) = (Status::Canceled, reason);
    store.announce_object("setup_intent.canceled", id);
    retrieve_shown(store, id)
}

/// `GET /v1/setup_intents`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let (cursor, created) = (Cursor::take(&mut call.params)?, Created::take(&mut call.params)?);
    let (customer, method) = (call.params.text("customer", TEXT)?, call.params.text("payment_method", TEXT)?);
    call.finish()?;
    let keep = |intent: &SetupIntent| {
        created.holds(intent.created)
            && (customer.is_none() || intent.customer == customer)
            && (method.is_none() || intent.payment_method == method)
    };
    let (page, more) = store.setup_intents.page(&cursor, keep)?;
    Ok(list("/v1/setup_intents", page.into_iter().map(|intent| intent.shown(&store.base_url)), more))
}

/// The bank is asked.
fn run(store: &mut Store, id: &str) -> Result<Value, ApiError> {
    let method = store.setup_intents.need(id, "intent")?.payment_method.clone();
    let Some(method) = method else {
        let message = "You cannot confirm this SetupIntent because it's missing a payment method.";
        return Err(ApiError::invalid(message).code("setup_intent_unexpected_state").executed());
    };
    match store.payment_methods.refer(&method, "payment_method")?.card.at_setup {
        Outcome::Fine => succeed(store, id),
        Outcome::NeedsAction => {
            store.setup_intents.need_mut(id, "intent")?.status = Status::NeedsAction;
            store.announce_object("setup_intent.requires_action", id);
            retrieve_shown(store, id)
        }
        Outcome::Declined(decline) => {
            fail(store, id, decline)?;
            Err(decline.error())
        }
    }
}

fn fail(store: &mut Store, id: &str, decline: Decline) -> Result<(), ApiError> {
    let intent = store.setup_intents.need_mut(id, "intent")?;
    (intent.status, intent.failed, intent.payment_method) = (Status::NeedsMethod, Some(decline), None);
    store.announce_object("setup_intent.setup_failed", id);
    Ok(())
}

fn succeed(store: &mut Store, id: &str) -> Result<Value, ApiError> {
    let intent = store.setup_intents.need_mut(id, "intent")?;
    (intent.status, intent.failed) = (Status::Succeeded, None);
    let (customer, method) = (intent.customer.clone(), intent.payment_method.clone());
    let loose = |method: &String| store.payment_methods.get(method).is_some_and(|method| method.customer.is_none());
    if let (Some(customer), Some(method)) = (customer, method.filter(loose)) {
        attach_to(store, &method, &customer)?;
    }
    store.announce_object("setup_intent.succeeded", id);
    retrieve_shown(store, id)
}

/// The intent of a checkout session that only saves a card.
pub(super) fn for_session(store: &mut Store, customer: Option<&str>) -> Result<String, ApiError> {
    let mut intent = SetupIntent::read(store, &mut Params::new(super::form::Form::new()))?;
    intent.customer = customer.map(str::to_owned);
    let id = intent.id.clone();
    store.setup_intents.put(id.clone(), intent)?;
    Ok(id)
}

/// Its page was filled in: the card, already attached, is the intent's.
pub(super) fn complete(store: &mut Store, id: &str, customer: &str, method: &str) -> Result<(), ApiError> {
    let intent = store.setup_intents.need_mut(id, "intent")?;
    (intent.customer, intent.payment_method) = (Some(customer.to_owned()), Some(method.to_owned()));
    succeed(store, id).map(drop)
}

/// The cardholder said yes or no on the bank's page.
pub(super) fn authenticate(store: &mut Store, id: &str, agreed: bool) -> Result<Value, ApiError> {
    let intent = store.setup_intents.need(id, "intent")?;
    if intent.status != Status::NeedsAction {
        return Err(unexpected(intent.status));
    }
    if agreed {
        return succeed(store, id);
    }
    fail(store, id, super::cards::AUTHENTICATION_REQUIRED)?;
    retrieve_shown(store, id)
}

fn unexpected(status: Status) -> ApiError {
    let message = format!("This SetupIntent has a status of {} and cannot be changed this way.", status.word());
    ApiError::invalid(message).code("setup_intent_unexpected_state").executed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::desk::Desk;

    #[test]
    fn a_confirmed_intent_attaches_its_card() {
        let mut desk = Desk::new();
        let customer = desk.make("/v1/customers", "name=a");
        let id = desk.make("/v1/setup_intents", &format!("customer={customer}"));
        let (_, done) = desk.post(&format!("/v1/setup_intents/{id}/confirm"), "payment_method=pm_card_visa");
        assert_eq!(done["status"], "succeeded");
        let (_, mine) = desk.get(&format!("/v1/payment_methods?customer={customer}"));
        assert_eq!(mine["data"][0]["id"], done["payment_method"]);
        assert_eq!(desk.post(&format!("/v1/setup_intents/{id}/cancel"), "").0, 400);
    }

    #[test]
    fn a_declined_card_leaves_the_intent_open_with_its_error() {
        let mut desk = Desk::new();
        let id = desk.make("/v1/setup_intents", "usage=off_session");
        let url = format!("/v1/setup_intents/{id}");
        assert_eq!(desk.post(&format!("{url}/confirm"), "").0, 400);
        assert_eq!(desk.post(&format!("{url}/confirm"), "payment_method=pm_card_chargeDeclined").0, 402);
        let (_, after) = desk.get(&url);
        assert_eq!(after["status"], "requires_payment_method");
        assert_eq!(after["last_setup_error"]["decline_code"], "generic_decline");
        assert_eq!(desk.make(&format!("{url}/cancel"), "cancellation_reason=abandoned"), id);
    }

    #[test]
    fn a_card_that_must_authenticate_waits_for_its_holder() {
        let mut desk = Desk::new();
        let body = "confirm=true&payment_method=pm_card_authenticationRequired&return_url=http://x.test/";
        let (_, waiting) = desk.post("/v1/setup_intents", body);
        assert_eq!(waiting["status"], "requires_action");
        let id = waiting["id"].as_str().unwrap().to_owned();
        let store = &mut desk.engine.store;
        assert_eq!(authenticate(store, &id, false).unwrap()["status"], "requires_payment_method");
        desk.post(&format!("/v1/setup_intents/{id}/confirm"), "payment_method=pm_card_authenticationRequired");
        assert_eq!(authenticate(&mut desk.engine.store, &id, true).unwrap()["status"], "succeeded");
    }
}
