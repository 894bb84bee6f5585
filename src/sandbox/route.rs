//! Which operation a method and path name.

use http::{Method, StatusCode};
use serde_json::Value;

use super::errors::{ApiError, Kind};
use super::form;
use super::meters::Status;
use super::store::{Call, Store};
use super::{customers, meter_events, meters, prices, products, summaries};

/// Carries out one call.
pub(super) fn execute(store: &mut Store, method: &Method, path: &str, call: Call) -> Result<Value, ApiError> {
    let decoded = path.split('/').skip(1).map(form::decode).collect::<Result<Vec<_>, _>>();
    let decoded = decoded.map_err(|error| ApiError::invalid(error.to_string()))?;
    let segments: Vec<&str> = decoded.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["v1", "customers", rest @ ..] => customers_path(store, method, rest, call),
        ["v1", "products", rest @ ..] => products_path(store, method, rest, call),
        ["v1", "prices", rest @ ..] => prices_path(store, method, rest, call),
        ["v1", "billing", rest @ ..] => billing_path(store, method, rest, call),
        _ => None,
    }
    .unwrap_or_else(|| Err(unrecognized(method, path)))
}

/// `None`: no such operation.
type Done = Option<Result<Value, ApiError>>;

fn customers_path(store: &mut Store, method: &Method, rest: &[&str], call: Call) -> Done {
    Some(match (method.as_str(), rest) {
        ("POST", []) => customers::create(store, call),
        ("GET", []) => customers::list_all(store, call),
        ("GET", ["search"]) => return None,
        ("GET", [id]) => customers::retrieve(store, call, id),
        ("POST", [id]) => customers::update(store, call, id),
        ("DELETE", [id]) => customers::delete(store, call, id),
        _ => return None,
    })
}

fn products_path(store: &mut Store, method: &Method, rest: &[&str], call: Call) -> Done {
    Some(match (method.as_str(), rest) {
        ("POST", []) => products::create(store, call),
        ("GET", []) => products::list_all(store, call),
        ("GET", ["search"]) => return None,
        ("GET", [id]) => products::retrieve(store, call, id),
        ("POST", [id]) => products::update(store, call, id),
        ("DELETE", [id]) => products::delete(store, call, id),
        _ => return None,
    })
}

fn prices_path(store: &mut Store, method: &Method, rest: &[&str], call: Call) -> Done {
    Some(match (method.as_str(), rest) {
        ("POST", []) => prices::create(store, call),
        ("GET", []) => prices::list_all(store, call),
        ("GET", ["search"]) => return None,
        ("GET", [id]) => prices::retrieve(store, call, id),
        ("POST", [id]) => prices::update(store, call, id),
        _ => return None,
    })
}

fn billing_path(store: &mut Store, method: &Method, rest: &[&str], call: Call) -> Done {
    Some(match (method.as_str(), rest) {
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

fn unrecognized(method: &Method, path: &str) -> ApiError {
    let message = format!("Unrecognized request URL ({method}: {path}), or the sandbox does not have it.");
    ApiError::new(StatusCode::NOT_FOUND, Kind::InvalidRequest, message)
}
