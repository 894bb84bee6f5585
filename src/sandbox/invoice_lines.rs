//! What an invoice is about: lines for periods ahead, for usage, for changes, and what discounts take off them.

use serde_json::{Value, json};

use super::cycle::Period;
use super::decimal::Decimal;
use super::discounts::coupon_of;
use super::params::Metadata;
use super::prices::Price;
use super::proration::{Off, discounts};
use super::store::Store;
use super::subscriptions::{Item, Subscription};

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) id: String,
    /// Minor units, before discounts.
    pub(super) amount: i64,
    pub(super) description: String,
    pub(super) quantity: i64,
    pub(super) period: Period,
    pub(super) price: Option<String>,
    pub(super) unit: Option<Decimal>,
    pub(super) subscription: Option<String>,
    pub(super) item: Option<String>,
    pub(super) invoice_item: Option<String>,
    pub(super) proration: bool,
    /// Which discounts hold for it; `None` for the invoice's.
    pub(super) own_discounts: Option<Vec<String>>,
    /// What they take off, each.
    pub(super) taken: Vec<(String, i64)>,
    pub(super) metadata: Metadata,
}

/// Usage still to be billed: of one item, at one price, from one second up to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrears {
    pub(super) item: String,
    pub(super) price: String,
    pub(super) span: Period,
}

impl Arrears {
    /// An item's usage up to `to`.
    pub(super) fn of(item: &Item, to: i64) -> Self {
        let start = item.period.start.max(item.usage_from).min(to);
        Self { item: item.id.clone(), price: item.price.clone(), span: Period { start, end: to } }
    }
}

impl Line {
    pub(super) fn shown(&self, store: &Store, invoice: Option<&str>, currency: &str) -> Value {
        let product = self.price.as_ref().and_then(|price| store.prices.get(price)).map(|price| price.product.clone());
        let pricing = self.price.as_ref().map(|price| {
            let unit = self.unit.map(|unit| unit.to_string());
            json!({ "price_details": { "price": price, "product": product }, "type": "price_details",
                    "unit_amount_decimal": unit })
        });
        let taken: Vec<Value> =
            self.taken.iter().map(|(id, amount)| json!({ "amount": amount, "discount": id })).collect();
        json!({
            "id": self.id,
            "object": "line_item",
            "amount": self.amount,
            "currency": currency,
            "description": self.description,
            "discount_amounts": taken,
            "discountable": self.own_discounts.as_ref().is_none_or(|own| !own.is_empty()),
            "discounts": self.taken.iter().map(|(id, _)| id).collect::<Vec<_>>(),
            "invoice": invoice,
            "livemode": false,
            "metadata": self.metadata,
            "parent": self.parent(),
            "period": { "end": self.period.end, "start": self.period.start },
            "pretax_credit_amounts": [],
            "pricing": pricing,
            "quantity": self.quantity,
            "quantity_decimal": self.quantity.to_string(),
            "subscription": self.subscription,
            "subtotal": self.amount,
            "taxes": [],
        })
    }

    fn parent(&self) -> Value {
        let details = json!({ "credited_items": null });
        if let (None, Some(invoice_item)) = (&self.item, &self.invoice_item) {
            return json!({
                "invoice_item_details": { "invoice_item": invoice_item, "proration": self.proration,
                                          "proration_details": details, "subscription": self.subscription },
                "subscription_item_details": null,
                "type": "invoice_item_details",
            });
        }
        json!({
            "invoice_item_details": null,
            "subscription_item_details": { "invoice_item": self.invoice_item, "proration": self.proration,
                                           "proration_details": details, "subscription": self.subscription,
                                           "subscription_item": self.item },
            "type": "subscription_item_details",
        })
    }

    /// What is left of it.
    pub(super) fn net(&self) -> i64 {
        self.amount - self.taken.iter().map(|(_, amount)| amount).sum::<i64>()
    }
}

/// The lines for one quantity of a price over a period; their ids are still empty.
pub(super) fn lines_of(
    store: &Store,
    price: &Price,
    quantity: i64,
    subscription: &str,
    item: &str,
    period: Period,
) -> Vec<Line> {
    let name = store.product_name(price);
    let each = |part: super::tiers::Part| {
        let description = match (part.tier, part.quantity) {
            (None, quantity) => {
                format!("{quantity} × {name} (at {} / {})", price.money(part.unit), price.interval().0.word())
            }
            (Some(tier), 0) if part.amount != 0 => {
                format!("{name} (Tier {tier} flat fee at {})", price.money(part.unit))
            }
            (Some(tier), quantity) => {
                format!(
                    "{quantity} × {name} (Tier {tier} at {} / {})",
                    price.money(part.unit),
                    price.interval().0.word()
                )
            }
        };
        Line {
            id: String::new(),
            amount: part.amount,
            description,
            quantity: part.quantity,
            period,
            price: Some(price.id.clone()),
            unit: Some(part.unit),
            subscription: Some(subscription.to_owned()),
            item: Some(item.to_owned()),
            invoice_item: None,
            proration: false,
            own_discounts: None,
            taken: Vec::new(),
            metadata: Metadata::new(),
        }
    };
    price.tariff().parts(quantity).into_iter().map(each).collect()
}

/// The lines for usage, as it is known now.
pub(super) fn arrears_lines(store: &Store, subscription: &Subscription, arrears: &Arrears) -> Vec<Line> {
    let Some(price) = store.prices.get(&arrears.price) else { return Vec::new() };
    let quantity = store.usage_between(price, &subscription.customer, &arrears.item, arrears.span);
    lines_of(store, price, quantity, &subscription.id, &arrears.item, arrears.span)
}

/// A metered item's line on an invoice that bills no usage of it.
pub(super) fn no_usage_line(store: &Store, subscription: &Subscription, item: &Item) -> Option<Line> {
    let price = store.prices.get(&item.price)?;
    let mut line = lines_of(store, price, 0, &subscription.id, &item.id, item.period).into_iter().next()?;
    line.amount = 0;
    Some(line)
}

/// Applies discounts, one after the other, to what the ones before have left.
pub(super) fn apply_discounts(store: &Store, lines: &mut [Line], ids: &[String]) {
    for line in lines.iter_mut() {
        line.taken.clear();
    }
    let mut every: Vec<String> = ids.to_vec();
    for own in lines.iter().filter_map(|line| line.own_discounts.as_ref()).flatten() {
        if !every.contains(own) {
            every.push(own.clone());
        }
    }
    for id in &every {
        let Some(coupon) = coupon_of(store, id) else { continue };
        let holds = |line: &Line| {
            let named = line.own_discounts.as_ref().map_or_else(|| ids.contains(id), |own| own.contains(id));
            named
                && (coupon.products.is_empty()
                    || line_product(store, line).is_some_and(|p| coupon.products.contains(p)))
        };
        let amounts: Vec<i64> = lines.iter().map(|line| if holds(line) { line.net() } else { 0 }).collect();
        let held: Vec<bool> = lines.iter().map(holds).collect();
        let taken = discounts(&amounts, coupon.off);
        for ((line, amount), holds) in lines.iter_mut().zip(taken).zip(held) {
            if holds {
                line.taken.push((id.clone(), amount));
            }
        }
    }
}

fn line_product<'a>(store: &'a Store, line: &Line) -> Option<&'a String> {
    store.prices.get(line.price.as_ref()?).map(|price| &price.product)
}

/// Of the discounts a period was billed with, those that also hold for a part of it: percentages.
pub(super) fn prorated_discounts(store: &Store, subscription: &Subscription) -> Vec<String> {
    let percent = |id: &&String| coupon_of(store, id).is_some_and(|coupon| matches!(coupon.off, Off::Percent(_)));
    subscription.period_discounts.iter().filter(percent).cloned().collect()
}
