//! `/v1/webhook_endpoints`

use serde_json::{Value, json};

use super::errors::ApiError;
use super::params::{Metadata, Params, TEXT, merge_metadata};
use super::shelf::{Cursor, list};
use super::store::{Call, Store};

/// Who wants to know what.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) id: String,
    pub(super) url: String,
    /// `whsec_…`
    pub(super) secret: String,
    pub(super) api_version: Option<String>,
    enabled_events: Vec<String>,
    description: Option<String>,
    disabled: bool,
    created: i64,
    metadata: Metadata,
}

impl Endpoint {
    /// Whether it gets events of this kind. Thin events, which have no name in `enabled_events`, go to all.
    pub(super) fn wants(&self, kind: &str) -> bool {
        let named = |wanted: &String| wanted == "*" || wanted == kind;
        !self.disabled && (kind.starts_with("v1.") || self.enabled_events.iter().any(named))
    }

    fn change(&mut self, params: &mut Params) -> Result<(), ApiError> {
        params.clearable_text("description", TEXT)?.apply(&mut self.description);
        if let Some(events) = params.texts("enabled_events", TEXT)? {
            if events.is_empty() {
                return Err(ApiError::invalid("You must enable at least one event.").param("enabled_events"));
            }
            self.enabled_events = events;
        }
        if let Some(url) = params.text("url", TEXT)? {
            self.url = url;
        }
        if !(self.url.starts_with("http://") || self.url.starts_with("https://")) {
            return Err(ApiError::invalid(format!("Invalid URL: {}", self.url)).code("url_invalid").param("url"));
        }
        merge_metadata(&mut self.metadata, params.metadata()?)
    }

    pub(super) fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "object": "webhook_endpoint",
            "api_version": self.api_version,
            "application": null,
            "created": self.created,
            "description": self.description,
            "enabled_events": self.enabled_events,
            "livemode": false,
            "metadata": self.metadata,
            "status": if self.disabled { "disabled" } else { "enabled" },
            "url": self.url,
        })
    }
}

/// `POST /v1/webhook_endpoints`: the only answer that shows the secret.
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let url = call.params.required_text("url", TEXT)?;
    let enabled_events = call
        .params
        .texts("enabled_events", TEXT)?
        .filter(|events| !events.is_empty())
        .ok_or_else(|| ApiError::missing("enabled_events"))?;
    call.params.unsupported(&["connect"])?;
    let api_version = call.params.text("api_version", TEXT)?;
    let mut endpoint = Endpoint {
        id: store.ids.make("we"),
        url,
        secret: store.ids.make("whsec").replacen("whsec_", "whsec_sandbox", 1),
        api_version,
        enabled_events,
        description: None,
        disabled: false,
        created: store.now_s,
        metadata: Metadata::new(),
    };
    endpoint.change(&mut call.params)?;
    call.finish()?;
    let mut shown = endpoint.shown();
    shown["secret"] = endpoint.secret.as_str().into();
    store.endpoints.put(endpoint.id.clone(), endpoint)?;
    Ok(shown)
}

/// `GET /v1/webhook_endpoints/{webhook_endpoint}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.endpoints.need(id, "webhook_endpoint").map(Endpoint::shown)
}

/// `POST /v1/webhook_endpoints/{webhook_endpoint}`
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let endpoint = store.endpoints.need_mut(id, "webhook_endpoint")?;
    let mut changed = endpoint.clone();
    changed.disabled = call.params.boolean("disabled")?.unwrap_or(changed.disabled);
    changed.change(&mut call.params)?;
    call.finish()?;
    *endpoint = changed;
    Ok(endpoint.shown())
}

/// `DELETE /v1/webhook_endpoints/{webhook_endpoint}`
pub(super) fn delete(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.endpoints.take(id, "webhook_endpoint")?;
    Ok(json!({ "id": id, "object": "webhook_endpoint", "deleted": true }))
}

/// `GET /v1/webhook_endpoints`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let cursor = Cursor::take(&mut call.params)?;
    call.finish()?;
    let (page, more) = store.endpoints.page(&cursor, |_| true)?;
    Ok(list("/v1/webhook_endpoints", page.into_iter().map(Endpoint::shown), more))
}
