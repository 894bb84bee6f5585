//! Everything one account holds.

use std::collections::{BTreeSet, HashMap};

use super::agenda::{Agenda, Scope};
use super::checkout::Session;
use super::collect::DunningEnd;
use super::coupons::Coupon;
use super::customers::Customer;
use super::cycle::Period;
use super::discounts::Discount;
use super::errors::ApiError;
use super::events::Event;
use super::invoice_items::InvoiceItem;
use super::invoices::Invoice;
use super::meter_events::Usage;
use super::meters::Meter;
use super::outbox::Outbox;
use super::params::Params;
use super::payment_methods::PaymentMethod;
use super::portal::PortalSession;
use super::portal_configurations::Configuration;
use super::prices::Price;
use super::products::Product;
use super::promotion_codes::PromotionCode;
use super::series::Span;
use super::setup_intents::SetupIntent;
use super::shelf::Shelf;
use super::subscriptions::Subscription;
use super::test_clocks::TestClock;
use super::thin_events::ThinEvent;
use super::usage_records::Records;
use super::webhook_endpoints::Endpoint;

/// The account's objects. One mutex guards all of it, so an operation is atomic.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) ids: Ids,
    /// The sandbox's time, Unix seconds: of the call, or of what is due.
    pub(super) now_s: i64,
    /// Where the hosted pages are.
    pub(super) base_url: String,
    pub(super) agenda: Agenda,
    pub(super) outbox: Outbox,
    pub(super) dunning_end: DunningEnd,
    pub(super) customers: Shelf<Customer>,
    pub(super) products: Shelf<Product>,
    pub(super) prices: Shelf<Price>,
    pub(super) meters: Shelf<Meter>,
    pub(super) usage: Usage,
    pub(super) payment_methods: Shelf<PaymentMethod>,
    pub(super) setup_intents: Shelf<SetupIntent>,
    pub(super) coupons: Shelf<Coupon>,
    /// Deleted, and still at work.
    pub(super) gone_coupons: HashMap<String, Coupon>,
    pub(super) promotion_codes: Shelf<PromotionCode>,
    pub(super) discounts: Shelf<Discount>,
    pub(super) subscriptions: Shelf<Subscription>,
    /// Which subscription an item is on.
    pub(super) item_homes: HashMap<String, String>,
    pub(super) invoices: Shelf<Invoice>,
    /// Invoices whose lines follow the usage.
    pub(super) drafts: BTreeSet<String>,
    pub(super) invoice_items: Shelf<InvoiceItem>,
    pub(super) test_clocks: Shelf<TestClock>,
    pub(super) sessions: Shelf<Session>,
    pub(super) portal_configurations: Shelf<Configuration>,
    pub(super) portal_sessions: Shelf<PortalSession>,
    pub(super) endpoints: Shelf<Endpoint>,
    pub(super) events: Shelf<Event>,
    pub(super) thin_events: Shelf<ThinEvent>,
    pub(super) records: Records,
}

impl Store {
    /// An empty account.
    pub(super) fn new(usage: Usage) -> Self {
        Self {
            ids: Ids::new(),
            now_s: 0,
            base_url: String::new(),
            agenda: Agenda::default(),
            outbox: Outbox::new(),
            dunning_end: DunningEnd::default(),
            customers: Shelf::new("customer"),
            products: Shelf::new("product"),
            prices: Shelf::new("price"),
            meters: Shelf::new("meter"),
            usage,
            payment_methods: Shelf::new("PaymentMethod"),
            setup_intents: Shelf::new("setupintent"),
            coupons: Shelf::new("coupon"),
            gone_coupons: HashMap::new(),
            promotion_codes: Shelf::new("promotion code"),
            discounts: Shelf::new("discount"),
            subscriptions: Shelf::new("subscription"),
            item_homes: HashMap::new(),
            invoices: Shelf::new("invoice"),
            drafts: BTreeSet::new(),
            invoice_items: Shelf::new("invoiceitem"),
            test_clocks: Shelf::new("test clock"),
            sessions: Shelf::new("checkout session"),
            portal_configurations: Shelf::new("configuration"),
            portal_sessions: Shelf::new("billing portal session"),
            endpoints: Shelf::new("webhook endpoint"),
            events: Shelf::new("event"),
            thin_events: Shelf::new("event"),
            records: Records::default(),
        }
    }

    /// The time on a test clock, or the sandbox's without one.
    pub(super) fn time_on(&self, clock: Option<&str>) -> i64 {
        clock.and_then(|id| self.test_clocks.get(id)).map_or(self.now_s, |clock| clock.frozen)
    }

    /// A customer's time: its test clock's, if it has one.
    pub(super) fn time_of(&self, customer: Option<&str>) -> i64 {
        let customer = customer.and_then(|id| self.customers.get(id));
        self.time_on(customer.and_then(Customer::test_clock))
    }

    /// What is due happens at its own time.
    pub(super) fn set_time(&mut self, scope: &Scope, at: i64) {
        match scope {
            Scope::Sandbox => self.now_s = at,
            Scope::Clock(id) => {
                if let Ok(clock) = self.test_clocks.need_mut(id, "test_clock") {
                    clock.frozen = clock.frozen.max(at);
                }
            }
        }
    }

    /// `ABCDEFGH-0001`
    pub(super) fn next_invoice_number(&mut self, customer: &str) -> String {
        let Ok(customer) = self.customers.need_mut(customer, "customer") else { return "GONE-0001".to_owned() };
        let number = customer.next_invoice_sequence;
        customer.next_invoice_sequence += 1;
        format!("{}-{number:04}", customer.invoice_prefix.as_deref().unwrap_or("SANDBOX"))
    }

    pub(super) fn product_name(&self, price: &Price) -> String {
        self.products.get(&price.product).map_or_else(|| price.product.clone(), |product| product.name.clone())
    }

    /// What a customer used of a metered price in a period; less than nothing is nothing.
    pub(super) fn usage_between(&self, price: &Price, customer: &str, item: &str, span: Period) -> i64 {
        let Some(meter) = price.meter() else { return self.records.total(item, span) };
        let counted = self.meters.get(meter).zip(self.usage.series(meter, customer)).and_then(|(meter, series)| {
            let span = Span { from: span.start, to: span.end, visible_ms: i64::MAX };
            series.aggregate(span, meter.formula(), meter.event_time_window)
        });
        i64::try_from(counted.unwrap_or_default().max(0)).unwrap_or(i64::MAX)
    }

    /// Whether an endpoint has not yet acknowledged `invoice.created` for this invoice.
    pub(super) fn is_unacknowledged(&self, invoice: &str) -> bool {
        let created = |event: &&Event| event.kind == "invoice.created" && event.is_about(invoice);
        self.outbox.unfinished() > 0
            && self.events.iter().rev().find(created).is_some_and(|event| self.outbox.pending(&event.id) > 0)
    }
}

/// A day in words: `1 Oct 2026`.
pub(super) fn day(at: i64) -> String {
    let date = jiff::Timestamp::from_second(at).map(|at| at.to_zoned(jiff::tz::TimeZone::UTC));
    date.map_or_else(|_| at.to_string(), |date| date.strftime("%-d %b %Y").to_string())
}

/// Whether a call's `Stripe-Version` is older than usage records' end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Legacy {
    /// Before `2025-03-31.basil`: usage records, metered prices without a meter.
    Yes,
    No,
}

impl Legacy {
    /// By the date a version begins with.
    pub(super) fn of(version: Option<&str>) -> Self {
        let date = version.and_then(|version| version.get(..10));
        if date.is_some_and(|date| date < "2025-03-31") { Self::Yes } else { Self::No }
    }
}

/// One call of an operation.
#[derive(Debug)]
pub(super) struct Call {
    /// The sandbox's time, milliseconds since the epoch.
    pub(super) now_ms: i64,
    /// How far summaries are behind, milliseconds.
    pub(super) lag_ms: i64,
    /// Which API the caller means.
    pub(super) legacy: Legacy,
    /// `Idempotency-Key`
    pub(super) key: Option<String>,
    /// Query or body.
    pub(super) params: Params,
}

impl Call {
    /// The sandbox's time in Unix seconds.
    pub(super) fn now_s(&self) -> i64 {
        self.now_ms.div_euclid(1_000)
    }

    /// No parameter may be left.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        self.params.finish()
    }
}

/// Ids as Stripe's look: never the same twice, neither in this sandbox nor in the next one, so that records kept
/// from an earlier run never meet somebody else's customer.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    salt: String,
    next: u64,
}

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

impl Ids {
    pub(super) fn new() -> Self {
        let mut random = [0_u8; 8];
        // Without the system's randomness ids are still unique within this sandbox.
        if getrandom::fill(&mut random).is_err() {
            tracing::warn!("no randomness from the system: ids of this sandbox repeat those of another one");
        }
        Self { salt: base62(u64::from_le_bytes(random), 8), next: 0 }
    }

    /// The ids of an earlier run, again.
    pub(super) fn with_salt(salt: String) -> Self {
        Self { salt, next: 0 }
    }

    pub(super) fn salt(&self) -> &str {
        &self.salt
    }

    /// `cus_` and 14 letters.
    pub(super) fn make(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}_{}{}", self.salt, base62(self.next, 6))
    }
}

/// The last `digits` digits of a number in base 62.
fn base62(mut n: u64, digits: usize) -> String {
    let mut text = vec!['0'; digits];
    for place in text.iter_mut().rev() {
        let digit = usize::try_from(n % 62).unwrap_or_default();
        *place = char::from(ALPHABET[digit]);
        n /= 62;
    }
    text.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_within_a_sandbox_and_between_two() {
        let (mut a, mut b) = (Ids::new(), Ids::new());
        let ids = [a.make("cus"), a.make("cus"), b.make("cus"), b.make("cus")];
        assert!(ids.iter().all(|id| id.len() == "cus_".len() + 14));
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    }

    #[test]
    fn base62_counts() {
        assert_eq!([base62(0, 2), base62(61, 2), base62(62, 2)], ["00", "0z", "10"]);
    }
}
