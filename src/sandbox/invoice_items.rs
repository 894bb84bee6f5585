//! `/v1/invoiceitems`: what waits for the next invoice. Prorations are made by changes; others by hand.

use serde_json::{Value, json};

use super::cycle::Period;
use super::decimal::Decimal;
use super::errors::ApiError;
use super::invoice_lines::Line;
use super::params::{Metadata, TEXT, merge_metadata};
use super::shelf::{Created, Cursor, list};
use super::store::{Call, Store};
use super::subscriptions::Subscription;

/// A line that waits for its invoice.
#[derive(Clone, Debug)]
pub(super) struct InvoiceItem {
    pub(super) id: String,
    pub(super) customer: String,
    pub(super) currency: String,
    pub(super) date: i64,
    pub(super) line: Line,
    pub(super) invoice: Option<String>,
}

impl InvoiceItem {
    pub(super) fn shown(&self, store: &Store) -> Value {
        let line = self.line.shown(store, self.invoice.as_deref(), &self.currency);
        let parent = self.line.subscription.as_ref().map(|id| {
            let mut details = json!({ "subscription": id });
            if let Some(item) = &self.line.item {
                details["subscription_item"] = item.as_str().into();
            }
            json!({ "subscription_details": details, "type": "subscription_details" })
        });
        json!({
            "id": self.id,
            "object": "invoiceitem",
            "amount": self.line.amount,
            "currency": self.currency,
            "customer": self.customer,
            "date": self.date,
            "description": self.line.description,
            "discountable": line["discountable"],
            "discounts": self.line.own_discounts.clone().unwrap_or_default(),
            "invoice": self.invoice,
            "livemode": false,
            "metadata": self.line.metadata,
            "net_amount": self.line.amount,
            "parent": parent,
            "period": line["period"],
            "pricing": line["pricing"],
            "proration": self.line.proration,
            "quantity": self.line.quantity,
            "quantity_decimal": self.line.quantity.to_string(),
            "tax_rates": [],
            "test_clock": store.customers.get(&self.customer).and_then(|customer| customer.test_clock()),
        })
    }
}

/// Makes an item of each line of a subscription's change.
pub(super) fn put_all(store: &mut Store, subscription: &Subscription, lines: Vec<Line>) -> Result<(), ApiError> {
    let date = store.time_of(Some(&subscription.customer));
    for line in lines {
        put(store, &subscription.customer, &subscription.currency, date, line)?;
    }
    Ok(())
}

fn put(store: &mut Store, customer: &str, currency: &str, date: i64, mut line: Line) -> Result<String, ApiError> {
    let id = store.ids.make("ii");
    line.invoice_item = Some(id.clone());
    let (customer, currency) = (customer.to_owned(), currency.to_owned());
    store
        .invoice_items
        .put(id.clone(), InvoiceItem { id: id.clone(), customer, currency, date, line, invoice: None })?;
    store.announce_object("invoiceitem.created", &id);
    Ok(id)
}

/// `POST /v1/invoiceitems`: an amount, or so many units at a unit amount.
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    params.unsupported(&["discounts", "price_data", "pricing", "quantity_decimal", "invoice", "period"])?;
    let customer = params.required_text("customer", TEXT)?;
    let currency = params.text("currency", 3)?.map(|currency| currency.to_ascii_lowercase());
    let (amount, unit) = (params.integer("amount")?, params.decimal("unit_amount_decimal")?);
    let quantity = params.integer("quantity")?.unwrap_or(1);
    let subscription = params.text("subscription", TEXT)?;
    let description = params.text("description", TEXT)?;
    let discountable = params.boolean("discountable")?.unwrap_or(true);
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, params.metadata()?)?;
    call.finish()?;
    store.customers.refer(&customer, "customer")?;
    if let Some(id) = &subscription {
        store.subscriptions.refer(id, "subscription")?;
    }
    let currency = currency.ok_or_else(|| ApiError::missing("currency"))?;
    let (amount, unit) = match (amount, unit) {
        (Some(amount), None) => (amount, None),
        (None, Some(unit)) => (unit.times(quantity), Some(unit)),
        (None, None) | (Some(_), Some(_)) => return Err(ApiError::missing("amount")),
    };
    let date = store.time_of(Some(&customer));
    let line = Line {
        id: String::new(),
        amount,
        description: description.unwrap_or_default(),
        quantity,
        period: Period { start: date, end: date },
        price: None,
        unit: unit.or(Some(Decimal::ZERO)),
        subscription,
        item: None,
        invoice_item: None,
        proration: false,
        own_discounts: (!discountable).then(Vec::new),
        taken: Vec::new(),
        metadata,
    };
    let id = put(store, &customer, &currency, date, line)?;
    store.invoice_items.need(&id, "invoiceitem").map(|item| item.shown(store))
}

/// `GET /v1/invoiceitems/{invoiceitem}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.invoice_items.need(id, "invoiceitem").map(|item| item.shown(store))
}

/// `DELETE /v1/invoiceitems/{invoiceitem}`: only while it is on no invoice.
pub(super) fn delete(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    if store.invoice_items.need(id, "invoiceitem")?.invoice.is_some() {
        let message = "This invoice item is on an invoice already and can no longer be deleted.";
        return Err(ApiError::invalid(message).executed());
    }
    store.announce_object("invoiceitem.deleted", id);
    store.invoice_items.take(id, "invoiceitem")?;
    Ok(json!({ "id": id, "object": "invoiceitem", "deleted": true }))
}

/// `GET /v1/invoiceitems`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    let (cursor, created) = (Cursor::take(params)?, Created::take(params)?);
    let (customer, invoice) = (params.text("customer", TEXT)?, params.text("invoice", TEXT)?);
    let pending = params.boolean("pending")?;
    call.finish()?;
    let keep = |item: &InvoiceItem| {
        created.holds(item.date)
            && customer.as_ref().is_none_or(|customer| item.customer == *customer)
            && (invoice.is_none() || item.invoice == invoice)
            && pending.is_none_or(|pending| item.invoice.is_none() == pending)
    };
    let (page, more) = store.invoice_items.page(&cursor, keep)?;
    Ok(list("/v1/invoiceitems", page.into_iter().map(|item| item.shown(store)), more))
}
