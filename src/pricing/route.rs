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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_codes_cost() {
        let codes = vec![StatusCode::SWITCHING_PROTOCOLS, StatusCode::NOT_FOUND];
        let charge_on = ChargeOn { classes: [false, false, true, true, false, false], codes };
        let covered = |code: u16| charge_on.covers(StatusCode::from_u16(code).unwrap());
        assert!([101, 200, 204, 302, 399, 404].into_iter().all(covered));
        assert!(![100, 103, 400, 403, 405, 500, 599, 600, 999].into_iter().any(covered));
    }

    #[test]
    fn a_route_is_bound_by_all_its_charges() {
        let charge = |units| Charge { meter: MeterIndex(0), cost: Cost::Fixed(units) };
        let mut route = Route {
            name: "r".into(),
            charges: vec![charge(2), charge(3)],
            public: false,
            requires: None,
            charge_on: ChargeOn { classes: [false; 6], codes: Vec::new() },
            on_abort: OnAbort::Charge,
            rate: None,
        };
        assert_eq!(route.bound(), 5);
        route.charges.push(charge(u64::MAX));
        assert_eq!(route.bound(), u64::MAX);
        route.public = true;
        assert_eq!(route.bound(), 0);
    }
}
