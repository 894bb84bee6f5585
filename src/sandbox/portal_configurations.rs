//! `/v1/billing_portal/configurations`: what customers may do by themselves.

use serde_json::{Value, json};

use super::errors::ApiError;
use super::params::{Metadata, Params, TEXT, merge_metadata};
use super::shelf::{Cursor, list};
use super::store::{Call, Store};

const MODES: &[(&str, &str)] = &[("at_period_end", "at_period_end"), ("immediately", "immediately")];
const PRORATIONS: &[(&str, &str)] =
    &[("always_invoice", "always_invoice"), ("create_prorations", "create_prorations"), ("none", "none")];
const ANCHORS: &[(&str, &str)] = &[("now", "now"), ("unchanged", "unchanged")];
const TRIALS: &[(&str, &str)] = &[("continue_trial", "continue_trial"), ("end_trial", "end_trial")];

/// A configuration. Its features are kept as they are shown: the page reads them there.
#[derive(Clone, Debug)]
pub(super) struct Configuration {
    pub(super) id: String,
    pub(super) is_default: bool,
    active: bool,
    created: i64,
    updated: i64,
    name: Option<String>,
    default_return_url: Option<String>,
    business: Value,
    login_page: bool,
    pub(super) features: Value,
    metadata: Metadata,
}

impl Configuration {
    fn new(id: String, is_default: bool, now: i64) -> Self {
        Self {
            id,
            is_default,
            active: true,
            created: now,
            updated: now,
            name: None,
            default_return_url: None,
            business: json!({ "headline": null, "privacy_policy_url": null, "terms_of_service_url": null }),
            login_page: false,
            features: no_features(),
            metadata: Metadata::new(),
        }
    }

    fn change(&mut self, store: &Store, params: &mut Params) -> Result<(), ApiError> {
        params.clearable_text("name", TEXT)?.apply(&mut self.name);
        params.clearable_text("default_return_url", TEXT)?.apply(&mut self.default_return_url);
        if let Some(mut business) = params.object("business_profile")? {
            for key in ["headline", "privacy_policy_url", "terms_of_service_url"] {
                if let Some(text) = business.text(key, TEXT)? {
                    self.business[key] = text.into();
                }
            }
            business.finish()?;
        }
        if let Some(mut page) = params.object("login_page")? {
            self.login_page = page.boolean("enabled")?.unwrap_or(self.login_page);
            page.finish()?;
        }
        if let Some(features) = params.object("features")? {
            change_features(store, features, &mut self.features)?;
        }
        merge_metadata(&mut self.metadata, params.metadata()?)
    }

    pub(super) fn return_url(&self) -> Option<&String> {
        self.default_return_url.as_ref()
    }

    pub(super) fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "object": "billing_portal.configuration",
            "active": self.active,
            "application": null,
            "business_profile": self.business,
            "created": self.created,
            "default_return_url": self.default_return_url,
            "features": self.features,
            "is_default": self.is_default,
            "livemode": false,
            "login_page": { "enabled": self.login_page, "url": null },
            "metadata": self.metadata,
            "name": self.name,
            "updated": self.updated,
        })
    }
}

fn no_features() -> Value {
    json!({
        "customer_update": { "allowed_updates": [], "enabled": false },
        "invoice_history": { "enabled": false },
        "payment_method_update": { "enabled": false, "payment_method_configuration": null },
        "subscription_cancel": {
            "cancellation_reason": { "enabled": false, "options": [] },
            "enabled": false, "mode": "at_period_end", "proration_behavior": "none",
        },
        "subscription_update": {
            "billing_cycle_anchor": null, "default_allowed_updates": [], "enabled": false, "products": [],
            "proration_behavior": "none", "schedule_at_period_end": { "conditions": [] },
            "trial_update_behavior": "end_trial",
        },
    })
}

/// What a configuration allows that nobody made.
fn every_feature() -> Value {
    let mut features = no_features();
    for (feature, _) in FLAGS {
        features[*feature]["enabled"] = (*feature != "subscription_update").into();
    }
    features
}

/// Features and the words that only some of them have.
const FLAGS: &[(&str, &[&str])] = &[
    ("customer_update", &["allowed_updates"]),
    ("invoice_history", &[]),
    ("payment_method_update", &[]),
    ("subscription_cancel", &[]),
    ("subscription_update", &["default_allowed_updates"]),
];

fn change_features(store: &Store, mut params: Params, features: &mut Value) -> Result<(), ApiError> {
    for (feature, lists) in FLAGS {
        let Some(mut inner) = params.object(feature)? else { continue };
        let place = &mut features[*feature];
        if let Some(enabled) = inner.boolean("enabled")? {
            place["enabled"] = enabled.into();
        }
        for key in *lists {
            if let Some(words) = inner.texts(key, TEXT)? {
                place[*key] = json!(words);
            }
        }
        match *feature {
            "subscription_cancel" => change_cancel(&mut inner, place)?,
            "subscription_update" => change_update(store, &mut inner, place)?,
            _ => {}
        }
        inner.finish()?;
    }
    params.finish()
}

fn change_cancel(params: &mut Params, place: &mut Value) -> Result<(), ApiError> {
    if let Some(mode) = params.choice("mode", MODES)? {
        place["mode"] = mode.into();
    }
    if let Some(proration) = params.choice("proration_behavior", PRORATIONS)? {
        place["proration_behavior"] = proration.into();
    }
    if let Some(mut reason) = params.object("cancellation_reason")? {
        if let Some(enabled) = reason.boolean("enabled")? {
            place["cancellation_reason"]["enabled"] = enabled.into();
        }
        if let Some(options) = reason.texts("options", TEXT)? {
            place["cancellation_reason"]["options"] = json!(options);
        }
        reason.finish()?;
    }
    Ok(())
}

fn change_update(store: &Store, params: &mut Params, place: &mut Value) -> Result<(), ApiError> {
    if let Some(proration) = params.choice("proration_behavior", PRORATIONS)? {
        place["proration_behavior"] = proration.into();
    }
    if let Some(anchor) = params.choice("billing_cycle_anchor", ANCHORS)? {
        place["billing_cycle_anchor"] = anchor.into();
    }
    if let Some(trial) = params.choice("trial_update_behavior", TRIALS)? {
        place["trial_update_behavior"] = trial.into();
    }
    params.unsupported(&["schedule_at_period_end"])?;
    if let Some(products) = params.objects("products")? {
        place["products"] = products.into_iter().map(|product| offered(store, product)).collect::<Result<_, _>>()?;
    }
    Ok(())
}

fn offered(store: &Store, mut params: Params) -> Result<Value, ApiError> {
    params.unsupported(&["adjustable_quantity"])?;
    let (product_name, prices_name) = (params.name("product"), params.name("prices"));
    let product = params.required_text("product", TEXT)?;
    store.products.refer(&product, &product_name)?;
    let prices = params.texts("prices", TEXT)?.ok_or_else(|| ApiError::missing(&prices_name))?;
    for price in &prices {
        store.prices.refer(price, &prices_name)?;
    }
    params.finish()?;
    Ok(json!({ "adjustable_quantity": { "enabled": false, "maximum": null, "minimum": 0 }, "prices": prices,
               "product": product }))
}

/// `POST /v1/billing_portal/configurations`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let mut configuration = Configuration::new(store.ids.make("bpc"), false, store.now_s);
    configuration.change(store, &mut call.params)?;
    call.finish()?;
    let shown = configuration.shown();
    store.portal_configurations.put(configuration.id.clone(), configuration)?;
    Ok(shown)
}

/// `GET /v1/billing_portal/configurations/{configuration}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.portal_configurations.need(id, "configuration").map(Configuration::shown)
}

/// `POST /v1/billing_portal/configurations/{configuration}`
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let mut changed = store.portal_configurations.need(id, "configuration")?.clone();
    changed.active = call.params.boolean("active")?.unwrap_or(changed.active);
    changed.change(store, &mut call.params)?;
    changed.updated = store.now_s;
    call.finish()?;
    let shown = changed.shown();
    *store.portal_configurations.need_mut(id, "configuration")? = changed;
    Ok(shown)
}

/// `GET /v1/billing_portal/configurations`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let cursor = Cursor::take(&mut call.params)?;
    let (active, default) = (call.params.boolean("active")?, call.params.boolean("is_default")?);
    call.finish()?;
    let keep = |known: &Configuration| {
        active.is_none_or(|active| known.active == active) && default.is_none_or(|default| known.is_default == default)
    };
    let (page, more) = store.portal_configurations.page(&cursor, keep)?;
    Ok(list("/v1/billing_portal/configurations", page.into_iter().map(Configuration::shown), more))
}

/// The configuration of sessions that name none: the default one, made when it is needed.
pub(super) fn default(store: &mut Store) -> Result<String, ApiError> {
    if let Some(known) = store.portal_configurations.iter().find(|known| known.is_default) {
        return Ok(known.id.clone());
    }
    let mut configuration = Configuration::new(store.ids.make("bpc"), true, store.now_s);
    configuration.features = every_feature();
    let id = configuration.id.clone();
    store.portal_configurations.put(id.clone(), configuration)?;
    Ok(id)
}
