//! `/v1/billing/meters`

use serde::Serialize;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::expand::Expand;
use super::params::Params;
use super::series::{Formula, Window};
use super::shelf::{Cursor, list};
use super::store::{Call, Store};

const FORMULAS: &[(&str, Formula)] = &[("sum", Formula::Sum), ("count", Formula::Count), ("last", Formula::Last)];
const STATUSES: &[(&str, Status)] = &[("active", Status::Active), ("inactive", Status::Inactive)];
const URL: &str = "/v1/billing/meters";
/// Longest event name, display name and payload key (Stripe's own limits).
pub(super) const EVENT_NAME: usize = 100;
const DISPLAY_NAME: usize = 250;
const PAYLOAD_KEY: usize = 100;

/// Whether a meter takes events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Active,
    Inactive,
}

/// A meter, as Stripe shows it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Meter {
    pub(super) id: String,
    object: &'static str,
    created: i64,
    customer_mapping: CustomerMapping,
    default_aggregation: Aggregation,
    display_name: String,
    pub(super) event_name: String,
    pub(super) event_time_window: Option<Window>,
    livemode: bool,
    status: Status,
    status_transitions: Transitions,
    updated: i64,
    value_settings: ValueSettings,
}

#[derive(Clone, Debug, Serialize)]
struct CustomerMapping {
    event_payload_key: String,
    r#type: &'static str,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Aggregation {
    formula: Formula,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Transitions {
    deactivated_at: Option<i64>,
}

#[derive(Clone, Debug, Serialize)]
struct ValueSettings {
    event_payload_key: String,
}

impl Meter {
    fn read(id: String, params: &mut Params, now_s: i64) -> Result<Self, ApiError> {
        Ok(Self {
            id,
            object: "billing.meter",
            created: now_s,
            customer_mapping: customer_mapping(params)?,
            default_aggregation: aggregation(params)?,
            display_name: params.required_text("display_name", DISPLAY_NAME)?,
            event_name: params.required_text("event_name", EVENT_NAME)?,
            event_time_window: params.choice("event_time_window", Window::TABLE)?,
            livemode: false,
            status: Status::Active,
            status_transitions: Transitions { deactivated_at: None },
            updated: now_s,
            value_settings: value_settings(params)?,
        })
    }

    pub(super) fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    pub(super) fn formula(&self) -> Formula {
        self.default_aggregation.formula
    }

    /// The payload's key for the customer.
    pub(super) fn customer_key(&self) -> &str {
        &self.customer_mapping.event_payload_key
    }

    /// The payload's key for the value.
    pub(super) fn value_key(&self) -> &str {
        &self.value_settings.event_payload_key
    }

    pub(super) fn shown(&self) -> Value {
        json!(self)
    }

    fn set_status(&mut self, status: Status, now_s: i64) {
        self.status = status;
        self.updated = now_s;
        self.status_transitions.deactivated_at = match status {
            Status::Active => None,
            Status::Inactive => Some(now_s),
        };
    }
}

/// `POST /v1/billing/meters`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    Expand::of_object(&mut call.params, &[])?;
    let now_s = call.now_s();
    let meter = Meter::read(store.ids.make("mtr_test"), &mut call.params, now_s)?;
    call.finish()?;
    only_active(store, &meter)?;
    let shown = meter.shown();
    store.meters.put(meter.id.clone(), meter)?;
    Ok(shown)
}

/// `GET /v1/billing/meters/{id}`
pub(super) fn retrieve(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    Expand::of_object(&mut call.params, &[])?;
    call.finish()?;
    store.meters.need(id, "id").map(Meter::shown)
}

/// `POST /v1/billing/meters/{id}`: only the display name can change.
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    Expand::of_object(&mut call.params, &[])?;
    let (name, now_s) = (call.params.text("display_name", DISPLAY_NAME)?, call.now_s());
    call.finish()?;
    let meter = store.meters.need_mut(id, "id")?;
    if let Some(name) = name {
        meter.display_name = name;
        meter.updated = now_s;
    }
    Ok(meter.shown())
}

/// `POST /v1/billing/meters/{id}/deactivate` and `/reactivate`
pub(super) fn change_status(store: &mut Store, mut call: Call, id: &str, to: Status) -> Result<Value, ApiError> {
    Expand::of_object(&mut call.params, &[])?;
    let now_s = call.now_s();
    call.finish()?;
    let meter = store.meters.need(id, "id")?;
    if meter.status == to {
        let state = if meter.is_active() { "active" } else { "inactive" };
        return Err(ApiError::invalid(format!("The meter `{id}` is already {state}.")).executed());
    }
    if to == Status::Active {
        only_active(store, meter)?;
    }
    let meter = store.meters.need_mut(id, "id")?;
    meter.set_status(to, now_s);
    Ok(meter.shown())
}

/// `GET /v1/billing/meters`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    Expand::of_list(&mut call.params, &[])?;
    let cursor = Cursor::take(&mut call.params)?;
    let status = call.params.choice("status", STATUSES)?;
    call.finish()?;
    let keep = |meter: &Meter| status.is_none_or(|status| meter.status == status);
    let (page, more) = store.meters.page(&cursor, keep)?;
    Ok(list(URL, page.into_iter().map(Meter::shown), more))
}

/// One active meter for an event name.
fn only_active(store: &Store, meter: &Meter) -> Result<(), ApiError> {
    let same = |other: &&Meter| other.is_active() && other.event_name == meter.event_name && other.id != meter.id;
    match store.meters.iter().find(same) {
        None => Ok(()),
        Some(other) => {
            let message =
                format!("An active meter ({}) already exists with event name {}.", other.id, meter.event_name);
            Err(ApiError::invalid(message).param("event_name").executed())
        }
    }
}

fn aggregation(params: &mut Params) -> Result<Aggregation, ApiError> {
    let mut inner = params.object("default_aggregation")?.ok_or_else(|| ApiError::missing("default_aggregation"))?;
    let formula = inner.required_choice("formula", FORMULAS)?;
    inner.finish().map(|()| Aggregation { formula })
}

fn customer_mapping(params: &mut Params) -> Result<CustomerMapping, ApiError> {
    let mut event_payload_key = "stripe_customer_id".to_owned();
    if let Some(mut inner) = params.object("customer_mapping")? {
        event_payload_key = inner.required_text("event_payload_key", PAYLOAD_KEY)?;
        inner.required_choice("type", &[("by_id", ())])?;
        inner.finish()?;
    }
    Ok(CustomerMapping { event_payload_key, r#type: "by_id" })
}

fn value_settings(params: &mut Params) -> Result<ValueSettings, ApiError> {
    let mut event_payload_key = "value".to_owned();
    if let Some(mut inner) = params.object("value_settings")? {
        event_payload_key = inner.required_text("event_payload_key", PAYLOAD_KEY)?;
        inner.finish()?;
    }
    Ok(ValueSettings { event_payload_key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::desk::Desk;

    #[test]
    fn only_the_display_name_changes() {
        let (mut desk, _, meter) = Desk::with_meter();
        let url = format!("{URL}/{meter}");
        assert_eq!(desk.post(&url, "display_name=Other").1["display_name"], "Other");
        let (status, refused) = desk.post(&url, "event_name=other");
        assert_eq!((status, &refused["error"]["param"]), (400, &json!("event_name")));
    }

    #[test]
    fn an_event_name_has_one_active_meter() {
        let (mut desk, _, first) = Desk::with_meter();
        let body = "event_name=units&display_name=Units&default_aggregation[formula]=last";
        assert_eq!(desk.post(URL, body).0, 400);
        let (_, off) = desk.post(&format!("{URL}/{first}/deactivate"), "");
        assert_eq!((&off["status"], off["status_transitions"]["deactivated_at"].is_i64()), (&json!("inactive"), true));
        let second = desk.make(URL, body);
        assert_eq!(desk.post(&format!("{URL}/{first}/reactivate"), "").0, 400);
        assert_eq!(desk.post(&format!("{URL}/{first}/deactivate"), "").0, 400);
        let (_, active) = desk.get(&format!("{URL}?status=active"));
        assert_eq!((active["data"].as_array().unwrap().len(), &active["data"][0]["id"]), (1, &json!(second)));
    }
}
