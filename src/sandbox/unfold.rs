//! `expand[]=latest_invoice.payments`: ids become objects, along a path.

use serde_json::Value;

use super::errors::ApiError;
use super::params::{Params, TEXT};
use super::store::Store;

/// Stripe's own limit.
const MAX_DEPTH: usize = 4;
/// Which fields of which objects can be expanded, and what they are then. `*` is a list of it.
const FIELDS: &[(&str, &str, &str)] = &[
    ("billing_portal.session", "configuration", "billing_portal.configuration"),
    ("checkout.session", "customer", "customer"),
    ("checkout.session", "invoice", "invoice"),
    ("checkout.session", "line_items", "*item"),
    ("checkout.session", "setup_intent", "setup_intent"),
    ("checkout.session", "subscription", "subscription"),
    ("coupon", "applies_to", "applies_to"),
    ("customer", "invoice_settings", "invoice_settings"),
    ("customer", "subscriptions", "*subscription"),
    ("customer", "test_clock", "test_helpers.test_clock"),
    ("discount", "customer", "customer"),
    ("discount", "promotion_code", "promotion_code"),
    ("discount", "source", "source"),
    ("invoice", "customer", "customer"),
    ("invoice", "confirmation_secret", "confirmation_secret"),
    ("invoice", "default_payment_method", "payment_method"),
    ("invoice", "discounts", "discount"),
    ("invoice", "lines", "*line_item"),
    ("invoice", "parent", "parent"),
    ("invoice", "payments", "*invoice_payment"),
    ("invoice_payment", "invoice", "invoice"),
    ("invoice_settings", "default_payment_method", "payment_method"),
    ("invoiceitem", "customer", "customer"),
    ("invoiceitem", "invoice", "invoice"),
    ("item", "price", "price"),
    ("line_item", "discounts", "discount"),
    ("line_item", "pricing", "pricing"),
    ("line_item", "subscription", "subscription"),
    ("parent", "subscription_details", "parent"),
    ("parent", "subscription", "subscription"),
    ("payment_method", "customer", "customer"),
    ("price", "product", "product"),
    ("price", "tiers", "tiers"),
    ("pricing", "price_details", "price_details"),
    ("price_details", "price", "price"),
    ("product", "default_price", "price"),
    ("promotion_code", "customer", "customer"),
    ("promotion_code", "promotion", "source"),
    ("setup_intent", "customer", "customer"),
    ("setup_intent", "payment_method", "payment_method"),
    ("source", "coupon", "coupon"),
    ("subscription", "customer", "customer"),
    ("subscription", "default_payment_method", "payment_method"),
    ("subscription", "discounts", "discount"),
    ("subscription", "items", "*subscription_item"),
    ("subscription", "latest_invoice", "invoice"),
    ("subscription", "pending_setup_intent", "setup_intent"),
    ("subscription", "test_clock", "test_helpers.test_clock"),
    ("subscription_item", "discounts", "discount"),
    ("subscription_item", "price", "price"),
];

/// The paths of one call, checked against the kind of its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Paths(Vec<Vec<String>>);

impl Paths {
    /// Takes `expand`; `kind` is what the call answers with (`*` before it for a list).
    pub(super) fn take(params: &mut Params, kind: &str) -> Result<Self, ApiError> {
        let wanted = params.texts("expand", TEXT)?.unwrap_or_default();
        let path = |text: String| {
            let path: Vec<String> = text.split('.').map(str::to_owned).collect();
            if path.len() <= MAX_DEPTH + 1 && leads_somewhere(kind, &path) {
                return Ok(path);
            }
            Err(ApiError::invalid(format!("This property cannot be expanded ({text}).")).param("expand"))
        };
        wanted.into_iter().map(path).collect::<Result<_, _>>().map(Self)
    }

    /// Expands an answer.
    pub(super) fn apply(&self, store: &Store, answer: &mut Value) {
        for path in &self.0 {
            unfold(store, answer, path);
        }
    }
}

fn leads_somewhere(kind: &str, path: &[String]) -> bool {
    let Some((field, rest)) = path.split_first() else { return true };
    if let Some(inner) = kind.strip_prefix('*') {
        return field == "data" && leads_somewhere(inner, rest);
    }
    let target = FIELDS.iter().find(|(known, name, _)| *known == kind && name == field).map(|(_, _, target)| *target);
    target.is_some_and(|target| leads_somewhere(target, rest))
}

fn unfold(store: &Store, at: &mut Value, path: &[String]) {
    let Some((field, rest)) = path.split_first() else { return };
    if let Value::Array(items) = at {
        for item in items {
            unfold(store, item, path);
        }
        return;
    }
    if at.get(field).is_none()
        && let Some(hidden) = store.hidden(at, field)
    {
        at[field.as_str()] = hidden;
    }
    let Some(inner) = at.get_mut(field) else { return };
    replace(store, inner, field);
    unfold(store, inner, rest);
}

/// An id becomes what it names, also in an array.
fn replace(store: &Store, value: &mut Value, field: &str) {
    match value {
        Value::String(id) => {
            if let Some(object) = store.named(field, id) {
                *value = object;
            }
        }
        Value::Array(ids) => ids.iter_mut().for_each(|id| replace(store, id, field)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
    }
}
