//! Discounts: coupons at work on a subscription.

use serde_json::{Value, json};

use super::coupons::{Coupon, Duration};
use super::errors::ApiError;
use super::params::{Params, TEXT};
use super::store::Store;

/// A coupon at work.
#[derive(Clone, Debug)]
pub(super) struct Discount {
    pub(super) id: String,
    pub(super) coupon: String,
    promotion_code: Option<String>,
    customer: String,
    subscription: String,
    start: i64,
    pub(super) end: Option<i64>,
}

impl Discount {
    pub(super) fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "object": "discount",
            "checkout_session": null,
            "customer": self.customer,
            "end": self.end,
            "invoice": null,
            "invoice_item": null,
            "promotion_code": self.promotion_code,
            "source": { "coupon": self.coupon, "type": "coupon" },
            "start": self.start,
            "subscription": self.subscription,
            "subscription_item": null,
        })
    }

    /// Whether it still takes something off at that time.
    pub(super) fn is_running(&self, at: i64) -> bool {
        self.end.is_none_or(|end| at < end)
    }
}

/// What a call wants taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Coupon(String),
    PromotionCode(String),
    /// One that is at work already.
    Discount(String),
}

/// Takes `discounts`; an empty text is an empty list.
pub(super) fn take(params: &mut Params) -> Result<Option<Vec<Wanted>>, ApiError> {
    let Some(entries) = params.objects("discounts")? else { return Ok(None) };
    entries.into_iter().map(wanted).collect::<Result<_, _>>().map(Some)
}

fn wanted(mut params: Params) -> Result<Wanted, ApiError> {
    let name = params.name("coupon");
    let coupon = params.text("coupon", TEXT)?.map(Wanted::Coupon);
    let code = params.text("promotion_code", TEXT)?.map(Wanted::PromotionCode);
    let discount = params.text("discount", TEXT)?.map(Wanted::Discount);
    params.finish()?;
    let mut given = [coupon, code, discount].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(one), None) => Ok(one),
        (None, _) | (Some(_), Some(_)) => {
            Err(ApiError::invalid("Each discount names one of coupon, promotion_code and discount.").param(&name))
        }
    }
}

/// Checks that everything wanted can be had.
pub(super) fn check(store: &Store, wanted: &[Wanted], customer: Option<&str>) -> Result<(), ApiError> {
    let now_s = store.time_of(customer);
    for one in wanted {
        match one {
            Wanted::Discount(id) => store.discounts.refer(id, "discounts").map(drop)?,
            Wanted::Coupon(id) => {
                if !store.coupons.refer(id, "discounts")?.is_valid(now_s) {
                    let message = format!("Coupon expired or used up: '{id}'");
                    return Err(ApiError::invalid(message).code("coupon_expired").param("discounts").executed());
                }
            }
            Wanted::PromotionCode(id) => {
                if !store.promotion_codes.refer(id, "discounts")?.is_usable(store, customer, now_s) {
                    let message =
                        "This promotion code cannot be redeemed because it is inactive, expired or for others.";
                    return Err(ApiError::invalid(message)
                        .code("promotion_code_inactive")
                        .param("discounts")
                        .executed());
                }
            }
        }
    }
    Ok(())
}

/// Puts to work what was [`check`]ed; the ids of the discounts.
pub(super) fn begin(
    store: &mut Store,
    wanted: &[Wanted],
    customer: &str,
    subscription: &str,
) -> Result<Vec<String>, ApiError> {
    let start = store.time_of(Some(customer));
    let mut ids = Vec::new();
    for one in wanted {
        let (coupon, code) = match one {
            Wanted::Discount(id) => {
                ids.push(id.clone());
                continue;
            }
            Wanted::Coupon(id) => (id.clone(), None),
            Wanted::PromotionCode(id) => {
                let code = store.promotion_codes.need_mut(id, "promotion_code")?;
                code.times_redeemed += 1;
                (code.coupon.clone(), Some(id.clone()))
            }
        };
        let known = store.coupons.need_mut(&coupon, "coupon")?;
        known.times_redeemed += 1;
        let end = known.ends(start);
        let id = store.ids.make("di");
        let (customer, subscription) = (customer.to_owned(), subscription.to_owned());
        let discount = Discount { id: id.clone(), coupon, promotion_code: code, customer, subscription, start, end };
        let shown = discount.shown();
        store.discounts.put(id.clone(), discount)?;
        store.announce("customer.discount.created", shown);
        ids.push(id);
    }
    Ok(ids)
}

/// A discount's coupon, also if that has been deleted since.
pub(super) fn coupon_of<'a>(store: &'a Store, discount: &str) -> Option<&'a Coupon> {
    let coupon = &store.discounts.get(discount)?.coupon;
    store.coupons.get(coupon).or_else(|| store.gone_coupons.get(coupon))
}

/// Those that are still running, without those for one invoice only once `used`.
pub(super) fn remaining(store: &Store, ids: &[String], at: i64, used: bool) -> Vec<String> {
    let runs = |id: &&String| {
        let running = store.discounts.get(id).is_some_and(|discount| discount.is_running(at));
        let once = coupon_of(store, id).is_some_and(|coupon| coupon.duration == Duration::Once);
        running && !(used && once)
    };
    ids.iter().filter(runs).cloned().collect()
}
