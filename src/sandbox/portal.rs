//! `/v1/billing_portal/sessions`

use serde_json::{Value, json};

use super::errors::ApiError;
use super::params::{Params, TEXT};
use super::portal_configurations;
use super::store::{Call, Store};

const FLOWS: &[(&str, &str)] = &[
    ("payment_method_update", "payment_method_update"),
    ("subscription_cancel", "subscription_cancel"),
    ("subscription_update", "subscription_update"),
];
const AFTER: &[(&str, &str)] =
    &[("hosted_confirmation", "hosted_confirmation"), ("portal_homepage", "portal_homepage")];

/// A portal session.
#[derive(Clone, Debug)]
pub(super) struct PortalSession {
    pub(super) id: String,
    pub(super) customer: String,
    pub(super) configuration: String,
    created: i64,
    pub(super) return_url: Option<String>,
    locale: Option<String>,
    flow: Option<Value>,
}

impl PortalSession {
    pub(super) fn shown(&self, store: &Store) -> Value {
        json!({
            "id": self.id,
            "object": "billing_portal.session",
            "configuration": self.configuration,
            "created": self.created,
            "customer": self.customer,
            "flow": self.flow,
            "livemode": false,
            "locale": self.locale,
            "on_behalf_of": null,
            "return_url": self.return_url,
            "url": format!("{}/p/session/{}", store.base_url, self.id),
        })
    }
}

/// `POST /v1/billing_portal/sessions`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    params.unsupported(&["on_behalf_of"])?;
    let customer = params.required_text("customer", TEXT)?;
    let wanted = params.text("configuration", TEXT)?;
    let (return_url, locale) = (params.text("return_url", TEXT)?, params.text("locale", TEXT)?);
    let flow = params.object("flow_data")?.map(|flow| read_flow(store, flow)).transpose()?;
    call.finish()?;
    store.customers.refer(&customer, "customer")?;
    let configuration = match wanted {
        Some(id) => store.portal_configurations.refer(&id, "configuration").map(|known| known.id.clone())?,
        None => portal_configurations::default(store)?,
    };
    let known = store.portal_configurations.need(&configuration, "configuration")?;
    let return_url = return_url.or_else(|| known.return_url().cloned());
    let (id, created) = (store.ids.make("bps"), store.time_of(Some(&customer)));
    let session = PortalSession { id: id.clone(), customer, configuration, created, return_url, locale, flow };
    let shown = session.shown(store);
    store.portal_sessions.put(id, session)?;
    Ok(shown)
}

/// The page shows everything it may; a flow is only kept and shown.
fn read_flow(store: &Store, mut params: Params) -> Result<Value, ApiError> {
    let kind = params.required_choice("type", FLOWS)?;
    let mut after = "portal_homepage";
    if let Some(mut inner) = params.object("after_completion")? {
        after = inner.required_choice("type", AFTER)?;
        inner.finish()?;
    }
    let mut flow = json!({
        "after_completion": { "hosted_confirmation": null, "redirect": null, "type": after },
        "subscription_cancel": null, "subscription_update": null, "subscription_update_confirm": null, "type": kind,
    });
    if let Some(mut inner) = params.object(kind)? {
        let subscription = inner.required_text("subscription", TEXT)?;
        inner.finish()?;
        store.subscriptions.refer(&subscription, &format!("flow_data[{kind}][subscription]"))?;
        flow[kind] = json!({ "subscription": subscription });
    }
    params.finish().map(|()| flow)
}
