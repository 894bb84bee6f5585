//! Which operation a method and path name.

use http::{Method, StatusCode};
use serde_json::Value;

use super::errors::{ApiError, Kind};
use super::form;
use super::meters::Status;
use super::store::{Call, Legacy, Store};
use super::unfold::Paths;
use super::{
    announce, checkout, coupons, customers, events, invoice_api, invoice_items, meter_events, meters, payment_methods,
    portal, portal_configurations, preview, prices, products, promotion_codes, search, setup_intents,
    subscription_create, subscription_end, subscription_items, subscription_list, subscription_update, summaries,
    test_clocks, thin_events, usage_records, webhook_endpoints,
};

/// Carries out one call.
pub(super) fn execute(store: &mut Store, method: &Method, path: &str, mut call: Call) -> Result<Value, ApiError> {
    let decoded = path.split('/').skip(1).map(form::decode).collect::<Result<Vec<_>, _>>();
    let decoded = decoded.map_err(|error| ApiError::invalid(error.to_string()))?;
    let segments: Vec<&str> = decoded.iter().map(String::as_str).collect();
    if *method == Method::GET && matches!(segments.as_slice(), ["v1", "invoices" | "subscriptions", ..]) {
        store.refresh_drafts();
    }
    let kind = answers_with(method, &segments);
    let paths = kind.map(|kind| Paths::take(&mut call.params, kind)).transpose()?.unwrap_or_default();
    let told = announce::before(store, method, &segments);
    let done = dispatch(store, method, &segments, call).unwrap_or_else(|| Err(unrecognized(method, path)));
    let mut answer = done?;
    announce::after(store, told, &answer);
    paths.apply(store, &mut answer);
    Ok(answer)
}

/// `None`: no such operation.
type Done = Option<Result<Value, ApiError>>;

fn dispatch(store: &mut Store, method: &Method, segments: &[&str], call: Call) -> Done {
    let method = method.as_str();
    match segments {
        ["v1", kind @ ("customers" | "products" | "prices" | "subscriptions" | "invoices"), "search"] => {
            (method == "GET").then(|| search::search(store, call, kind))
        }
        ["v1", "customers", rest @ ..] => customers_path(store, method, rest, call),
        ["v1", "products", rest @ ..] => products_path(store, method, rest, call),
        ["v1", "prices", rest @ ..] => prices_path(store, method, rest, call),
        ["v1", "billing", rest @ ..] => billing_path(store, method, rest, call),
        ["v1", "payment_methods", rest @ ..] => payment_methods_path(store, method, rest, call),
        ["v1", "setup_intents", rest @ ..] => setup_intents_path(store, method, rest, call),
        ["v1", "coupons", rest @ ..] => coupons_path(store, method, rest, call),
        ["v1", "promotion_codes", rest @ ..] => promotion_codes_path(store, method, rest, call),
        ["v1", "subscriptions", rest @ ..] => subscriptions_path(store, method, rest, call),
        ["v1", "subscription_items", rest @ ..] => items_path(store, method, rest, call),
        ["v1", "invoices", rest @ ..] => invoices_path(store, method, rest, call),
        ["v1", "invoiceitems", rest @ ..] => invoice_items_path(store, method, rest, call),
        ["v1", "checkout", "sessions", rest @ ..] => checkout_path(store, method, rest, call),
        ["v1", "billing_portal", rest @ ..] => portal_path(store, method, rest, call),
        ["v1", "webhook_endpoints", rest @ ..] => endpoints_path(store, method, rest, call),
        ["v1", "events", rest @ ..] => events_path(store, method, rest, call),
        ["v1", "test_helpers", "test_clocks", rest @ ..] => clocks_path(store, method, rest, call),
        ["v2", "core", "events", id] if method == "GET" => Some(thin_events::retrieve(store, call, id)),
        _ => None,
    }
}

fn customers_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => customers::create(store, call),
        ("GET", []) => customers::list_all(store, call),
        ("GET", [id]) => customers::retrieve(store, call, id),
        ("POST", [id]) => customers::update(store, call, id),
        ("DELETE", [id]) => customers::delete(store, call, id),
        ("GET", [id, "payment_methods"]) => payment_methods::list_all(store, call, Some(id)),
        ("GET", [id, "payment_methods", method]) => payment_methods::retrieve_of(store, call, id, method),
        _ => return None,
    })
}

fn products_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => products::create(store, call),
        ("GET", []) => products::list_all(store, call),
        ("GET", [id]) => products::retrieve(store, call, id),
        ("POST", [id]) => products::update(store, call, id),
        ("DELETE", [id]) => products::delete(store, call, id),
        _ => return None,
    })
}

fn prices_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => prices::create(store, call),
        ("GET", []) => prices::list_all(store, call),
        ("GET", [id]) => prices::retrieve(store, call, id),
        ("POST", [id]) => prices::update(store, call, id),
        _ => return None,
    })
}

fn billing_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", ["meter_events"]) => meter_events::create(store, call),
        ("POST", ["meter_event_adjustments"]) => meter_events::adjust(store, call),
        ("POST", ["meters"]) => meters::create(store, call),
        ("GET", ["meters"]) => meters::list_all(store, call),
        ("GET", ["meters", id]) => meters::retrieve(store, call, id),
        ("POST", ["meters", id]) => meters::update(store, call, id),
        ("POST", ["meters", id, "deactivate"]) => meters::change_status(store, call, id, Status::Inactive),
        ("POST", ["meters", id, "reactivate"]) => meters::change_status(store, call, id, Status::Active),
        ("GET", ["meters", id, "event_summaries"]) => summaries::list_all(store, call, id),
        _ => return None,
    })
}

fn payment_methods_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => payment_methods::create(store, call),
        ("GET", []) => payment_methods::list_all(store, call, None),
        ("GET", [id]) => payment_methods::retrieve(store, call, id),
        ("POST", [id]) => payment_methods::update(store, call, id),
        ("POST", [id, "attach"]) => payment_methods::attach(store, call, id),
        ("POST", [id, "detach"]) => payment_methods::detach(store, call, id),
        _ => return None,
    })
}

fn setup_intents_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => setup_intents::create(store, call),
        ("GET", []) => setup_intents::list_all(store, call),
        ("GET", [id]) => setup_intents::retrieve(store, call, id),
        ("POST", [id]) => setup_intents::update(store, call, id),
        ("POST", [id, "confirm"]) => setup_intents::confirm(store, call, id),
        ("POST", [id, "cancel"]) => setup_intents::cancel(store, call, id),
        _ => return None,
    })
}

fn coupons_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => coupons::create(store, call),
        ("GET", []) => coupons::list_all(store, call),
        ("GET", [id]) => coupons::retrieve(store, call, id),
        ("POST", [id]) => coupons::update(store, call, id),
        ("DELETE", [id]) => coupons::delete(store, call, id),
        _ => return None,
    })
}

fn promotion_codes_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => promotion_codes::create(store, call),
        ("GET", []) => promotion_codes::list_all(store, call),
        ("GET", [id]) => promotion_codes::retrieve(store, call, id),
        ("POST", [id]) => promotion_codes::update(store, call, id),
        _ => return None,
    })
}

fn subscriptions_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => subscription_create::create(store, call),
        ("GET", []) => subscription_list::list_all(store, call),
        ("GET", [id]) => subscription_list::retrieve(store, call, id),
        ("POST", [id]) => subscription_update::update(store, call, id),
        ("DELETE", [id]) => subscription_end::cancel(store, call, id),
        ("POST", [id, "resume"]) => subscription_end::resume(store, call, id),
        _ => return None,
    })
}

fn items_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    let legacy = call.legacy == Legacy::Yes;
    Some(match (method, rest) {
        ("POST", []) => subscription_items::create(store, call),
        ("GET", []) => subscription_items::list_all(store, call),
        ("GET", [id]) => subscription_items::retrieve(store, call, id),
        ("POST", [id]) => subscription_items::update(store, call, id),
        ("DELETE", [id]) => subscription_items::delete(store, call, id),
        ("POST", [id, "usage_records"]) if legacy => usage_records::create(store, call, id),
        ("GET", [id, "usage_record_summaries"]) if legacy => usage_records::summaries(store, call, id),
        _ => return None,
    })
}

fn invoices_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => invoice_api::create(store, call),
        ("GET", []) => invoice_api::list_all(store, call),
        ("POST", ["create_preview"]) => preview::create(store, call),
        ("GET", [id]) => invoice_api::retrieve(store, call, id),
        ("POST", [id]) => invoice_api::update(store, call, id),
        ("DELETE", [id]) => invoice_api::delete(store, call, id),
        ("GET", [id, "lines"]) => invoice_api::lines(store, call, id),
        ("POST", [id, "finalize"]) => invoice_api::finalize(store, call, id),
        ("POST", [id, "pay"]) => invoice_api::pay(store, call, id),
        ("POST", [id, "void"]) => invoice_api::void(store, call, id),
        ("POST", [id, "mark_uncollectible"]) => invoice_api::mark_uncollectible(store, call, id),
        ("POST", [id, "send"]) => invoice_api::send(store, call, id),
        _ => return None,
    })
}

fn invoice_items_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => invoice_items::create(store, call),
        ("GET", []) => invoice_items::list_all(store, call),
        ("GET", [id]) => invoice_items::retrieve(store, call, id),
        ("DELETE", [id]) => invoice_items::delete(store, call, id),
        _ => return None,
    })
}

fn checkout_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => checkout::create(store, call),
        ("GET", []) => checkout::list_all(store, call),
        ("GET", [id]) => checkout::retrieve(store, call, id),
        ("POST", [id]) => checkout::update(store, call, id),
        ("POST", [id, "expire"]) => checkout::expire(store, call, id),
        ("GET", [id, "line_items"]) => checkout::line_items(store, call, id),
        _ => return None,
    })
}

fn portal_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", ["sessions"]) => portal::create(store, call),
        ("POST", ["configurations"]) => portal_configurations::create(store, call),
        ("GET", ["configurations"]) => portal_configurations::list_all(store, call),
        ("GET", ["configurations", id]) => portal_configurations::retrieve(store, call, id),
        ("POST", ["configurations", id]) => portal_configurations::update(store, call, id),
        _ => return None,
    })
}

fn endpoints_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => webhook_endpoints::create(store, call),
        ("GET", []) => webhook_endpoints::list_all(store, call),
        ("GET", [id]) => webhook_endpoints::retrieve(store, call, id),
        ("POST", [id]) => webhook_endpoints::update(store, call, id),
        ("DELETE", [id]) => webhook_endpoints::delete(store, call, id),
        _ => return None,
    })
}

fn events_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("GET", []) => events::list_all(store, call),
        ("GET", [id]) => events::retrieve(store, call, id),
        _ => return None,
    })
}

fn clocks_path(store: &mut Store, method: &str, rest: &[&str], call: Call) -> Done {
    Some(match (method, rest) {
        ("POST", []) => test_clocks::create(store, call),
        ("GET", []) => test_clocks::list_all(store, call),
        ("GET", [id]) => test_clocks::retrieve(store, call, id),
        ("DELETE", [id]) => test_clocks::delete(store, call, id),
        ("POST", [id, "advance"]) => test_clocks::advance(store, call, id),
        _ => return None,
    })
}

/// What an operation answers with, for expansion; `None` where the operation takes `expand` itself.
fn answers_with(method: &Method, segments: &[&str]) -> Option<&'static str> {
    let is_list = *method == Method::GET;
    let (one, many) = match segments {
        ["v1", "customers", _, "payment_methods", ..] | ["v1", "payment_methods", ..] => {
            ("payment_method", "*payment_method")
        }
        ["v1", "products", "search"] => ("product", "*product"),
        ["v1", "prices", "search"] => ("price", "*price"),
        ["v1", "customers", ..] => ("customer", "*customer"),
        ["v1", "setup_intents", ..] => ("setup_intent", "*setup_intent"),
        ["v1", "coupons", ..] => ("coupon", "*coupon"),
        ["v1", "promotion_codes", ..] => ("promotion_code", "*promotion_code"),
        ["v1", "subscriptions", ..] => ("subscription", "*subscription"),
        ["v1", "subscription_items", _, _] => ("usage_record", "*usage_record_summary"),
        ["v1", "subscription_items", ..] => ("subscription_item", "*subscription_item"),
        ["v1", "invoices", _, "lines"] => ("line_item", "*line_item"),
        ["v1", "invoices", ..] => ("invoice", "*invoice"),
        ["v1", "invoiceitems", ..] => ("invoiceitem", "*invoiceitem"),
        ["v1", "checkout", "sessions", _, "line_items"] => ("item", "*item"),
        ["v1", "checkout", ..] => ("checkout.session", "*checkout.session"),
        ["v1", "billing_portal", "sessions"] => ("billing_portal.session", "*billing_portal.session"),
        ["v1", "billing_portal", ..] => ("billing_portal.configuration", "*billing_portal.configuration"),
        ["v1", "webhook_endpoints", ..] => ("webhook_endpoint", "*webhook_endpoint"),
        ["v1", "events", ..] => ("event", "*event"),
        ["v1", "test_helpers", ..] => ("test_helpers.test_clock", "*test_helpers.test_clock"),
        _ => return None,
    };
    let ends_in_list = matches!(
        segments,
        [_, _]
            | ["v1", "checkout", "sessions"]
            | ["v1", "billing_portal", "configurations"]
            | ["v1", "test_helpers", _]
            | [.., "search" | "payment_methods" | "lines" | "line_items" | "usage_record_summaries"]
    );
    Some(if is_list && ends_in_list { many } else { one })
}

fn unrecognized(method: &Method, path: &str) -> ApiError {
    let message = format!("Unrecognized request URL ({method}: {path}), or the sandbox does not have it.");
    ApiError::new(StatusCode::NOT_FOUND, Kind::InvalidRequest, message)
}
