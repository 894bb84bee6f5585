//! All routes, ready to match: which rule a method and path fall under, most specific first.
//!
//! *Most specific*: patterns are compared segment by segment from the left, a fixed segment beats `{name}`, `{name}` beats
//! `{*rest}`; then the one that ends with `/` as the path does; then one for the method beats one for any.
//!
//! *Dearest*: where an origin might read the path otherwise (see `reading`), or without regard to upper and lower case,
//! each reading has its route, and the dearest applies: the greater [`Route::bound`]; then one that is not public; then
//! one that charges for aborts; then one that charges more statuses; then the one listed first. So `public` and cost 0
//! apply only if every reading says so. What any of them requires is required.

use std::cmp::Reverse;
use std::sync::Arc;

use http::Method;

use super::pattern::{Pattern, has_upper_case};
use super::reading::{Ambiguous, each_reading};
use super::route::{OnAbort, Route};
use super::trie::{Spelling, Trie};

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
    /// `default` last.
    routes: Vec<Route>,
    exact: Trie<Place>,
    /// For origins to which upper and lower case are the same; `None` = as `exact`, nothing in it being upper case.
    folded: Option<Trie<Place>>,
}

/// The route that applies.
#[derive(Clone, Debug)]
pub struct Matched<'a> {
    /// Its index in [`RouteTable::routes`], stable within one table: for per-route counters and names.
    pub index: usize,
    /// The route: the dearest of all readings of the path.
    pub route: &'a Route,
    /// The other routes that some reading of the path leads to; empty (and not allocated) for a plain path.
    pub others: Vec<&'a Route>,
}

impl<'a> Matched<'a> {
    /// Every feature that the plan must have on: those of all readings. One may come twice.
    pub fn requires(&self) -> impl Iterator<Item = &'a Arc<str>> {
        std::iter::once(&self.route).chain(&self.others).filter_map(|route| route.requires.as_ref())
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
    /// Every pattern that matches the same requests as an earlier one.
    pub fn new(specs: Vec<RouteSpec>, default: Route) -> Result<Self, Vec<Conflict>> {
        let mut conflicts = Vec::new();
        let exact = grow(&specs, Spelling::Exact, |first, second| {
            conflicts.push(Conflict::new(&specs, first, second));
            first
        });
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        let folded = specs.iter().flat_map(|spec| &spec.patterns).any(Pattern::has_upper_case).then(|| {
            let dearness = |place: Place| dearness(&specs[place.route].route, place.route);
            grow(&specs, Spelling::Folded, |old, new| if dearness(new) > dearness(old) { new } else { old })
        });
        let routes = specs.into_iter().map(|spec| spec.route).chain([default]).collect();
        Ok(Self { routes, exact, folded })
    }

    /// Every route, in the order given, `default` last; [`Matched::index`] points in here.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The route for `method` and the raw request `path` (no query), in every reading an origin might have of it.
    ///
    /// HEAD and OPTIONS use GET's rule unless they have their own. `*` (of `OPTIONS *`) and the empty path have the default.
    ///
    /// # Errors
    /// [`Ambiguous`]: refuse the request with `ambiguous_path`.
    pub fn find(&self, method: &Method, path: &str) -> Result<Matched<'_>, Ambiguous> {
        let mut found = Found { best: None, others: Vec::new() };
        each_reading(path, |text| self.look_up(method, text, &mut found))?;
        let index = found.best.unwrap_or(self.default_index());
        let others = found.others.into_iter().map(|index| &self.routes[index]).collect();
        Ok(Matched { index, route: &self.routes[index], others })
    }

    /// Adds the routes of one reading: upper and lower case distinct, and not.
    fn look_up(&self, method: &Method, text: &str, found: &mut Found) {
        self.add(self.exact.find(text.as_bytes(), method), found);
        match &self.folded {
            Some(folded) => self.add(find_folded(folded, method, text), found),
            None if has_upper_case(text) => self.add(find_folded(&self.exact, method, text), found),
            None => {}
        }
    }

    fn add(&self, place: Option<Place>, found: &mut Found) {
        let index = place.map_or(self.default_index(), |place| place.route);
        let Some(best) = found.best.replace(index) else { return };
        if best == index || found.others.contains(&index) {
            found.best = Some(best);
            return;
        }
        let dearness = |index: usize| dearness(&self.routes[index], index);
        let (best, other) = if dearness(index) > dearness(best) { (index, best) } else { (best, index) };
        found.best = Some(best);
        found.others.push(other);
    }

    fn default_index(&self) -> usize {
        self.routes.len() - 1
    }
}

/// The routes of the readings so far, each once.
struct Found {
    best: Option<usize>,
    others: Vec<usize>,
}

fn grow(specs: &[RouteSpec], spelling: Spelling, mut resolve: impl FnMut(Place, Place) -> Place) -> Trie<Place> {
    let mut trie = Trie::new();
    for (route, spec) in specs.iter().enumerate() {
        for (pattern, text) in spec.patterns.iter().enumerate() {
            trie.insert(text, spelling, Place { route, pattern }, &mut resolve);
        }
    }
    trie
}

/// Greater is dearer; see the head of this file.
fn dearness(route: &Route, index: usize) -> impl Ord {
    let aborts = match route.on_abort {
        OnAbort::Charge => 1,
        OnAbort::Free => 0,
    };
    (route.bound(), !route.public, aborts, route.charge_on.breadth(), Reverse(index))
}

/// The longest path that is folded without an allocation, bytes.
const SHORT: usize = 256;

fn find_folded(trie: &Trie<Place>, method: &Method, text: &str) -> Option<Place> {
    let mut short = [0_u8; SHORT];
    let Some(short) = short.get_mut(..text.len()) else {
        return trie.find(text.to_ascii_lowercase().as_bytes(), method);
    };
    short.copy_from_slice(text.as_bytes());
    short.make_ascii_lowercase();
    trie.find(short, method)
}

impl Conflict {
    fn new(specs: &[RouteSpec], first: Place, second: Place) -> Self {
        let text = |place: Place| specs[place.route].patterns[place.pattern].to_string();
        Self { first, first_text: text(first), second, second_text: text(second) }
    }
}
