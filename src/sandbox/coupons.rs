//! `/v1/coupons`

use serde_json::{Number, Value, json};

use super::cycle::{Interval, later};
use super::decimal::Decimal;
use super::errors::ApiError;
use super::params::{Metadata, Params, TEXT, merge_metadata};
use super::proration::Off;
use super::shelf::{Created, Cursor, list};
use super::store::{Call, Store};

const DURATIONS: &[(&str, Duration)] =
    &[("forever", Duration::Forever), ("once", Duration::Once), ("repeating", Duration::Repeating)];

/// For how many invoices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duration {
    Forever,
    Once,
    Repeating,
}

impl Duration {
    fn word(self) -> &'static str {
        match self {
            Self::Forever => "forever",
            Self::Once => "once",
            Self::Repeating => "repeating",
        }
    }
}

/// A coupon.
#[derive(Clone, Debug)]
pub(super) struct Coupon {
    pub(super) id: String,
    pub(super) off: Off,
    pub(super) currency: Option<String>,
    pub(super) duration: Duration,
    months: Option<i64>,
    /// Products it is for; empty for all.
    pub(super) products: Vec<String>,
    pub(super) name: Option<String>,
    max_redemptions: Option<i64>,
    redeem_by: Option<i64>,
    pub(super) times_redeemed: i64,
    created: i64,
    metadata: Metadata,
}

impl Coupon {
    fn read(store: &mut Store, params: &mut Params) -> Result<Self, ApiError> {
        params.unsupported(&["currency_options"])?;
        let off = off(params)?;
        let duration = params.choice("duration", DURATIONS)?.unwrap_or(Duration::Once);
        let months = params.integer("duration_in_months")?;
        if (duration == Duration::Repeating) != months.is_some_and(|months| months > 0) {
            let message = "`duration_in_months` must be a positive number with `duration=repeating`, and only with it.";
            return Err(ApiError::invalid(message).param("duration_in_months"));
        }
        let currency = params.text("currency", 3)?.map(|currency| currency.to_ascii_lowercase());
        if matches!(off, Off::Amount(_)) && currency.is_none() {
            return Err(ApiError::missing("currency"));
        }
        let id = params.text("id", TEXT)?;
        Ok(Self {
            id: id.unwrap_or_else(|| store.ids.make("co")),
            off,
            currency: currency.filter(|_| matches!(off, Off::Amount(_))),
            duration,
            months,
            products: products(store, params)?,
            name: params.text("name", 40)?,
            max_redemptions: params.integer("max_redemptions")?,
            redeem_by: params.integer("redeem_by")?,
            times_redeemed: 0,
            created: store.now_s,
            metadata: Metadata::new(),
        })
    }

    /// Whether it may be used once more.
    pub(super) fn is_valid(&self, now_s: i64) -> bool {
        self.redeem_by.is_none_or(|end| now_s < end) && self.max_redemptions.is_none_or(|max| self.times_redeemed < max)
    }

    /// When a discount that begins now ends; `None` for never, and for one invoice only.
    pub(super) fn ends(&self, from: i64) -> Option<i64> {
        self.months.map(|months| later(from, Interval::Month, months))
    }

    pub(super) fn shown(&self, now_s: i64) -> Value {
        let (amount, percent) = match self.off {
            Off::Amount(amount) => (Some(amount), Value::Null),
            Off::Percent(percent) => (None, number(percent)),
        };
        json!({
            "id": self.id,
            "object": "coupon",
            "amount_off": amount,
            "created": self.created,
            "currency": self.currency,
            "duration": self.duration.word(),
            "duration_in_months": self.months,
            "livemode": false,
            "max_redemptions": self.max_redemptions,
            "metadata": self.metadata,
            "name": self.name,
            "percent_off": percent,
            "redeem_by": self.redeem_by,
            "times_redeemed": self.times_redeemed,
            "valid": self.is_valid(now_s),
        })
    }
}

/// A decimal as JSON's number.
fn number(decimal: Decimal) -> Value {
    let text = decimal.to_string();
    let whole = text.parse::<i64>().map(Number::from).ok();
    whole.or_else(|| Number::from_f64(text.parse().ok()?)).map_or(Value::Null, Value::Number)
}

fn off(params: &mut Params) -> Result<Off, ApiError> {
    let (percent, amount) = (params.decimal("percent_off")?, params.integer("amount_off")?);
    match (percent, amount) {
        (Some(percent), None) if percent > Decimal::ZERO && percent <= Decimal::from(100) => Ok(Off::Percent(percent)),
        (None, Some(amount)) if amount > 0 => Ok(Off::Amount(amount)),
        (Some(_), None) => Err(ApiError::invalid("percent_off must be above 0 and at most 100").param("percent_off")),
        (None, Some(_)) => Err(ApiError::invalid("amount_off must be above 0").param("amount_off")),
        (None, None) | (Some(_), Some(_)) => {
            Err(ApiError::invalid("You must specify either percent_off or amount_off.").param("percent_off"))
        }
    }
}

fn products(store: &Store, params: &mut Params) -> Result<Vec<String>, ApiError> {
    let Some(mut inner) = params.object("applies_to")? else { return Ok(Vec::new()) };
    let products = inner.texts("products", TEXT)?.unwrap_or_default();
    inner.finish()?;
    for product in &products {
        store.products.refer(product, "applies_to[products]")?;
    }
    Ok(products)
}

/// `POST /v1/coupons`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let mut coupon = Coupon::read(store, &mut call.params)?;
    merge_metadata(&mut coupon.metadata, call.params.metadata()?)?;
    call.finish()?;
    if store.coupons.get(&coupon.id).is_some() {
        let error = ApiError::invalid("Coupon already exists.").code("resource_already_exists");
        return Err(error.param("id").executed());
    }
    let shown = coupon.shown(store.now_s);
    store.coupons.put(coupon.id.clone(), coupon)?;
    Ok(shown)
}

/// `GET /v1/coupons/{coupon}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    Ok(store.coupons.need(id, "coupon")?.shown(store.now_s))
}

/// `POST /v1/coupons/{coupon}`: name and metadata; what it takes off never changes.
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    call.params.unsupported(&["currency_options"])?;
    let coupon = store.coupons.need_mut(id, "coupon")?;
    let mut changed = coupon.clone();
    call.params.clearable_text("name", 40)?.apply(&mut changed.name);
    merge_metadata(&mut changed.metadata, call.params.metadata()?)?;
    call.finish()?;
    *coupon = changed;
    Ok(coupon.shown(store.now_s))
}

/// `DELETE /v1/coupons/{coupon}`: discounts that began go on without it being used again.
pub(super) fn delete(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    let coupon = store.coupons.take(id, "coupon")?;
    store.gone_coupons.insert(id.to_owned(), coupon);
    Ok(json!({ "id": id, "object": "coupon", "deleted": true }))
}

/// `GET /v1/coupons`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let (cursor, created) = (Cursor::take(&mut call.params)?, Created::take(&mut call.params)?);
    call.finish()?;
    let (page, more) = store.coupons.page(&cursor, |coupon| created.holds(coupon.created))?;
    Ok(list("/v1/coupons", page.into_iter().map(|coupon| coupon.shown(store.now_s)), more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::desk::Desk;

    #[test]
    fn a_coupon_takes_off_a_part_or_an_amount_never_both() {
        let mut desk = Desk::new();
        let (_, half) = desk.post("/v1/coupons", "percent_off=12.5&duration=repeating&duration_in_months=3&id=HALF");
        assert_eq!((&half["percent_off"], &half["valid"]), (&json!(12.5), &json!(true)));
        assert_eq!(desk.post("/v1/coupons", "amount_off=500&currency=usd").1["amount_off"], 500);
        for wrong in ["percent_off=0", "percent_off=101", "amount_off=5", "percent_off=5&amount_off=5&currency=usd", ""]
        {
            assert_eq!(desk.post("/v1/coupons", wrong).0, 400, "{wrong}");
        }
        assert_eq!(desk.post("/v1/coupons", "percent_off=5&duration=repeating").0, 400);
        assert_eq!(desk.post("/v1/coupons", "percent_off=5&id=HALF").1["error"]["code"], "resource_already_exists");
        assert_eq!(desk.post("/v1/coupons/HALF", "name=Half").1["name"], "Half");
        assert_eq!(desk.delete("/v1/coupons/HALF").1["deleted"], true);
        assert_eq!(desk.get("/v1/coupons/HALF").0, 404);
    }
}
