//! Plans (tiers): what is included, what more costs, how fast.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::{Feature, Gate, MeterIndex, Status, UnitPrice};

/// One plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name in our own YAML.
    pub name: Arc<str>,
    /// Decimal places of the currency's minor unit: 2 for `usd`, 0 for `jpy`, 3 for `kwd`.
    pub currency_decimals: u32,
    /// Flat monthly price, minor units of the currency.
    pub monthly_minor: i64,
    /// Flat yearly price, minor units, if sold by the year.
    pub yearly_minor: Option<i64>,
    /// Free days before the first invoice, seconds.
    pub trial_s: i64,
    /// Units included per period and meter; a meter that is missing has 0 included.
    pub included: BTreeMap<MeterIndex, u64>,
    /// Price of each unit above `included`, not negative; a meter that is missing is capped at `included`.
    pub overage: BTreeMap<MeterIndex, UnitPrice>,
    /// Most that overage may cost per period, minor units; with it every meter with overage has a cap too.
    pub spend_cap_minor: Option<i64>,
    /// Requests per time.
    pub rate: Option<Rate>,
    /// Exchanges in flight at once, per tenant.
    pub concurrency: Option<NonZeroU32>,
    /// How long a `past_due` subscription still passes, seconds.
    pub grace_s: i64,
    /// What each subscription status opens; a status that is missing has its [`Status::default_gate`].
    pub gates: BTreeMap<Status, Gate>,
    /// Feature flags and limits, as told to the upstream; value `true` opens routes that `require` the name.
    pub features: BTreeMap<Arc<str>, Feature>,
    /// Per cent of `included` at which a warning goes out.
    pub thresholds_percent: Vec<u8>,
    /// What to do when the ledger cannot admit.
    pub on_outage: OnOutage,
}

/// A rate limit: `burst` at once, refilled at `sustained`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests per `per_ms`.
    pub sustained: NonZeroU32,
    /// Length of the window of `sustained`, milliseconds (1 000 for `/s`, 60 000 for `/m`).
    pub per_ms: u64,
    /// Bucket size, requests.
    pub burst: NonZeroU32,
    /// Whose bucket.
    pub per: RatePer,
}

/// Whose bucket a rate fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatePer {
    /// All keys of the tenant together.
    Tenant,
    /// Each key its own.
    Key,
}

/// When the ledger cannot admit more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOutage {
    /// 503.
    Deny,
    /// Up to so many units per node above what is held.
    Allow(u64),
}

impl Plan {
    /// Units of `meter` included per period.
    #[must_use]
    pub fn included(&self, meter: MeterIndex) -> u64 {
        self.included.get(&meter).copied().unwrap_or(0)
    }

    /// Most units of `meter` that one period may use: what is included; with overage, as many more as the whole spend
    /// cap pays for; `None` = no cap.
    ///
    /// Where several meters have overage, each may spend the whole cap: units on one do not lower the cap of another.
    #[must_use]
    pub fn cap(&self, meter: MeterIndex) -> Option<u64> {
        let included = self.included(meter);
        let Some(price) = self.overage.get(&meter) else { return Some(included) };
        let affordable = units_for(self.spend_cap_minor?, *price, self.currency_decimals)?;
        Some(included.saturating_add(affordable))
    }

    /// What `used` units of `meter` cost above what is included, minor units: exact, then rounded once, half up, as
    /// Stripe rounds an invoice line. More than an `i64` holds is `i64::MAX`.
    #[must_use]
    pub fn overage_amount_minor(&self, meter: MeterIndex, used: u64) -> i64 {
        let units = used.saturating_sub(self.included(meter));
        self.overage.get(&meter).map_or(0, |price| amount_minor(units, *price, self.currency_decimals))
    }
}

/// How many whole units at `price` (main units) `spend_minor` pays for, exactly; `None` if they cost nothing.
///
/// Divides digit by digit, so that no product has to fit an integer.
fn units_for(spend_minor: i64, price: UnitPrice, decimals: u32) -> Option<u64> {
    let price_minor = in_minor(price, decimals);
    let divisor = u128::try_from(price_minor.mantissa).ok().filter(|divisor| *divisor > 0)?;
    let spend = u128::try_from(spend_minor).unwrap_or(0);
    let (mut units, mut rest) = (spend / divisor, spend % divisor);
    for _ in 0..price_minor.scale {
        rest *= 10;
        units = units.saturating_mul(10).saturating_add(rest / divisor);
        rest %= divisor;
    }
    Some(u64::try_from(units).unwrap_or(u64::MAX))
}

/// Rounded once, half up.
fn amount_minor(units: u64, price: UnitPrice, decimals: u32) -> i64 {
    let price_minor = in_minor(price, decimals);
    let divisor = 10_i128.pow(price_minor.scale);
    let amount = i128::from(units).checked_mul(price_minor.mantissa.max(0));
    // Half of a power of ten is whole, but for 10^0, where nothing is left to round.
    let rounded = amount.and_then(|amount| Some(amount.checked_add(divisor / 2)? / divisor));
    rounded.and_then(|amount| i64::try_from(amount).ok()).unwrap_or(i64::MAX)
}

/// `mantissa / 10^scale` minor units of the currency.
struct Minor {
    mantissa: i128,
    /// At most 28, as in a `Decimal`.
    scale: u32,
}

fn in_minor(price: UnitPrice, decimals: u32) -> Minor {
    let price = price.normalize();
    let mantissa = price.mantissa().saturating_mul(10_i128.saturating_pow(decimals.saturating_sub(price.scale())));
    Minor { mantissa, scale: price.scale().saturating_sub(decimals) }
}

#[cfg(test)]
impl Plan {
    /// 1 000 units of meter 0 included, each further one at 0.03 in a currency of two decimals.
    pub(super) fn example() -> Self {
        Self {
            name: "starter".into(),
            currency_decimals: 2,
            monthly_minor: 2_900,
            yearly_minor: None,
            trial_s: 0,
            included: BTreeMap::from([(MeterIndex(0), 1_000)]),
            overage: BTreeMap::from([(MeterIndex(0), UnitPrice::new(3, 2))]),
            spend_cap_minor: None,
            rate: None,
            concurrency: None,
            grace_s: 0,
            gates: super::default_gates(),
            features: BTreeMap::new(),
            thresholds_percent: Vec::new(),
            on_outage: OnOutage::Deny,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METER: MeterIndex = MeterIndex(0);
    const OTHER: MeterIndex = MeterIndex(1);

    fn priced(price: &str, decimals: u32) -> Plan {
        let overage = BTreeMap::from([(METER, price.parse().unwrap())]);
        Plan { overage, currency_decimals: decimals, ..Plan::example() }
    }

    #[test]
    fn without_overage_the_cap_is_what_is_included() {
        let plan = Plan { overage: BTreeMap::new(), spend_cap_minor: Some(100_000), ..Plan::example() };
        assert_eq!((plan.cap(METER), plan.cap(OTHER)), (Some(1_000), Some(0)));
        assert_eq!(plan.overage_amount_minor(METER, 5_000), 0);
    }

    #[test]
    fn with_overage_the_cap_is_what_the_spend_cap_pays_for() {
        for (price, decimals, spend_minor, expected) in [
            ("0.03", 2, None, None),
            ("0.03", 2, Some(300), Some(1_100)),
            // 3.00 / 0.07 = 42.86
            ("0.07", 2, Some(300), Some(1_042)),
            ("0.03", 2, Some(2), Some(1_000)),
            ("0.03", 2, Some(0), Some(1_000)),
            ("0.03", 2, Some(-5), Some(1_000)),
            ("0", 2, Some(300), None),
            ("0.000000000001", 2, Some(1), Some(10_000_001_000)),
            ("0.000000000003", 2, Some(1), Some(3_333_334_333)),
            ("2.5", 0, Some(10), Some(1_004)),
            ("0.0015", 3, Some(2), Some(1_001)),
            ("0.000000000001", 2, Some(i64::MAX), Some(u64::MAX)),
            ("0.010", 2, Some(100), Some(1_100)),
        ] {
            let plan = Plan { spend_cap_minor: spend_minor, ..priced(price, decimals) };
            assert_eq!(plan.cap(METER), expected, "{price} {decimals} {spend_minor:?}");
        }
    }

    #[test]
    fn each_meter_may_spend_the_whole_spend_cap() {
        let overage = BTreeMap::from([(METER, UnitPrice::new(1, 0)), (OTHER, UnitPrice::new(2, 0))]);
        let plan = Plan { overage, spend_cap_minor: Some(1_000), ..Plan::example() };
        assert_eq!((plan.cap(METER), plan.cap(OTHER)), (Some(1_010), Some(5)));
    }

    #[test]
    fn overage_is_exact_and_rounded_once_half_up() {
        for (price, decimals, units, expected) in [
            ("0.03", 2, 0, 0),
            ("0.03", 2, 1, 3),
            ("0.03", 2, 250, 750),
            // 0.004 and 0.005 of the main unit are 0.4 and 0.5 of a minor one.
            ("0.004", 2, 1, 0),
            ("0.005", 2, 1, 1),
            ("0.015", 2, 1, 2),
            ("0.025", 2, 1, 3),
            ("0.0049999", 2, 1, 0),
            // Rounded once: three times 0.4 is 1.2, not 0.
            ("0.004", 2, 3, 1),
            ("0.000000000001", 2, 4_999_999_999, 0),
            ("0.000000000001", 2, 5_000_000_000, 1),
            ("1.5", 0, 1, 2),
            ("1.4", 0, 1, 1),
            ("0.0005", 3, 1, 1),
            ("7", 2, 3, 2_100),
            ("7", 3, 3, 21_000),
            ("100", 2, u64::MAX - 1_000, i64::MAX),
            ("-1", 2, 3, 0),
        ] {
            let plan = priced(price, decimals);
            assert_eq!(plan.overage_amount_minor(METER, 1_000 + units), expected, "{units} at {price}, {decimals}");
        }
        assert_eq!(Plan::example().overage_amount_minor(METER, 999), 0);
        assert_eq!(Plan::example().overage_amount_minor(OTHER, 999), 0);
    }

    proptest! {
        #[test]
        fn the_cap_is_the_last_unit_that_the_spend_cap_pays_for(
            mantissa in 1_i64..10_000_000, scale in 0_u32..=12, spend_minor in 0_i64..1_000_000_000, decimals in 0_u32..4,
        ) {
            let price = UnitPrice::new(mantissa, scale);
            let plan = Plan {
                spend_cap_minor: Some(spend_minor),
                included: BTreeMap::new(),
                ..priced(&price.to_string(), decimals)
            };
            let spend = UnitPrice::new(spend_minor, 0) / UnitPrice::new(10_i64.pow(decimals), 0);
            let cap = plan.cap(METER).unwrap();
            // A product in `Decimal` is exact up to 28 digits, which these stay below.
            prop_assert!(UnitPrice::from(cap) * price <= spend);
            prop_assert!(UnitPrice::from(cap + 1) * price > spend);
            prop_assert!(plan.overage_amount_minor(METER, cap) <= spend_minor);
        }

        #[test]
        fn an_amount_is_that_of_decimal_arithmetic(mantissa in 0_i64..10_000_000_000, scale in 0_u32..=12, units in 0_u64..1_000_000_000_000, decimals in 0_u32..4) {
            let price = UnitPrice::new(mantissa, scale);
            let exact = UnitPrice::from(units) * price * UnitPrice::new(10_i64.pow(decimals), 0);
            let rounded = exact.round_dp_with_strategy(0, rust_decimal::RoundingStrategy::MidpointAwayFromZero);
            let expected = i64::try_from(rounded).unwrap_or(i64::MAX);
            let plan = Plan { included: BTreeMap::new(), ..priced(&price.to_string(), decimals) };
            prop_assert_eq!(plan.overage_amount_minor(METER, units), expected);
        }

        #[test]
        fn any_price_is_answered(price: i64, high: i32, scale in 0_u32..=28, units: u64, spend_minor: i64, decimals in 0_u32..6) {
            let price = UnitPrice::from_i128_with_scale(i128::from(price) * i128::from(high), scale);
            let plan = Plan { spend_cap_minor: Some(spend_minor), ..Plan::example() };
            let plan = Plan { overage: BTreeMap::from([(METER, price)]), currency_decimals: decimals, ..plan };
            prop_assert!(plan.cap(METER).is_none_or(|cap| cap >= 1_000));
            prop_assert!(plan.overage_amount_minor(METER, units) >= 0);
        }
    }
}
