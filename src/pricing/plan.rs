//! Plans (tiers): what is included, what more costs, how fast, and what the subscription's status opens.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{MeterIndex, UnitPrice};

/// One plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name in our own YAML.
    pub name: Arc<str>,
    /// Flat monthly price, minor units of the currency.
    pub monthly_minor: i64,
    /// Flat yearly price, minor units, if sold by the year.
    pub yearly_minor: Option<i64>,
    /// Free days before the first invoice, seconds.
    pub trial_s: i64,
    /// Units included per period and meter; a meter that is missing has 0 included.
    pub included: BTreeMap<MeterIndex, u64>,
    /// Price of each unit above `included`; a meter that is missing is capped at `included`.
    pub overage: BTreeMap<MeterIndex, UnitPrice>,
    /// Most that overage may cost per period, minor units; with it every meter with overage has a cap too.
    pub spend_cap_minor: Option<i64>,
    /// Requests per time.
    pub rate: Option<Rate>,
    /// Exchanges in flight at once, per tenant.
    pub concurrency: Option<NonZeroU32>,
    /// How long a `past_due` subscription still passes, seconds.
    pub grace_s: i64,
    /// What each subscription status opens; every status has an entry.
    pub gates: BTreeMap<Status, Gate>,
    /// Feature flags and limits, as told to the upstream; value `true` opens routes that `require` the name.
    pub features: BTreeMap<Arc<str>, Feature>,
    /// Per cent of `included` at which a warning goes out.
    pub thresholds_percent: Vec<u8>,
    /// What to do when the ledger cannot admit.
    pub on_outage: OnOutage,
}

/// A plan's feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feature {
    /// On or off.
    Flag(bool),
    /// A number, for example `models: 10`.
    Number(u64),
    /// A word.
    Text(Arc<str>),
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

/// A subscription's status, as Stripe names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// In its trial.
    Trialing,
    /// Paid.
    Active,
    /// The last invoice was not paid; Stripe retries.
    PastDue,
    /// Retries are over.
    Unpaid,
    /// Ended.
    Canceled,
    /// The first invoice is not paid yet.
    Incomplete,
    /// The first invoice was not paid in time.
    IncompleteExpired,
    /// The trial ended without a payment method.
    Paused,
}

/// What a subscription status opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Everything, on this plan.
    Pass,
    /// Everything for `grace_s` from the moment of the status, then 402.
    Grace,
    /// The plan named `free` applies.
    Free,
    /// 402 `subscription_inactive`.
    Deny,
}
