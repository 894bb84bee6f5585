//! A route and its rule: what it charges, when, and what it asks of the tenant.

use std::sync::Arc;

use http::StatusCode;

use super::{MeterIndex, Rate};

/// One route with its cost rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Label in usage, metrics and journal: `GET /signals/history/{symbol}`, `* /export/csv`, `default`.
    pub name: Arc<str>,
    /// What it charges; empty = free.
    pub charges: Vec<Charge>,
    /// Open without a credential; never metered.
    pub public: bool,
    /// Feature of the plan that must be on.
    pub requires: Option<Arc<str>>,
    /// Which final statuses cost.
    pub charge_on: ChargeOn,
    /// What a client that leaves pays.
    pub on_abort: OnAbort,
    /// Rate of this route, per tenant.
    pub rate: Option<Rate>,
}

impl Route {
    /// The most a request can cost, units of all meters together; 0 if it is public.
    #[must_use]
    pub fn bound(&self) -> u64 {
        if self.public {
            return 0;
        }
        self.charges.iter().fold(0, |sum, charge| charge.cost.bound().saturating_add(sum))
    }
}

/// Units on one meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Which meter.
    pub meter: MeterIndex,
    /// How many units.
    pub cost: Cost,
}

/// Where the number of units comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Known before the request goes out.
    Fixed(u64),
}

impl Cost {
    /// The most it can be: what is reserved at admission.
    #[must_use]
    pub fn bound(&self) -> u64 {
        match self {
            Self::Fixed(units) => *units,
        }
    }
}

/// A set of final statuses: classes and single codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargeOn {
    /// `classes[n]` = every `n`xx costs, for n in 1..=5 (index 0 unused).
    pub classes: [bool; 6],
    /// Single codes that cost as well, for example 101.
    pub codes: Vec<StatusCode>,
}

impl ChargeOn {
    /// Whether a response with `status` costs.
    #[must_use]
    pub fn covers(&self, status: StatusCode) -> bool {
        let class = usize::from(status.as_u16() / 100);
        self.classes.get(class).copied().unwrap_or(false) || self.codes.contains(&status)
    }

    /// How many statuses cost, roughly: a class counts as a hundred.
    pub(super) fn breadth(&self) -> usize {
        self.classes.iter().filter(|costs| **costs).count() * 100 + self.codes.len()
    }
}

/// What a client pays that leaves after the origin had the whole request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAbort {
    /// The known cost.
    Charge,
    /// Nothing.
    Free,
}
