//! Events about objects that one call makes, changes or deletes, and nothing else does.

use http::Method;
use serde_json::Value;

use super::store::Store;

/// Path segments behind `v1`, and what begins the names of the events.
const NOUNS: &[(&[&str], &str)] = &[
    (&["customers"], "customer"),
    (&["products"], "product"),
    (&["prices"], "price"),
    (&["coupons"], "coupon"),
    (&["promotion_codes"], "promotion_code"),
    (&["billing", "meters"], "billing.meter"),
    (&["payment_methods"], "payment_method"),
    (&["billing_portal", "configurations"], "billing_portal.configuration"),
    (&["billing_portal", "sessions"], "billing_portal.session"),
    (&["invoices"], "invoice"),
];

/// What is to be said if the call succeeds.
#[derive(Debug, Default)]
pub(super) enum Told {
    #[default]
    Nothing,
    Created(&'static str),
    Changed {
        kind: String,
        field: &'static str,
        id: String,
        before: Option<Value>,
    },
    Deleted {
        noun: &'static str,
        before: Option<Value>,
    },
}

/// Looks at the object before the call.
pub(super) fn before(store: &Store, method: &Method, segments: &[&str]) -> Told {
    let Some((noun, rest)) = noun_of(segments) else { return Told::Nothing };
    // Invoices announce themselves, but for plain updates; payment methods when they are attached.
    let made = !matches!(noun, "invoice" | "payment_method");
    match (method.as_str(), rest) {
        ("POST", []) if made => Told::Created(noun),
        ("POST", [id]) if *id != "create_preview" => changed(store, noun, "updated", id),
        ("POST", [id, "detach"]) => changed(store, noun, "detached", id),
        ("POST", [id, "deactivate"]) => changed(store, noun, "deactivated", id),
        ("POST", [id, "reactivate"]) => changed(store, noun, "reactivated", id),
        ("DELETE", [id]) if made => Told::Deleted { noun, before: store.named(noun, id) },
        _ => Told::Nothing,
    }
}

fn changed(store: &Store, noun: &'static str, verb: &str, id: &str) -> Told {
    Told::Changed { kind: format!("{noun}.{verb}"), field: noun, id: id.to_owned(), before: store.named(noun, id) }
}

fn noun_of<'a>(segments: &'a [&'a str]) -> Option<(&'static str, &'a [&'a str])> {
    let rest = segments.strip_prefix(&["v1"])?;
    NOUNS.iter().find_map(|(path, noun)| Some((*noun, rest.strip_prefix(*path)?)))
}

/// Says it.
pub(super) fn after(store: &mut Store, told: Told, answer: &Value) {
    match told {
        Told::Nothing => {}
        Told::Created(noun) => {
            let object = answer["id"].as_str().and_then(|id| store.named(noun, id));
            store.announce(&format!("{noun}.created"), object.unwrap_or_else(|| answer.clone()));
        }
        Told::Changed { kind, field, id, before } => {
            let after = store.named(field, &id);
            store.announce_difference(&kind, after, before.as_ref());
        }
        Told::Deleted { noun, before } => {
            if let Some(before) = before {
                store.announce(&format!("{noun}.deleted"), before);
            }
        }
    }
}
