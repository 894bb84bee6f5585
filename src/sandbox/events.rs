//! `/v1/events`: what happened, in the order it happened, for the endpoints that want to know.

use serde_json::{Map, Value, json};

use super::errors::ApiError;
use super::params::TEXT;
use super::shelf::{Created, Cursor, list};
use super::store::{Call, Store};

/// What events are shaped after, when an endpoint names no version of its own.
pub(super) const API_VERSION: &str = "2026-09-30.endive";

/// One event.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) id: String,
    created: i64,
    pub(super) kind: String,
    object: Value,
    previous: Option<Value>,
}

impl Event {
    /// Whether it is about the object with this id.
    pub(super) fn is_about(&self, id: &str) -> bool {
        self.object["id"] == id
    }

    /// As endpoints get it, with `pending` deliveries left.
    pub(super) fn shown(&self, api_version: &str, pending: usize) -> Value {
        let mut data = json!({ "object": self.object });
        if let Some(previous) = &self.previous {
            data["previous_attributes"] = previous.clone();
        }
        json!({
            "id": self.id,
            "object": "event",
            "api_version": api_version,
            "created": self.created,
            "data": data,
            "livemode": false,
            "pending_webhooks": pending,
            "request": { "id": null, "idempotency_key": null },
            "type": self.kind,
        })
    }
}

impl Store {
    /// Something happened to `object`, which is as it is now.
    pub(super) fn announce(&mut self, kind: &str, object: Value) {
        self.record_event(kind, object, None);
    }

    /// Something happened to the object with this id.
    pub(super) fn announce_object(&mut self, kind: &str, id: &str) {
        if let Some(object) = self.shown(id) {
            self.announce(kind, object);
        }
    }

    /// The object with this id changed from `before`; nothing is said if it did not.
    pub(super) fn announce_change(&mut self, kind: &str, id: &str, before: Option<&Value>) {
        let after = self.shown(id);
        self.announce_difference(kind, after, before);
    }

    /// The same for an object that was looked at already.
    pub(super) fn announce_difference(&mut self, kind: &str, after: Option<Value>, before: Option<&Value>) {
        let Some(after) = after else { return };
        let previous = before.map(|before| differences(before, &after));
        if previous.as_ref().is_some_and(Map::is_empty) {
            return;
        }
        self.record_event(kind, after, previous.map(Value::Object));
    }

    fn record_event(&mut self, kind: &str, object: Value, previous: Option<Value>) {
        let customer = if object["object"] == "customer" { object["id"].as_str() } else { object["customer"].as_str() };
        let created = self.time_of(customer);
        let id = self.ids.make("evt");
        let event = Event { id: id.clone(), created, kind: kind.to_owned(), object, previous };
        if self.events.put(id.clone(), event).is_err() {
            tracing::warn!(kind, "the sandbox's events are full: this one is lost");
            return;
        }
        self.outbox.offer(&self.endpoints, kind, &id);
    }
}

impl Store {
    /// Queues an event once more for every endpoint that wants it; `None` if there is no such event.
    pub(super) fn deliver_again(&mut self, id: &str) -> Option<usize> {
        let before = self.outbox.waiting();
        let kind = self.events.get(id)?.kind.clone();
        self.outbox.offer(&self.endpoints, &kind, id);
        Some(self.outbox.waiting() - before)
    }
}

/// The fields that differ, as they were.
fn differences(before: &Value, after: &Value) -> Map<String, Value> {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return Map::new() };
    let changed = |(key, now): (&String, &Value)| {
        let was = before.get(key).unwrap_or(&Value::Null);
        (was != now).then(|| (key.clone(), was.clone()))
    };
    after.iter().filter_map(changed).collect()
}

/// `GET /v1/events/{id}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    let event = store.events.need(id, "id")?;
    Ok(event.shown(API_VERSION, store.outbox.pending(id)))
}

/// `GET /v1/events`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    let (cursor, created) = (Cursor::take(params)?, Created::take(params)?);
    let (kind, kinds) = (params.text("type", TEXT)?, params.texts("types", TEXT)?);
    let delivered = params.boolean("delivery_success")?;
    call.finish()?;
    let matches = |pattern: &str, kind: &str| match pattern.strip_suffix('*') {
        Some(beginning) => kind.starts_with(beginning),
        None => pattern == kind,
    };
    let keep = |event: &Event| {
        created.holds(event.created)
            && kind.as_ref().is_none_or(|kind| matches(kind, &event.kind))
            && kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|kind| matches(kind, &event.kind)))
            && delivered.is_none_or(|wanted| (store.outbox.pending(&event.id) == 0) == wanted)
    };
    let (page, more) = store.events.page(&cursor, keep)?;
    Ok(list(
        "/v1/events",
        page.into_iter().map(|event| event.shown(API_VERSION, store.outbox.pending(&event.id))),
        more,
    ))
}
