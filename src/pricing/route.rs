//! Routes: which rule a method and path fall under, most specific first.

use std::sync::Arc;

use http::{Method, StatusCode};

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
}

/// What a client pays that leaves after the origin had the whole request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAbort {
    /// The known cost.
    Charge,
    /// Nothing.
    Free,
}

/// All routes, ready to match.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    // (to be written)
}

/// The route that applies.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'a> {
    /// Its index, stable within one `RouteTable`: for per-route counters and names. `default` has one too.
    pub index: usize,
    /// The route.
    pub route: &'a Route,
}

/// The path has a dot segment, plain or encoded, and is refused (`ambiguous_path`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path has a dot segment")]
pub struct Ambiguous;

impl RouteTable {
    /// Every route; [`Matched::index`] points in here.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        todo!()
    }

    /// The route for `method` and the raw request `path` (no query), in every reading an origin might have of it.
    ///
    /// HEAD and OPTIONS use GET's rule unless they have their own.
    ///
    /// # Errors
    /// [`Ambiguous`] when the path holds `.` or `..` as a segment, plain or encoded.
    pub fn find(&self, method: &Method, path: &str) -> Result<Matched<'_>, Ambiguous> {
        let _ = (method, path);
        todo!()
    }
}
