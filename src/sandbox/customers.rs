//! `/v1/customers`

use serde::Serialize;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::params::{Change, Metadata, Params, TEXT, merge_metadata};
use super::payment_methods::{attach_to, owned};
use super::shelf::{Created, Cursor, list};
use super::store::{Call, Store};
use super::subscriptions::Subscription;

const ADDRESS: &[&str] = &["city", "country", "line1", "line2", "postal_code", "state"];
const TAX_EXEMPT: &[(&str, &str)] = &[("exempt", "exempt"), ("none", "none"), ("reverse", "reverse")];
/// What Stripe knows and comes here with sources and taxes.
const NOT_YET: &[&str] = &["cash_balance", "source", "tax", "tax_id_data", "default_source", "card"];

/// A customer, as Stripe shows it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Customer {
    id: String,
    object: &'static str,
    address: Option<Value>,
    pub(super) balance: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    business_name: Option<String>,
    created: i64,
    currency: Option<String>,
    default_source: Option<String>,
    pub(super) delinquent: bool,
    description: Option<String>,
    discount: Option<Value>,
    pub(super) email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    individual_name: Option<String>,
    pub(super) invoice_prefix: Option<String>,
    invoice_settings: InvoiceSettings,
    livemode: bool,
    metadata: Metadata,
    pub(super) name: Option<String>,
    pub(super) next_invoice_sequence: i64,
    phone: Option<String>,
    preferred_locales: Vec<String>,
    shipping: Option<Value>,
    tax_exempt: &'static str,
    test_clock: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct InvoiceSettings {
    custom_fields: Option<Value>,
    default_payment_method: Option<String>,
    footer: Option<String>,
    rendering_options: Option<Value>,
}

impl Customer {
    fn new(id: String, now_s: i64) -> Self {
        // As Stripe's, 8 capitals and digits: here the id's own end, so that it is unique.
        let prefix = id.get(id.len().saturating_sub(8)..).map(str::to_ascii_uppercase);
        Self {
            id,
            object: "customer",
            address: None,
            balance: 0,
            business_name: None,
            created: now_s,
            currency: None,
            default_source: None,
            delinquent: false,
            description: None,
            discount: None,
            email: None,
            individual_name: None,
            invoice_prefix: prefix,
            invoice_settings: InvoiceSettings::default(),
            livemode: false,
            metadata: Metadata::new(),
            name: None,
            next_invoice_sequence: 1,
            phone: None,
            preferred_locales: Vec::new(),
            shipping: None,
            tax_exempt: "none",
            test_clock: None,
        }
    }

    /// Takes every parameter that create and update share.
    fn change(&mut self, params: &mut Params) -> Result<(), ApiError> {
        params.unsupported(NOT_YET)?;
        params.clearable_text("business_name", 150)?.apply(&mut self.business_name);
        params.clearable_text("description", TEXT)?.apply(&mut self.description);
        email(params)?.apply(&mut self.email);
        params.clearable_text("individual_name", 150)?.apply(&mut self.individual_name);
        params.text("invoice_prefix", 12)?.map_or(Change::Keep, Change::Set).apply(&mut self.invoice_prefix);
        params.clearable_text("name", 256)?.apply(&mut self.name);
        params.clearable_text("phone", 20)?.apply(&mut self.phone);
        self.balance = params.integer("balance")?.unwrap_or(self.balance);
        self.next_invoice_sequence = params.integer("next_invoice_sequence")?.unwrap_or(self.next_invoice_sequence);
        if let Some(locales) = params.texts("preferred_locales", TEXT)? {
            self.preferred_locales = locales;
        }
        self.tax_exempt = params.choice("tax_exempt", TAX_EXEMPT)?.unwrap_or(self.tax_exempt);
        self.change_nested(params)?;
        merge_metadata(&mut self.metadata, params.metadata()?)
    }

    fn change_nested(&mut self, params: &mut Params) -> Result<(), ApiError> {
        address(params)?.apply(&mut self.address);
        match params.clearable_object("shipping")? {
            Change::Keep => {}
            Change::Clear => self.shipping = None,
            Change::Set(inner) => self.shipping = Some(shipping(inner)?),
        }
        if let Some(mut inner) = params.object("invoice_settings")? {
            inner.unsupported(&["custom_fields", "rendering_options"])?;
            inner
                .clearable_text("default_payment_method", TEXT)?
                .apply(&mut self.invoice_settings.default_payment_method);
            inner.clearable_text("footer", TEXT)?.apply(&mut self.invoice_settings.footer);
            inner.finish()?;
        }
        Ok(())
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn test_clock(&self) -> Option<&str> {
        self.test_clock.as_deref()
    }

    pub(super) fn default_payment_method(&self) -> Option<&String> {
        self.invoice_settings.default_payment_method.as_ref()
    }

    /// Charges go to this payment method from now on.
    pub(super) fn set_default_payment_method(&mut self, id: String) {
        self.invoice_settings.default_payment_method = Some(id);
    }

    /// A payment method was detached.
    pub(super) fn forget_payment_method(&mut self, id: &str) {
        self.invoice_settings.default_payment_method.take_if(|default| default == id);
    }

    pub(super) fn shown(&self) -> Value {
        json!(self)
    }
}

/// A customer made by a hosted page; its id is the answer.
pub(super) fn make(store: &mut Store, email: Option<&str>) -> Result<String, ApiError> {
    let mut customer = Customer::new(store.ids.make("cus"), store.now_s);
    customer.email = email.map(str::to_owned);
    let id = customer.id.clone();
    store.customers.put(id.clone(), customer)?;
    store.announce_object("customer.created", &id);
    Ok(id)
}

/// `POST /v1/customers`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let test_clock = call.params.text("test_clock", TEXT)?;
    if let Some(clock) = &test_clock {
        store.test_clocks.refer(clock, "test_clock")?;
    }
    let method = call.params.text("payment_method", TEXT)?;
    let mut customer = Customer::new(store.ids.make("cus"), store.time_on(test_clock.as_deref()));
    customer.test_clock = test_clock;
    customer.change(&mut call.params)?;
    call.finish()?;
    let given = customer.invoice_settings.default_payment_method.take();
    let id = customer.id.clone();
    store.customers.put(id.clone(), customer)?;
    if let Err(refused) = first_methods(store, &id, method.as_ref(), given) {
        // A card that is refused leaves no customer behind.
        store.customers.take(&id, "id")?;
        return Err(refused);
    }
    store.customers.need(&id, "id").map(Customer::shown)
}

/// The payment method a customer is made with, and its default one, which may be the same.
fn first_methods(
    store: &mut Store,
    id: &str,
    method: Option<&String>,
    default: Option<String>,
) -> Result<(), ApiError> {
    let attached = method.map(|method| attach_to(store, method, id)).transpose()?;
    let default = match default {
        Some(default) if Some(&default) == method => attached,
        Some(default) => Some(owned(store, &default, id, DEFAULT_METHOD)?),
        None => None,
    };
    if let Some(default) = default {
        store.customers.need_mut(id, "id")?.set_default_payment_method(default);
    }
    Ok(())
}

const DEFAULT_METHOD: &str = "invoice_settings[default_payment_method]";

/// `GET /v1/customers/{customer}`; a deleted one is shown as such.
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    match store.customers.get(id) {
        Some(customer) => Ok(customer.shown()),
        None if store.customers.knows(id) => Ok(deleted(id)),
        None => Err(ApiError::no_such("customer", id, "id")),
    }
}

/// `POST /v1/customers/{customer}`
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let mut changed = store.customers.need(id, "id")?.clone();
    let before = changed.invoice_settings.default_payment_method.clone();
    changed.change(&mut call.params)?;
    call.finish()?;
    if let Some(method) = changed.default_payment_method().filter(|method| Some(*method) != before.as_ref()).cloned() {
        changed.set_default_payment_method(owned(store, &method, id, DEFAULT_METHOD)?);
    }
    let customer = store.customers.need_mut(id, "id")?;
    *customer = changed;
    Ok(customer.shown())
}

/// `DELETE /v1/customers/{customer}`
pub(super) fn delete(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    remove(store, id)?;
    Ok(deleted(id))
}

/// Deletes a customer: its subscriptions end at once, without a last invoice.
pub(super) fn remove(store: &mut Store, id: &str) -> Result<(), ApiError> {
    store.customers.need(id, "id")?;
    let live = |subscription: &&Subscription| subscription.customer == id && !subscription.status.is_over();
    let live: Vec<String> =
        store.subscriptions.iter().filter(live).map(|subscription| subscription.id.clone()).collect();
    for subscription in live {
        super::subscription_end::end_without_invoice(store, &subscription)?;
    }
    store.customers.take(id, "id").map(drop)
}

/// `GET /v1/customers`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let clock = call.params.text("test_clock", TEXT)?;
    let (cursor, created) = (Cursor::take(&mut call.params)?, Created::take(&mut call.params)?);
    let email = call.params.text("email", 512)?;
    call.finish()?;
    let keep = |c: &Customer| {
        created.holds(c.created) && (email.is_none() || c.email == email) && (clock.is_none() || c.test_clock == clock)
    };
    let (page, more) = store.customers.page(&cursor, keep)?;
    Ok(list("/v1/customers", page.into_iter().map(Customer::shown), more))
}

fn deleted(id: &str) -> Value {
    json!({ "id": id, "object": "customer", "deleted": true })
}

fn email(params: &mut Params) -> Result<Change<String>, ApiError> {
    let change = params.clearable_text("email", 512)?;
    match &change {
        Change::Set(email) if !email.contains('@') || email.contains(char::is_whitespace) => {
            Err(ApiError::invalid(format!("Invalid email address: {email}")).code("email_invalid").param("email"))
        }
        Change::Set(_) | Change::Keep | Change::Clear => Ok(change),
    }
}

fn address(params: &mut Params) -> Result<Change<Value>, ApiError> {
    Ok(match params.flat("address", ADDRESS)? {
        Change::Keep => Change::Keep,
        Change::Clear => Change::Clear,
        Change::Set(texts) => Change::Set(every_line(&texts)),
    })
}

fn shipping(mut params: Params) -> Result<Value, ApiError> {
    let name = params.required_text("name", TEXT)?;
    let phone = params.text("phone", TEXT)?;
    let Change::Set(address) = address(&mut params)? else {
        return Err(ApiError::missing("shipping[address]"));
    };
    params.finish()?;
    Ok(json!({ "name": name, "phone": phone, "address": address }))
}

/// An address shows all of its lines, `null` where there is nothing.
fn every_line(texts: &Metadata) -> Value {
    ADDRESS.iter().map(|line| ((*line).to_owned(), json!(texts.get(*line)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::desk::Desk;

    #[test]
    fn a_customer_is_made_changed_and_deleted() {
        let mut desk = Desk::new();
        let id = desk.make("/v1/customers", "name=Acme&email=ops@acme.test&metadata[tenant]=acme&address[city]=Bonn");
        let url = format!("/v1/customers/{id}");
        let (_, changed) = desk.post(&url, "name=&metadata[plan]=pro&description=x");
        assert_eq!(changed["name"], Value::Null);
        assert_eq!(changed["metadata"], json!({ "tenant": "acme", "plan": "pro" }));
        assert_eq!((&changed["address"]["city"], &changed["address"]["line1"]), (&json!("Bonn"), &Value::Null));
        assert_eq!(desk.delete(&url).1, deleted(&id));
        assert_eq!(desk.get(&url), (200, deleted(&id)));
        assert_eq!(desk.post(&url, "name=b").0, 404);
        assert_eq!(desk.get("/v1/customers").1["data"], json!([]));
    }

    #[test]
    fn a_refused_update_changes_nothing() {
        let mut desk = Desk::new();
        let id = desk.make("/v1/customers", "name=Acme");
        let url = format!("/v1/customers/{id}");
        let (status, refused) = desk.post(&url, "name=Other&colour=red");
        assert_eq!((status, &refused["error"]["code"]), (400, &json!("parameter_unknown")));
        assert_eq!(desk.post(&url, "name=Other&email=nobody").1["error"]["code"], "email_invalid");
        assert_eq!(desk.get(&url).1["name"], "Acme");
    }

    #[test]
    fn customers_are_found_by_email() {
        let mut desk = Desk::new();
        desk.make("/v1/customers", "email=a@x.test");
        let b = desk.make("/v1/customers", "email=b@x.test");
        let (_, found) = desk.get("/v1/customers?email=b%40x.test");
        assert_eq!((found["data"].as_array().unwrap().len(), &found["data"][0]["id"]), (1, &json!(b)));
    }
}
