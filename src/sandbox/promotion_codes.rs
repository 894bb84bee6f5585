//! `/v1/promotion_codes`: words that customers type.

use serde_json::{Value, json};

use super::errors::ApiError;
use super::params::{Metadata, Params, TEXT, merge_metadata};
use super::shelf::{Created, Cursor, list};
use super::store::{Call, Store};

/// A promotion code.
#[derive(Clone, Debug)]
pub(super) struct PromotionCode {
    pub(super) id: String,
    pub(super) code: String,
    pub(super) coupon: String,
    active: bool,
    customer: Option<String>,
    expires_at: Option<i64>,
    max_redemptions: Option<i64>,
    pub(super) times_redeemed: i64,
    restrictions: Restrictions,
    created: i64,
    metadata: Metadata,
}

#[derive(Clone, Debug, Default)]
struct Restrictions {
    first_time: bool,
    minimum: Option<i64>,
    currency: Option<String>,
}

impl PromotionCode {
    fn read(store: &mut Store, params: &mut Params) -> Result<Self, ApiError> {
        let coupon = promotion(params)?;
        store.coupons.refer(&coupon, "promotion[coupon]")?;
        let customer = params.text("customer", TEXT)?;
        if let Some(customer) = &customer {
            store.customers.refer(customer, "customer")?;
        }
        let id = store.ids.make("promo");
        // As Stripe does where no code is given: eight capitals and digits.
        let made = id.get(id.len().saturating_sub(8)..).unwrap_or(&id).to_ascii_uppercase();
        Ok(Self {
            id,
            code: params.text("code", 500)?.unwrap_or(made),
            coupon,
            active: params.boolean("active")?.unwrap_or(true),
            customer,
            expires_at: params.integer("expires_at")?,
            max_redemptions: params.integer("max_redemptions")?,
            times_redeemed: 0,
            restrictions: params.object("restrictions")?.map(restrictions).transpose()?.unwrap_or_default(),
            created: store.now_s,
            metadata: Metadata::new(),
        })
    }

    /// Whether this customer may use it now.
    pub(super) fn is_usable(&self, store: &Store, customer: Option<&str>, now_s: i64) -> bool {
        let coupon = store.coupons.get(&self.coupon);
        let before = |customer: &str| store.subscriptions.iter().any(|known| known.customer == customer);
        self.active
            && coupon.is_some_and(|coupon| coupon.is_valid(now_s))
            && self.expires_at.is_none_or(|end| now_s < end)
            && self.max_redemptions.is_none_or(|max| self.times_redeemed < max)
            && (self.customer.is_none() || self.customer.as_deref() == customer)
            && !(self.restrictions.first_time && customer.is_some_and(before))
    }

    pub(super) fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "object": "promotion_code",
            "active": self.active,
            "code": self.code,
            "created": self.created,
            "customer": self.customer,
            "expires_at": self.expires_at,
            "livemode": false,
            "max_redemptions": self.max_redemptions,
            "metadata": self.metadata,
            "promotion": { "coupon": self.coupon, "type": "coupon" },
            "restrictions": {
                "first_time_transaction": self.restrictions.first_time,
                "minimum_amount": self.restrictions.minimum,
                "minimum_amount_currency": self.restrictions.currency,
            },
            "times_redeemed": self.times_redeemed,
        })
    }
}

fn promotion(params: &mut Params) -> Result<String, ApiError> {
    let mut inner = params.object("promotion")?.ok_or_else(|| ApiError::missing("promotion"))?;
    inner.required_choice("type", &[("coupon", ())])?;
    let coupon = inner.required_text("coupon", TEXT)?;
    inner.finish().map(|()| coupon)
}

fn restrictions(mut params: Params) -> Result<Restrictions, ApiError> {
    params.unsupported(&["currency_options"])?;
    let restrictions = Restrictions {
        first_time: params.boolean("first_time_transaction")?.unwrap_or(false),
        minimum: params.integer("minimum_amount")?,
        currency: params.text("minimum_amount_currency", 3)?,
    };
    params.finish().map(|()| restrictions)
}

/// `POST /v1/promotion_codes`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let mut code = PromotionCode::read(store, &mut call.params)?;
    merge_metadata(&mut code.metadata, call.params.metadata()?)?;
    call.finish()?;
    let same = |other: &PromotionCode| other.active && other.code.eq_ignore_ascii_case(&code.code);
    if code.active && store.promotion_codes.iter().any(same) {
        let message = format!("An active promotion code with `code: {}` already exists.", code.code);
        return Err(ApiError::invalid(message).code("resource_already_exists").param("code").executed());
    }
    let shown = code.shown();
    store.promotion_codes.put(code.id.clone(), code)?;
    Ok(shown)
}

/// `GET /v1/promotion_codes/{promotion_code}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.promotion_codes.need(id, "promotion_code").map(PromotionCode::shown)
}

/// `POST /v1/promotion_codes/{promotion_code}`
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    call.params.unsupported(&["restrictions"])?;
    let code = store.promotion_codes.need_mut(id, "promotion_code")?;
    let mut changed = code.clone();
    changed.active = call.params.boolean("active")?.unwrap_or(changed.active);
    merge_metadata(&mut changed.metadata, call.params.metadata()?)?;
    call.finish()?;
    *code = changed;
    Ok(code.shown())
}

/// `GET /v1/promotion_codes`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    let (cursor, created) = (Cursor::take(params)?, Created::take(params)?);
    let (active, code) = (params.boolean("active")?, params.text("code", 500)?);
    let (coupon, customer) = (params.text("coupon", TEXT)?, params.text("customer", TEXT)?);
    call.finish()?;
    let keep = |known: &PromotionCode| {
        created.holds(known.created)
            && active.is_none_or(|active| known.active == active)
            && code.as_ref().is_none_or(|code| known.code.eq_ignore_ascii_case(code))
            && coupon.as_ref().is_none_or(|coupon| known.coupon == *coupon)
            && (customer.is_none() || known.customer == customer)
    };
    let (page, more) = store.promotion_codes.page(&cursor, keep)?;
    Ok(list("/v1/promotion_codes", page.into_iter().map(PromotionCode::shown), more))
}

#[cfg(test)]
mod tests {
    use crate::sandbox::desk::Desk;

    #[test]
    fn a_code_belongs_to_a_coupon_and_is_unique_while_it_is_active() {
        let mut desk = Desk::new();
        desk.make("/v1/coupons", "percent_off=50&id=HALF");
        let body = "promotion[type]=coupon&promotion[coupon]=HALF&code=WELCOME";
        let id = desk.make("/v1/promotion_codes", body);
        assert_eq!(desk.post("/v1/promotion_codes", body).0, 400);
        assert_eq!(desk.get("/v1/promotion_codes?code=welcome").1["data"][0]["promotion"]["coupon"], "HALF");
        desk.make(&format!("/v1/promotion_codes/{id}"), "active=false");
        assert_ne!(desk.make("/v1/promotion_codes", body), id);
        assert_eq!(desk.post("/v1/promotion_codes", "promotion[type]=coupon&promotion[coupon]=no").0, 400);
    }
}
