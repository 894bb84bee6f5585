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
