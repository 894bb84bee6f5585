//! `/v1/payment_methods` and a customer's own: test cards only.

use serde_json::{Value, json};

use super::cards::{Card, Decline, Outcome};
use super::errors::ApiError;
use super::params::{Change, Metadata, Params, TEXT, merge_metadata};
use super::shelf::{Cursor, list};
use super::store::{Call, Store};

const ADDRESS: &[&str] = &["city", "country", "line1", "line2", "postal_code", "state"];
const REDISPLAY: &[(&str, &str)] = &[("always", "always"), ("limited", "limited"), ("unspecified", "unspecified")];
const TYPES: &[(&str, ())] = &[("card", ())];

/// A card that was entered.
#[derive(Clone, Debug)]
pub(super) struct PaymentMethod {
    pub(super) id: String,
    pub(super) card: &'static Card,
    /// Whom it is attached to.
    pub(super) customer: Option<String>,
    created: i64,
    exp: (i64, i64),
    billing: Metadata,
    address: Metadata,
    allow_redisplay: &'static str,
    metadata: Metadata,
    /// Its holder authenticated a charge of this second.
    authenticated_at: Option<i64>,
}

impl PaymentMethod {
    fn new(id: String, card: &'static Card, created: i64) -> Self {
        Self {
            id,
            card,
            customer: None,
            created,
            exp: (12, 2034),
            billing: Metadata::new(),
            address: Metadata::new(),
            allow_redisplay: "unspecified",
            metadata: Metadata::new(),
            authenticated_at: None,
        }
    }

    /// Takes every parameter that create and update share.
    fn change(&mut self, params: &mut Params) -> Result<(), ApiError> {
        self.allow_redisplay = params.choice("allow_redisplay", REDISPLAY)?.unwrap_or(self.allow_redisplay);
        if let Some(mut billing) = params.object("billing_details")? {
            for key in ["email", "name", "phone"] {
                match billing.clearable_text(key, TEXT)? {
                    Change::Keep => {}
                    Change::Clear => drop(self.billing.remove(key)),
                    Change::Set(text) => drop(self.billing.insert(key.to_owned(), text)),
                }
            }
            match billing.flat("address", ADDRESS)? {
                Change::Keep => {}
                Change::Clear => self.address.clear(),
                Change::Set(lines) => self.address = lines,
            }
            billing.finish()?;
        }
        merge_metadata(&mut self.metadata, params.metadata()?)
    }

    pub(super) fn shown(&self) -> Value {
        let card = self.card;
        let address: Value = ADDRESS.iter().map(|line| ((*line).to_owned(), json!(self.address.get(*line)))).collect();
        json!({
            "id": self.id,
            "object": "payment_method",
            "allow_redisplay": self.allow_redisplay,
            "billing_details": {
                "address": address,
                "email": self.billing.get("email"),
                "name": self.billing.get("name"),
                "phone": self.billing.get("phone"),
                "tax_id": null,
            },
            "card": {
                "brand": card.brand,
                "checks": { "address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass" },
                "country": "US",
                "display_brand": card.brand,
                "exp_month": self.exp.0,
                "exp_year": self.exp.1,
                "fingerprint": format!("sandbox{}", card.last4()),
                "funding": card.funding,
                "generated_from": null,
                "last4": card.last4(),
                "networks": { "available": [card.brand], "preferred": null },
                "three_d_secure_usage": { "supported": true },
                "wallet": null,
            },
            "created": self.created,
            "customer": self.customer,
            "livemode": false,
            "metadata": self.metadata,
            "type": "card",
        })
    }
}

/// `POST /v1/payment_methods`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    params.required_choice("type", TYPES)?;
    let mut card = params.object("card")?.ok_or_else(|| ApiError::missing("card"))?;
    let (known, exp) = read_card(&mut card)?;
    card.finish()?;
    let mut method = PaymentMethod::new(store.ids.make("pm"), known, store.now_s);
    method.exp = exp;
    method.change(params)?;
    call.finish()?;
    let shown = method.shown();
    store.payment_methods.put(method.id.clone(), method)?;
    Ok(shown)
}

fn read_card(params: &mut Params) -> Result<(&'static Card, (i64, i64)), ApiError> {
    if let Some(token) = params.text("token", TEXT)? {
        let id = token.replacen("tok_", "pm_card_", 1);
        let card = Card::by_test_id(&id).ok_or_else(|| ApiError::no_such_reference("token", &token, "card[token]"))?;
        return Ok((card, (12, 2034)));
    }
    let number = params.required_text("number", TEXT)?;
    let month = params.integer("exp_month")?.ok_or_else(|| ApiError::missing(&params.name("exp_month")))?;
    let year = params.integer("exp_year")?.ok_or_else(|| ApiError::missing(&params.name("exp_year")))?;
    params.text("cvc", 4)?;
    let card = Card::by_number(&number)
        .ok_or_else(|| ApiError::card("Your card number is incorrect.").code("incorrect_number").param("number"))?;
    if !(1..=12).contains(&month) {
        return Err(ApiError::card("Your card's expiration month is invalid.").code("invalid_expiry_month"));
    }
    Ok((card, (month, year)))
}

/// `GET /v1/payment_methods/{payment_method}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.payment_methods.need(id, "payment_method").map(PaymentMethod::shown)
}

/// `POST /v1/payment_methods/{payment_method}`
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let method = store.payment_methods.need_mut(id, "payment_method")?;
    let mut changed = method.clone();
    if let Some(mut card) = call.params.object("card")? {
        changed.exp.0 = card.integer("exp_month")?.unwrap_or(changed.exp.0);
        changed.exp.1 = card.integer("exp_year")?.unwrap_or(changed.exp.1);
        card.finish()?;
    }
    changed.change(&mut call.params)?;
    call.finish()?;
    *method = changed;
    Ok(method.shown())
}

/// `POST /v1/payment_methods/{payment_method}/attach`
pub(super) fn attach(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let customer = call.params.required_text("customer", TEXT)?;
    call.finish()?;
    store.customers.refer(&customer, "customer")?;
    let attached = attach_to(store, id, &customer)?;
    store.payment_methods.need(&attached, "payment_method").map(PaymentMethod::shown)
}

/// `POST /v1/payment_methods/{payment_method}/detach`
pub(super) fn detach(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    let method = store.payment_methods.need_mut(id, "payment_method")?;
    if method.customer.take().is_none() {
        let message = "The payment method you provided is not attached to a customer so detachment is impossible.";
        return Err(ApiError::invalid(message).code("payment_method_unexpected_state").executed());
    }
    let shown = method.shown();
    for customer in store.customers.iter_mut() {
        customer.forget_payment_method(id);
    }
    for subscription in store.subscriptions.iter_mut() {
        subscription.default_payment_method.take_if(|default| default == id);
    }
    Ok(shown)
}

/// `GET /v1/payment_methods` and `GET /v1/customers/{customer}/payment_methods`
pub(super) fn list_all(store: &mut Store, mut call: Call, of: Option<&str>) -> Result<Value, ApiError> {
    let cursor = Cursor::take(&mut call.params)?;
    let customer = match of {
        Some(id) => store.customers.need(id, "customer").map(|_| Some(id.to_owned()))?,
        None => call.params.text("customer", TEXT)?,
    };
    call.params.choice("type", TYPES)?;
    let redisplay = call.params.choice("allow_redisplay", REDISPLAY)?;
    call.finish()?;
    let keep = |method: &PaymentMethod| {
        method.customer.is_some()
            && (customer.is_none() || method.customer == customer)
            && redisplay.is_none_or(|wanted| method.allow_redisplay == wanted)
    };
    let (page, more) = store.payment_methods.page(&cursor, keep)?;
    let url = of.map_or_else(|| "/v1/payment_methods".to_owned(), |id| format!("/v1/customers/{id}/payment_methods"));
    Ok(list(&url, page.into_iter().map(PaymentMethod::shown), more))
}

/// `GET /v1/customers/{customer}/payment_methods/{payment_method}`
pub(super) fn retrieve_of(store: &mut Store, call: Call, customer: &str, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    let method = store.payment_methods.need(id, "payment_method")?;
    if method.customer.as_deref() == Some(customer) {
        return Ok(method.shown());
    }
    Err(ApiError::no_such("payment method", id, "payment_method"))
}

/// Attaches a payment method; `pm_card_…` makes a new one. Its id is the answer.
///
/// # Errors
/// 402 if the bank refuses the card when it is saved.
pub(super) fn attach_to(store: &mut Store, id: &str, customer: &str) -> Result<String, ApiError> {
    let id = materialize(store, id)?;
    let method = store.payment_methods.need_mut(&id, "payment_method")?;
    match method.customer.as_deref() {
        Some(owner) if owner == customer => return Ok(id),
        Some(_) => {
            let message = "The payment method you provided has already been attached to a customer.";
            return Err(ApiError::invalid(message).code("payment_method_unexpected_state").executed());
        }
        None => {}
    }
    if let Outcome::Declined(decline) = method.card.at_setup {
        return Err(decline.error());
    }
    method.customer = Some(customer.to_owned());
    let shown = method.shown();
    store.announce("payment_method.attached", shown);
    Ok(id)
}

/// The payment method a parameter names: one that is there, or a new one for `pm_card_…`.
pub(super) fn materialize(store: &mut Store, id: &str) -> Result<String, ApiError> {
    if let Some(card) = Card::by_test_id(id) {
        return make(store, card);
    }
    store.payment_methods.refer(id, "payment_method").map(|method| method.id.clone())
}

/// A new payment method of a test card, attached to nobody.
pub(super) fn make(store: &mut Store, card: &'static Card) -> Result<String, ApiError> {
    let method = PaymentMethod::new(store.ids.make("pm"), card, store.now_s);
    let id = method.id.clone();
    store.payment_methods.put(id.clone(), method)?;
    Ok(id)
}

/// The payment method a parameter names, which must be the customer's own.
pub(super) fn owned(store: &mut Store, id: &str, customer: &str, param: &str) -> Result<String, ApiError> {
    if Card::by_test_id(id).is_some() {
        return attach_to(store, id, customer);
    }
    let method = store.payment_methods.refer(id, param)?;
    if method.customer.as_deref() == Some(customer) {
        return Ok(method.id.clone());
    }
    let message = format!(
        "The customer does not have a payment method with the ID {id}. The payment method must be attached to the customer."
    );
    Err(ApiError::invalid(message).code("resource_missing").param(param).executed())
}

/// The holder authenticated on the bank's page: a charge of this second passes.
pub(super) fn authenticate(store: &mut Store, id: &str) -> Result<(), ApiError> {
    let now = store.time_of(store.payment_methods.need(id, "payment_method")?.customer.as_deref());
    store.payment_methods.need_mut(id, "payment_method")?.authenticated_at = Some(now);
    Ok(())
}

/// What the bank says to a charge.
pub(super) fn charge(store: &Store, id: &str) -> Result<(), (Decline, &'static str)> {
    let Some(method) = store.payment_methods.get(id) else { return Ok(()) };
    match method.card.at_charge {
        Outcome::Fine => Ok(()),
        Outcome::Declined(decline) => Err((decline, "requires_payment_method")),
        Outcome::NeedsAction if method.authenticated_at == Some(store.time_of(method.customer.as_deref())) => Ok(()),
        Outcome::NeedsAction => Err((super::cards::AUTHENTICATION_REQUIRED, "requires_action")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::desk::Desk;

    #[test]
    fn a_card_is_attached_listed_and_detached() {
        let mut desk = Desk::new();
        let customer = desk.make("/v1/customers", "name=a");
        let id = desk.make("/v1/payment_methods/pm_card_visa/attach", &format!("customer={customer}"));
        assert_ne!(id, "pm_card_visa");
        desk.make(&format!("/v1/customers/{customer}"), &format!("invoice_settings[default_payment_method]={id}"));
        let (_, mine) = desk.get(&format!("/v1/customers/{customer}/payment_methods"));
        assert_eq!((&mine["data"][0]["id"], &mine["data"][0]["card"]["last4"]), (&json!(id), &json!("4242")));
        desk.make(&format!("/v1/payment_methods/{id}/detach"), "");
        assert_eq!(desk.post(&format!("/v1/payment_methods/{id}/detach"), "").0, 400);
        let (_, after) = desk.get(&format!("/v1/customers/{customer}"));
        assert_eq!(after["invoice_settings"]["default_payment_method"], Value::Null);
    }

    #[test]
    fn a_declining_card_is_refused_with_402_and_its_reason() {
        let mut desk = Desk::new();
        let customer = format!("customer={}", desk.make("/v1/customers", "name=a"));
        let (status, refused) =
            desk.post("/v1/payment_methods/pm_card_chargeDeclinedInsufficientFunds/attach", &customer);
        let error = &refused["error"];
        assert_eq!((status, &error["type"], &error["code"]), (402, &json!("card_error"), &json!("card_declined")));
        assert_eq!(error["decline_code"], "insufficient_funds");
        assert_eq!(desk.post("/v1/payment_methods/pm_card_chargeCustomerFail/attach", &customer).0, 200);
    }

    #[test]
    fn a_card_is_made_from_its_number() {
        let mut desk = Desk::new();
        let card = "type=card&card[number]=4242424242424242&card[exp_month]=1&card[exp_year]=2030&card[cvc]=123";
        let id = desk.make("/v1/payment_methods", card);
        assert_eq!(desk.get(&format!("/v1/payment_methods/{id}")).1["card"]["exp_year"], 2030);
        let wrong = card.replace("4242424242424242", "4242");
        assert_eq!(desk.post("/v1/payment_methods", &wrong).1["error"]["code"], "incorrect_number");
    }
}
