//! `/v1/checkout/sessions`: what the hosted page offers, and what becomes of it.

use serde_json::{Value, json};

use super::agenda::{Job, Scope};
use super::billing::compose;
use super::changes::Edit;
use super::discounts::{self, Wanted};
use super::errors::ApiError;
use super::params::{Change, Metadata, Params, TEXT, merge_metadata};
use super::prices::Price;
use super::proration::discounts as taken_off;
use super::setup_intents;
use super::shelf::{Created, Cursor, list};
use super::store::{Call, Store};
use super::subscription_create::{Draft, build, first_content, missing, mode, no_tax};
use super::subscriptions::{Missing, Mode};

const MODES: &[(&str, Kind)] = &[("subscription", Kind::Subscription), ("setup", Kind::Setup)];
const UI: &[(&str, &str)] = &[("hosted_page", "hosted_page")];
const COLLECTIONS: &[(&str, Collect)] = &[("always", Collect::Always), ("if_required", Collect::IfRequired)];
const STATUSES: &[(&str, Status)] =
    &[("open", Status::Open), ("complete", Status::Complete), ("expired", Status::Expired)];
const NOT_YET: &[&str] = &[
    "adaptive_pricing",
    "after_expiration",
    "branding_settings",
    "consent_collection",
    "custom_fields",
    "custom_text",
    "invoice_creation",
    "managed_payments",
    "name_collection",
    "optional_items",
    "payment_intent_data",
    "payment_method_configuration",
    "payment_method_data",
    "payment_method_options",
    "permissions",
    "return_url",
    "saved_payment_method_options",
    "shipping_address_collection",
    "shipping_options",
    "submit_type",
    "tax_id_collection",
    "wallet_options",
];
const DAY_S: i64 = 86_400;
const WORD: usize = 200;

/// What the page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Subscription,
    Setup,
}

/// Whether a card is asked for when nothing is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collect {
    Always,
    IfRequired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Open,
    Complete,
    Expired,
}

/// A checkout session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) status: Status,
    created: i64,
    expires_at: i64,
    pub(super) customer: Option<String>,
    pub(super) customer_email: Option<String>,
    pub(super) items: Vec<Edit>,
    pub(super) success_url: Option<String>,
    pub(super) cancel_url: Option<String>,
    client_reference_id: Option<String>,
    metadata: Metadata,
    pub(super) discounts: Vec<Wanted>,
    pub(super) allow_promotion_codes: bool,
    pub(super) collect: Collect,
    locale: Option<String>,
    currency: Option<String>,
    pub(super) plan: SubscriptionData,
    pub(super) subscription: Option<String>,
    pub(super) invoice: Option<String>,
    pub(super) setup_intent: Option<String>,
    pub(super) paid: bool,
}

/// `subscription_data`
#[derive(Clone, Debug)]
pub(super) struct SubscriptionData {
    pub(super) description: Option<String>,
    pub(super) metadata: Metadata,
    pub(super) trial_days: Option<i64>,
    pub(super) trial_end: Option<i64>,
    pub(super) missing: Missing,
    pub(super) mode: Mode,
}

impl Session {
    fn read(store: &mut Store, params: &mut Params) -> Result<Self, ApiError> {
        params.unsupported(NOT_YET)?;
        let kind = params.required_choice("mode", MODES)?;
        params.choice("ui_mode", UI)?;
        let customer = params.text("customer", TEXT)?;
        if let Some(customer) = &customer {
            store.customers.refer(customer, "customer")?;
        }
        let now = store.time_of(customer.as_deref());
        let expires_at = params.integer("expires_at")?.unwrap_or(now + DAY_S);
        if !(now + 1_800..=now + DAY_S).contains(&expires_at) {
            let message = "The `expires_at` timestamp must be 30 minutes to 24 hours from Checkout Session creation.";
            return Err(ApiError::invalid(message).param("expires_at"));
        }
        let mut metadata = Metadata::new();
        merge_metadata(&mut metadata, params.metadata()?)?;
        let items = params.objects("line_items")?.unwrap_or_default();
        let mut session = Self {
            id: store.ids.make("cs_test"),
            kind,
            status: Status::Open,
            created: now,
            expires_at,
            customer,
            customer_email: params.text("customer_email", 800)?,
            items: items.into_iter().map(line_item).collect::<Result<_, _>>()?,
            success_url: params.text("success_url", TEXT)?,
            cancel_url: params.text("cancel_url", TEXT)?,
            client_reference_id: params.text("client_reference_id", WORD)?,
            metadata,
            discounts: discounts::take(params)?.unwrap_or_default(),
            allow_promotion_codes: params.boolean("allow_promotion_codes")?.unwrap_or(false),
            collect: params.choice("payment_method_collection", COLLECTIONS)?.unwrap_or(Collect::Always),
            locale: params.text("locale", WORD)?,
            currency: params.text("currency", 3)?,
            plan: subscription_data(params)?,
            subscription: None,
            invoice: None,
            setup_intent: None,
            paid: false,
        };
        ignored(params)?;
        session.check(store)?;
        session.currency = session.first_price(store).map(|price| price.currency.clone()).or(session.currency.take());
        Ok(session)
    }

    fn check(&self, store: &Store) -> Result<(), ApiError> {
        if self.success_url.is_none() {
            return Err(ApiError::missing("success_url"));
        }
        if self.kind == Kind::Subscription && self.items.is_empty() {
            return Err(ApiError::missing("line_items"));
        }
        if self.allow_promotion_codes && !self.discounts.is_empty() {
            let message = "You may only specify one of these parameters: allow_promotion_codes, discounts.";
            return Err(ApiError::invalid(message).param("allow_promotion_codes"));
        }
        discounts::check(store, &self.discounts, self.customer.as_deref())?;
        if self.kind == Kind::Subscription {
            build(store, &self.draft(store)).map(drop)?;
        }
        Ok(())
    }

    fn first_price<'a>(&self, store: &'a Store) -> Option<&'a Price> {
        store.prices.get(self.items.first()?.price.as_ref()?)
    }

    /// The subscription the page is about.
    pub(super) fn draft(&self, store: &Store) -> Draft {
        let now = store.time_of(self.customer.as_deref());
        let mut draft = Draft::plain(self.customer.clone().unwrap_or_default(), self.items.clone());
        draft.trial_end = self.plan.trial_end.or(self.plan.trial_days.map(|days| now + days * DAY_S));
        draft.missing = self.plan.missing;
        draft.mode = self.plan.mode;
        draft.description.clone_from(&self.plan.description);
        draft.metadata.clone_from(&self.plan.metadata);
        draft
    }

    /// What is due now, minor units: before and after discounts.
    pub(super) fn due(&self, store: &Store, extra: Option<&Wanted>) -> (i64, i64) {
        if self.kind == Kind::Setup {
            return (0, 0);
        }
        let Ok(subscription) = build(store, &self.draft(store)) else { return (0, 0) };
        let mut invoice = compose(store, &subscription, first_content(&subscription), subscription.created);
        invoice.refresh(store, &mut String::new);
        let mut amounts: Vec<i64> = invoice.lines.iter().map(|line| line.amount).collect();
        let before = amounts.iter().sum();
        for wanted in self.discounts.iter().chain(extra) {
            let coupon = match wanted {
                Wanted::Coupon(id) => store.coupons.get(id),
                Wanted::PromotionCode(id) => {
                    store.promotion_codes.get(id).and_then(|code| store.coupons.get(&code.coupon))
                }
                Wanted::Discount(id) => discounts::coupon_of(store, id),
            };
            let Some(coupon) = coupon else { continue };
            let taken = taken_off(&amounts, coupon.off);
            amounts.iter_mut().zip(taken).for_each(|(amount, taken)| *amount -= taken);
        }
        (before, amounts.iter().sum())
    }

    pub(super) fn line_items(&self, store: &Store) -> Value {
        let each = |edit: &Edit| {
            let price = store.prices.get(edit.price.as_ref()?)?;
            let metered = price.is_metered();
            let amount = if metered { 0 } else { price.tariff().amount(edit.quantity.unwrap_or(1)) };
            Some(json!({
                "id": format!("li_{}", price.id),
                "object": "item",
                "amount_discount": 0,
                "amount_subtotal": amount,
                "amount_tax": 0,
                "amount_total": amount,
                "currency": price.currency,
                "description": store.product_name(price),
                "metadata": {},
                "price": price.plain(),
                "quantity": if metered { None } else { Some(edit.quantity.unwrap_or(1)) },
            }))
        };
        list(&format!("/v1/checkout/sessions/{}/line_items", self.id), self.items.iter().filter_map(each), false)
    }

    pub(super) fn shown(&self, store: &Store) -> Value {
        let (subtotal, total) = self.due(store, None);
        let url = (self.status == Status::Open).then(|| format!("{}/c/pay/{}", store.base_url, self.id));
        let email = self.customer.as_ref().and_then(|id| store.customers.get(id)).and_then(|known| known.email.clone());
        let email = email.or_else(|| self.customer_email.clone());
        let details = email.as_ref().map(|email| {
            json!({ "address": null, "business_name": null, "email": email, "individual_name": null, "name": null,
                    "phone": null, "tax_exempt": "none", "tax_ids": [] })
        });
        let discounts: Vec<Value> = self.discounts.iter().map(discount).collect();
        let payment = match (self.paid, total) {
            (true, _) => "paid",
            (false, 0) if self.status == Status::Complete => "no_payment_required",
            (false, 0) if self.kind == Kind::Setup => "no_payment_required",
            (false, _) => "unpaid",
        };
        let setup = self.kind == Kind::Setup;
        json!({
            "id": self.id,
            "object": "checkout.session",
            "adaptive_pricing": null,
            "after_expiration": null,
            "allow_promotion_codes": self.allow_promotion_codes,
            "amount_subtotal": if setup { None } else { Some(subtotal) },
            "amount_total": if setup { None } else { Some(total) },
            "automatic_tax": { "enabled": false, "liability": null, "provider": null, "status": null },
            "billing_address_collection": null,
            "cancel_url": self.cancel_url,
            "client_reference_id": self.client_reference_id,
            "client_secret": null,
            "created": self.created,
            "currency": self.currency,
            "custom_fields": [],
            "custom_text": { "after_submit": null, "shipping_address": null, "submit": null,
                             "terms_of_service_acceptance": null },
            "customer": self.customer,
            "customer_creation": if self.customer.is_none() { Some("always") } else { None },
            "customer_details": details,
            "customer_email": self.customer_email,
            "discounts": discounts,
            "expires_at": self.expires_at,
            "invoice": self.invoice,
            "livemode": false,
            "locale": self.locale,
            "metadata": self.metadata,
            "mode": if setup { "setup" } else { "subscription" },
            "payment_intent": null,
            "payment_link": null,
            "payment_method_collection": if self.collect == Collect::Always { "always" } else { "if_required" },
            "payment_method_options": null,
            "payment_method_types": ["card"],
            "payment_status": payment,
            "setup_intent": self.setup_intent,
            "shipping_cost": null,
            "shipping_options": [],
            "status": STATUSES.iter().find(|(_, status)| *status == self.status).map(|(word, _)| word),
            "submit_type": null,
            "subscription": self.subscription,
            "success_url": self.success_url,
            "total_details": { "amount_discount": subtotal - total, "amount_shipping": 0, "amount_tax": 0 },
            "ui_mode": "hosted_page",
            "url": url,
        })
    }
}

fn discount(wanted: &Wanted) -> Value {
    match wanted {
        Wanted::Coupon(id) => json!({ "coupon": id, "promotion_code": null }),
        Wanted::PromotionCode(id) => json!({ "coupon": null, "promotion_code": id }),
        Wanted::Discount(_) => json!({ "coupon": null, "promotion_code": null }),
    }
}

/// What a real page would show or ask for, and this one need not.
fn ignored(params: &mut Params) -> Result<(), ApiError> {
    params.text("billing_address_collection", WORD)?;
    params.text("customer_creation", WORD)?;
    params.text("origin_context", WORD)?;
    params.texts("payment_method_types", TEXT)?;
    if let Some(mut phone) = params.object("phone_number_collection")? {
        phone.boolean("enabled")?;
        phone.finish()?;
    }
    params.flat("customer_update", &["address", "name", "shipping"])?;
    if let Some(mut data) = params.object("setup_intent_data")? {
        data.text("description", TEXT)?;
        data.metadata()?;
        data.finish()?;
    }
    no_tax(params)
}

fn line_item(mut params: Params) -> Result<Edit, ApiError> {
    params.unsupported(&["adjustable_quantity", "price_data", "tax_rates"])?;
    let name = params.name("price").trim_end_matches("[price]").to_owned();
    let price = Some(params.required_text("price", TEXT)?);
    let edit =
        Edit { name, id: None, price, quantity: params.integer("quantity")?, deleted: false, metadata: Change::Keep };
    params.metadata()?;
    params.finish().map(|()| edit)
}

fn subscription_data(params: &mut Params) -> Result<SubscriptionData, ApiError> {
    let mut data = SubscriptionData {
        description: None,
        metadata: Metadata::new(),
        trial_days: None,
        trial_end: None,
        missing: Missing::CreateInvoice,
        mode: Mode::Classic,
    };
    let Some(mut inner) = params.object("subscription_data")? else { return Ok(data) };
    inner.unsupported(&[
        "application_fee_percent",
        "billing_cycle_anchor",
        "billing_cycle_anchor_config",
        "default_tax_rates",
        "invoice_settings",
        "on_behalf_of",
        "pending_invoice_item_interval",
        "transfer_data",
    ])?;
    inner.text("proration_behavior", WORD)?;
    data.description = inner.text("description", 500)?;
    data.trial_days = inner.integer("trial_period_days")?;
    data.trial_end = inner.integer("trial_end")?;
    data.missing = missing(&mut inner)?.unwrap_or(data.missing);
    data.mode = mode(&mut inner)?.unwrap_or(data.mode);
    merge_metadata(&mut data.metadata, inner.metadata()?)?;
    inner.finish().map(|()| data)
}

/// `POST /v1/checkout/sessions`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let mut session = Session::read(store, &mut call.params)?;
    call.finish()?;
    if session.kind == Kind::Setup {
        session.setup_intent = Some(setup_intents::for_session(store, session.customer.as_deref())?);
    }
    let id = session.id.clone();
    let clock = session.customer.as_ref().and_then(|id| store.customers.get(id)).and_then(|known| known.test_clock());
    let scope = clock.map_or(Scope::Sandbox, |clock| Scope::Clock(clock.to_owned()));
    let expires_at = session.expires_at;
    store.sessions.put(id.clone(), session)?;
    store.agenda.set(&scope, Job::Session(id.clone()), Some(expires_at));
    shown(store, &id)
}

fn shown(store: &Store, id: &str) -> Result<Value, ApiError> {
    store.sessions.need(id, "session").map(|session| session.shown(store))
}

/// `GET /v1/checkout/sessions/{session}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    shown(store, id)
}

/// `POST /v1/checkout/sessions/{session}`
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    call.params.unsupported(&["collected_information", "line_items", "shipping_options"])?;
    let mut metadata = store.sessions.need(id, "session")?.metadata.clone();
    merge_metadata(&mut metadata, call.params.metadata()?)?;
    call.finish()?;
    store.sessions.need_mut(id, "session")?.metadata = metadata;
    shown(store, id)
}

/// `GET /v1/checkout/sessions/{session}/line_items`
pub(super) fn line_items(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    Cursor::take(&mut call.params)?;
    call.finish()?;
    store.sessions.need(id, "session").map(|session| session.line_items(store))
}

/// `POST /v1/checkout/sessions/{session}/expire`
pub(super) fn expire(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    if store.sessions.need(id, "session")?.status != Status::Open {
        let message = "Only Checkout Sessions with a status in [\"open\"] can be expired.";
        return Err(ApiError::invalid(message).executed());
    }
    expire_now(store, id)?;
    shown(store, id)
}

/// An open session is over.
pub(super) fn expire_now(store: &mut Store, id: &str) -> Result<(), ApiError> {
    let session = store.sessions.need_mut(id, "session")?;
    if session.status == Status::Open {
        session.status = Status::Expired;
        store.announce_object("checkout.session.expired", id);
    }
    Ok(())
}

/// `GET /v1/checkout/sessions`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    params.unsupported(&["payment_intent", "payment_link"])?;
    let (cursor, created) = (Cursor::take(params)?, Created::take(params)?);
    let (customer, subscription) = (params.text("customer", TEXT)?, params.text("subscription", TEXT)?);
    let status = params.choice("status", STATUSES)?;
    let email = params.object("customer_details")?.map(|mut inner| inner.text("email", 800)).transpose()?.flatten();
    call.finish()?;
    let keep = |session: &Session| {
        created.holds(session.created)
            && (customer.is_none() || session.customer == customer)
            && (subscription.is_none() || session.subscription == subscription)
            && status.is_none_or(|status| session.status == status)
            && (email.is_none() || session.customer_email == email)
    };
    let (page, more) = store.sessions.page(&cursor, keep)?;
    Ok(list("/v1/checkout/sessions", page.into_iter().map(|session| session.shown(store)), more))
}
