//! What things cost: meters, plans, routes and their rules. Pure: no I/O, no clock; names no other room but `units`.
//!
//! | file | what |
//! |---|---|
//! | [`template`], [`pattern`] | the one path grammar, `/a/{name}/{*rest}`, for routes and key scopes |
//! | [`reading`] | every way in which an origin might read a request path |
//! | [`route`], [`table`] | a route and its cost rule; all of them, ready to match |
//! | [`plan`], [`feature`] | what a plan includes and what more costs; what it tells the upstream |
//! | [`gate`] | what a subscription's status opens |

use std::collections::BTreeMap;
use std::sync::Arc;

use rust_decimal::Decimal;

pub mod feature;
pub mod gate;
mod path;
pub mod pattern;
pub mod plan;
pub mod reading;
pub mod route;
pub mod table;
pub mod template;
mod trie;

pub use feature::Feature;
pub use gate::{Access, Gate, Status, default_gates};
pub use pattern::{Pattern, Scope};
pub use plan::{OnOutage, Plan, Rate, RatePer};
pub use reading::Ambiguous;
pub use route::{Charge, ChargeOn, Cost, OnAbort, Route};
pub use table::{Conflict, Matched, Place, RouteSpec, RouteTable};
pub use template::{Template, TemplateError};

/// The whole of `pricing.yaml`, checked.
#[derive(Clone, Debug)]
pub struct Pricing {
    /// In the file's order; a [`Charge`] names a meter by its index here.
    pub meters: Vec<Meter>,
    /// By name.
    pub plans: BTreeMap<Arc<str>, Arc<Plan>>,
    /// Method and path to route.
    pub routes: RouteTable,
}

/// Index into [`Pricing::meters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MeterIndex(pub usize);

/// Something that is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    /// Name in our own YAML, API and records.
    pub name: Arc<str>,
    /// How values combine.
    pub kind: MeterKind,
    /// `event_name` of the Stripe meter (at most 100 characters).
    pub stripe_event: Arc<str>,
}

/// How a meter's values combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeterKind {
    /// Summed.
    Counter,
    /// The last value counts.
    Gauge,
}

/// Price of one unit in the currency's main unit, up to 12 decimal places, exact.
pub type UnitPrice = Decimal;
