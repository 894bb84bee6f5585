//! Any object by its id: for expansions and events.

use serde_json::{Value, json};

use super::events::API_VERSION;
use super::expand::Expand;
use super::store::Store;

impl Store {
    /// The object with this id as it is now, if its id tells of what kind it is.
    pub(super) fn shown(&self, id: &str) -> Option<Value> {
        let prefix = id.split_once('_').map_or("", |(prefix, _)| prefix);
        match prefix {
            "cus" => self.customers.get(id).map(super::customers::Customer::shown),
            "price" => self.prices.get(id).map(super::prices::Price::plain),
            "prod" => self.product(id),
            "mtr" => self.meters.get(id).map(super::meters::Meter::shown),
            "pm" => self.payment_methods.get(id).map(super::payment_methods::PaymentMethod::shown),
            "seti" => self.setup_intents.get(id).map(|intent| intent.shown(&self.base_url)),
            "promo" => self.promotion_codes.get(id).map(super::promotion_codes::PromotionCode::shown),
            "di" => self.discounts.get(id).map(super::discounts::Discount::shown),
            "sub" => self.subscriptions.get(id).map(|subscription| subscription.shown(self)),
            "si" => self.item(id),
            "in" => self.invoices.get(id).map(|invoice| invoice.shown(self)),
            "ii" => self.invoice_items.get(id).map(|item| item.shown(self)),
            "clock" => self.test_clocks.get(id).map(super::test_clocks::TestClock::shown),
            "cs" => self.sessions.get(id).map(|session| session.shown(self)),
            "bpc" => self.portal_configurations.get(id).map(super::portal_configurations::Configuration::shown),
            "bps" => self.portal_sessions.get(id).map(|session| session.shown(self)),
            "we" => self.endpoints.get(id).map(super::webhook_endpoints::Endpoint::shown),
            "evt" => self.events.get(id).map(|event| event.shown(API_VERSION, self.outbox.pending(id))),
            _ => None,
        }
    }

    /// The object a field names. Products and coupons may have any id.
    pub(super) fn named(&self, field: &str, id: &str) -> Option<Value> {
        match field {
            "product" => self.product(id),
            "coupon" => self.coupon(id),
            _ => self.shown(id),
        }
    }

    /// What is shown on an object only when it is asked for.
    pub(super) fn hidden(&self, object: &Value, field: &str) -> Option<Value> {
        let id = object["id"].as_str()?;
        match (object["object"].as_str()?, field) {
            ("price", "tiers") => self.prices.get(id)?.tiers(),
            ("invoice", "payments") => self.invoices.get(id).map(super::invoices::Invoice::payments),
            ("coupon", "applies_to") => {
                let products = &self.coupons.get(id)?.products;
                (!products.is_empty()).then(|| json!({ "products": products }))
            }
            ("checkout.session", "line_items") => self.sessions.get(id).map(|session| session.line_items(self)),
            ("customer", "subscriptions") => Some(self.subscriptions_of(id)),
            _ => None,
        }
    }

    fn product(&self, id: &str) -> Option<Value> {
        self.products.get(id).map(|product| product.shown(self, &Expand::default()))
    }

    fn coupon(&self, id: &str) -> Option<Value> {
        let coupon = self.coupons.get(id).or_else(|| self.gone_coupons.get(id));
        coupon.map(|coupon| coupon.shown(self.now_s))
    }

    fn item(&self, id: &str) -> Option<Value> {
        let home = self.home_of(id)?;
        home.items.iter().find(|item| item.id == id).map(|item| item.shown(self, &home.id))
    }

    fn subscriptions_of(&self, customer: &str) -> Value {
        let mine =
            self.subscriptions.iter().rev().filter(|known| known.customer == customer && !known.status.is_over());
        let data: Vec<Value> = mine.take(10).map(|subscription| subscription.shown(self)).collect();
        json!({ "object": "list", "data": data, "has_more": false, "url": format!("/v1/customers/{customer}/subscriptions") })
    }
}
