//! Thin events about meter events that were accepted and found wrong later, and `/v2/core/events/{id}`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::errors::ApiError;
use super::meter_events::LateError;
use super::store::{Call, Store};

const REPORT: &str = "v1.billing.meter.error_report_triggered";
const NO_METER: &str = "v1.billing.meter.no_meter_found";
/// Samples in one report, for each reason.
const MAX_SAMPLES: usize = 100;

/// A thin event: its notification has no data, which is fetched.
#[derive(Clone, Debug)]
pub(super) struct ThinEvent {
    pub(super) id: String,
    kind: &'static str,
    created: i64,
    meter: Option<String>,
    data: Value,
}

impl ThinEvent {
    /// As endpoints get it.
    pub(super) fn notification(&self) -> Value {
        let related = self
            .meter
            .as_ref()
            .map(|id| json!({ "id": id, "type": "billing.meter", "url": format!("/v1/billing/meters/{id}") }));
        json!({
            "id": self.id,
            "object": "v2.core.event",
            "context": null,
            "created": rfc3339(self.created),
            "livemode": false,
            "reason": null,
            "related_object": related,
            "type": self.kind,
        })
    }

    fn shown(&self) -> Value {
        let mut shown = self.notification();
        shown["data"] = self.data.clone();
        shown
    }
}

fn rfc3339(at: i64) -> String {
    jiff::Timestamp::from_second(at)
        .map_or_else(|_| at.to_string(), |at| at.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string())
}

/// `GET /v2/core/events/{id}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.thin_events.need(id, "id").map(ThinEvent::shown)
}

/// Reports the late errors that nobody was told of: one event for each meter, and one for those without any.
pub(super) fn report(store: &mut Store) -> Result<usize, ApiError> {
    let mut by_meter: BTreeMap<Option<String>, Vec<LateError>> = BTreeMap::new();
    for error in store.usage.take_unreported() {
        let meter =
            store.meters.iter().find(|meter| meter.event_name == error.event_name).map(|meter| meter.id.clone());
        by_meter.entry(meter).or_default().push(error);
    }
    let events = by_meter.len();
    for (meter, errors) in by_meter {
        let kind = if meter.is_some() { REPORT } else { NO_METER };
        let id = store.ids.make("evt_test");
        let data = data(&errors);
        let event = ThinEvent { id: id.clone(), kind, created: store.now_s, meter, data };
        store.thin_events.put(id.clone(), event)?;
        store.outbox.offer(&store.endpoints, kind, &id);
    }
    Ok(events)
}

fn data(errors: &[LateError]) -> Value {
    let mut by_code: BTreeMap<&str, Vec<&LateError>> = BTreeMap::new();
    for error in errors {
        by_code.entry(error.code).or_default().push(error);
    }
    let sample = |error: &&LateError| {
        let mut request = json!({ "identifier": error.identifier });
        if let Some(key) = &error.idempotency_key {
            request["idempotency_key"] = key.as_str().into();
        }
        json!({ "error_message": error.message, "request": request })
    };
    let types: Vec<Value> = by_code
        .iter()
        .map(|(code, errors)| {
            let samples: Vec<Value> = errors.iter().take(MAX_SAMPLES).map(sample).collect();
            json!({ "code": code, "error_count": errors.len(), "sample_errors": samples })
        })
        .collect();
    let at = |pick: fn(i64, i64) -> i64| errors.iter().map(|error| error.at).reduce(pick).unwrap_or_default();
    json!({
        "developer_message_summary": format!("There is {} invalid event", errors.len()),
        "reason": { "error_count": errors.len(), "error_types": types },
        "validation_end": rfc3339(at(i64::max)),
        "validation_start": rfc3339(at(i64::min)),
    })
}
