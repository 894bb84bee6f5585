//! All routes, ready to match: which rule a method and path fall under, most specific first.

use std::sync::Arc;

use http::Method;

use super::reading::Ambiguous;
use super::route::Route;
use super::template::Pattern;

/// One route as configured: what it matches, and its rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSpec {
    /// Any of these leads to the route.
    pub patterns: Vec<Pattern>,
    /// The rule.
    pub route: Route,
}

/// All routes, ready to match.
#[derive(Clone, Debug)]
pub struct RouteTable {
    routes: Vec<Route>,
}

/// The route that applies.
#[derive(Clone, Debug)]
pub struct Matched<'a> {
    /// Its index in [`RouteTable::routes`], stable within one table: for per-route counters and names.
    pub index: usize,
    /// The route: the dearest of all readings of the path.
    pub route: &'a Route,
    /// The other routes that some reading of the path leads to, dearest first; empty (and not allocated) for a plain path.
    pub others: Vec<&'a Route>,
}

impl<'a> Matched<'a> {
    /// Every feature that the plan must have on: those of all readings, each once.
    pub fn requires(&self) -> impl Iterator<Item = &'a Arc<str>> {
        std::iter::empty()
    }
}

/// Where a pattern stands in the list given to [`RouteTable::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the [`RouteSpec`].
    pub route: usize,
    /// Index in its [`RouteSpec::patterns`].
    pub pattern: usize,
}

/// Two patterns that match exactly the same requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{second_text}` matches exactly the requests that `{first_text}` matches; keep one of them")]
pub struct Conflict {
    /// The earlier one.
    pub first: Place,
    /// As written.
    pub first_text: String,
    /// The later one.
    pub second: Place,
    /// As written.
    pub second_text: String,
}

impl RouteTable {
    /// Builds the table; `default` applies where nothing matches and stands last in [`RouteTable::routes`].
    ///
    /// # Errors
    /// Every pair of patterns that match the same requests.
    pub fn new(specs: Vec<RouteSpec>, default: Route) -> Result<Self, Vec<Conflict>> {
        let mut routes: Vec<Route> = specs.into_iter().map(|spec| spec.route).collect();
        routes.push(default);
        Ok(Self { routes })
    }

    /// Every route, in the order given, `default` last; [`Matched::index`] points in here.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The route for `method` and the raw request `path` (no query), in every reading an origin might have of it.
    ///
    /// HEAD and OPTIONS use GET's rule unless they have their own.
    ///
    /// # Errors
    /// [`Ambiguous`]: refuse the request with `ambiguous_path`.
    pub fn find(&self, method: &Method, path: &str) -> Result<Matched<'_>, Ambiguous> {
        let _ = (method, path);
        todo!()
    }
}
