//! All routes, ready to match: which rule a method and path fall under, most specific first.
//!
//! *Most specific*: patterns are compared segment by segment from the left, a fixed segment beats `{name}`, `{name}` beats
//! `{*rest}`; then the one that ends with `/` as the path does; then one for the method beats one for any.
//!
//! *Dearest*: where an origin might read the path otherwise (see `reading`), or without regard to upper and lower case,
//! each reading has its route, and the dearest applies: the greater [`Route::bound`]; then one that is not public; then
//! one that charges for aborts; then one that charges more statuses; then one that requires a feature; then the one listed
//! first. So `public` and cost 0 apply only if every reading says so. What any of them requires is required.

use std::cmp::Reverse;
use std::sync::Arc;

use http::Method;

use super::path::Case;
use super::pattern::Pattern;
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
        let folded = fold(&specs);
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
        each_reading(path, |text, case| self.look_up(method, text, case, &mut found))?;
        let index = found.best.unwrap_or(self.default_index());
        let others = found.others.into_iter().map(|index| &self.routes[index]).collect();
        Ok(Matched { index, route: &self.routes[index], others })
    }

    /// Adds the routes of one reading: upper and lower case distinct, and not.
    fn look_up(&self, method: &Method, text: &str, case: Case, found: &mut Found) {
        self.add(self.exact.find(text.as_bytes(), method), found);
        match (&self.folded, case) {
            (Some(folded), Case::Lower) => self.add(folded.find(text.as_bytes(), method), found),
            (Some(folded), Case::Mixed) => self.add(find_folded(folded, method, text), found),
            (None, Case::Lower) => {}
            (None, Case::Mixed) => self.add(find_folded(&self.exact, method, text), found),
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

/// `None` if no pattern has upper case.
fn fold(specs: &[RouteSpec]) -> Option<Trie<Place>> {
    let mixed = |pattern: &Pattern| pattern.template.case() == Case::Mixed;
    let dearness = |place: Place| dearness(&specs[place.route].route, place.route);
    let dearer = |old, new| if dearness(new) > dearness(old) { new } else { old };
    specs.iter().flat_map(|spec| &spec.patterns).any(mixed).then(|| grow(specs, Spelling::Folded, dearer))
}

/// Greater is dearer; see the head of this file.
fn dearness(route: &Route, index: usize) -> impl Ord {
    let aborts = match route.on_abort {
        OnAbort::Charge => 1,
        OnAbort::Free => 0,
    };
    (route.bound(), !route.public, aborts, route.charge_on.breadth(), route.requires.is_some(), Reverse(index))
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

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::pricing::{Charge, ChargeOn, Cost, MeterIndex};

    pub(super) fn route(name: &str, cost: u64) -> Route {
        Route {
            name: name.into(),
            charges: vec![Charge { meter: MeterIndex(0), cost: Cost::Fixed(cost) }],
            public: false,
            requires: None,
            charge_on: ChargeOn {
                classes: [false, false, true, true, false, false],
                codes: vec![StatusCode::SWITCHING_PROTOCOLS],
            },
            on_abort: OnAbort::Charge,
            rate: None,
        }
    }

    fn public(name: &str) -> Route {
        Route { public: true, ..route(name, 0) }
    }

    fn requiring(name: &str, cost: u64, feature: &str) -> Route {
        Route { requires: Some(feature.into()), ..route(name, cost) }
    }

    pub(super) fn spec(patterns: &str, route: Route) -> RouteSpec {
        RouteSpec { patterns: patterns.split(", ").map(|text| text.parse().unwrap()).collect(), route }
    }

    /// Routes named by their patterns, all of cost 1.
    fn table(patterns: &[&str]) -> RouteTable {
        let specs = patterns.iter().map(|text| spec(text, route(text, 1))).collect();
        RouteTable::new(specs, route("default", 1)).unwrap()
    }

    fn name<'a>(table: &'a RouteTable, request: &str) -> Result<&'a str, Ambiguous> {
        let (method, path) = request.split_once(' ').unwrap();
        let found = table.find(&Method::from_bytes(method.as_bytes()).unwrap(), path)?;
        assert_eq!(table.routes()[found.index], *found.route);
        Ok(&found.route.name)
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let table = table(&[
            "/{*rest}",
            "/a/{*rest}",
            "/a/{x}",
            "/a/b",
            "POST /a/b",
            "GET /a/{x}/c",
            "/a/b/{y}",
            "/{x}/b",
            "/s",
            "/s/",
            "/t/",
            "HEAD /h/{x}",
            "GET /h/1",
            "GET /o",
            "/o",
        ]);
        for (request, expected) in [
            ("GET /", "/{*rest}"),
            ("GET /z", "/{*rest}"),
            ("GET /z/y/x", "/{*rest}"),
            ("GET /a", "/{*rest}"),
            ("GET /a/", "/a/{*rest}"),
            ("GET /a/z", "/a/{x}"),
            ("GET /a/z/", "/a/{x}"),
            ("GET /a/z/y", "/a/{*rest}"),
            ("GET /a/b", "/a/b"),
            ("POST /a/b", "POST /a/b"),
            ("GET /a/z/c", "GET /a/{x}/c"),
            ("POST /a/z/c", "/a/{*rest}"),
            ("GET /a/b/c", "/a/b/{y}"),
            ("GET /z/b", "/{x}/b"),
            // With and without a slash at the end: each its own where both are listed.
            ("GET /s", "/s"),
            ("GET /s/", "/s/"),
            ("GET /t", "/t/"),
            ("GET /t/", "/t/"),
            // HEAD and OPTIONS: the path decides before the method.
            ("HEAD /h/1", "GET /h/1"),
            ("HEAD /h/2", "HEAD /h/{x}"),
            ("GET /h/2", "/{*rest}"),
            ("OPTIONS /o", "GET /o"),
            ("PUT /o", "/o"),
            ("BREW /a/b", "/a/b"),
        ] {
            assert_eq!(name(&table, request), Ok(expected), "{request}");
        }
    }

    #[test]
    fn what_nothing_matches_has_the_default_and_it_stands_last() {
        let table = table(&["/a, /b/{*rest}", "GET /c", "/d/{x}/e"]);
        let names: Vec<_> = table.routes().iter().map(|route| &*route.name).collect();
        assert_eq!(names, ["/a, /b/{*rest}", "GET /c", "/d/{x}/e", "default"]);
        for (request, expected) in [
            ("GET /a", "/a, /b/{*rest}"),
            ("GET /b/c", "/a, /b/{*rest}"),
            ("POST /c", "default"),
            ("GET /d//e", "default"),
            ("OPTIONS *", "default"),
            ("CONNECT ", "default"),
            // Cost 1 in each reading: the one listed first.
            ("GET //c", "GET /c"),
        ] {
            assert_eq!(name(&table, request), Ok(expected), "{request}");
        }
        assert_eq!(name(&table, "GET /b/../c"), Err(Ambiguous::DotSegment));
        assert_eq!(name(&table, "GET c"), Err(Ambiguous::NoSlash));
        let empty = RouteTable::new(Vec::new(), route("default", 1)).unwrap();
        assert_eq!(name(&empty, "GET /a"), Ok("default"));
    }

    #[test]
    fn patterns_for_the_same_requests_are_all_named() {
        let specs = vec![
            spec("GET /a/{x}, /b", route("first", 1)),
            spec("/a/{x}, GET /a/{y}", route("second", 1)),
            spec("/%62, /b/, /B", route("third", 1)),
        ];
        let conflicts = RouteTable::new(specs, route("default", 1)).unwrap_err();
        let texts: Vec<_> = conflicts.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "`GET /a/{y}` matches exactly the requests that `GET /a/{x}` matches; keep one of them",
                "`/%62` matches exactly the requests that `/b` matches; keep one of them",
            ]
        );
        assert_eq!(conflicts[0].first, Place { route: 0, pattern: 0 });
        assert_eq!(conflicts[0].second, Place { route: 1, pattern: 1 });
        assert_eq!(conflicts[1].second, Place { route: 2, pattern: 0 });
    }

    /// As in the documentation, with a dear export and free documents.
    fn shop() -> RouteTable {
        let specs = vec![
            spec("GET /signals", route("signals", 1)),
            spec("GET /signals/history/{symbol}", route("history", 2)),
            spec("/export/csv", requiring("csv", 3, "exports")),
            spec("/export/pdf", route("pdf", 5)),
            spec("/health, /docs/{*rest}", public("open")),
            spec("/users/{id}", route("user", 1)),
            spec("/users/@me", requiring("me", 7, "profile")),
            spec("/internal/{*rest}", route("free", 0)),
        ];
        RouteTable::new(specs, route("default", 1)).unwrap()
    }

    #[test]
    fn a_path_that_may_be_read_otherwise_pays_the_dearest() {
        let shop = shop();
        for (request, expected) in [
            ("GET /export/csv/", "csv"),
            ("GET //export/csv", "csv"),
            ("GET /export//csv", "csv"),
            ("GET //host/export/csv", "csv"),
            ("GET /export%2Fcsv", "csv"),
            ("GET /export%2fpdf", "pdf"),
            ("GET /export/pdf;v=1", "pdf"),
            ("GET /export;a/pdf%3Bb", "pdf"),
            ("GET /export\\pdf", "pdf"),
            ("GET /export%5Cpdf", "pdf"),
            ("GET /%65xport/%70df", "pdf"),
            ("GET /%2565xport/pdf", "pdf"),
            ("GET /EXPORT/Pdf", "pdf"),
            ("GET /%45xport/pdf", "pdf"),
            ("GET /users/@me", "me"),
            ("GET /users/%40me", "me"),
            ("GET /users/%40ME", "me"),
            ("GET /users/42", "user"),
            // Free and public only if every reading says so.
            ("GET /health", "open"),
            ("GET /health/", "open"),
            ("GET /health;x", "default"),
            ("GET //health", "default"),
            ("GET /Health", "default"),
            ("GET /docs/a;b//c%2Fd", "open"),
            ("GET /docs/A%20b", "open"),
            ("GET /docs%2Fa", "default"),
            ("GET /internal//a", "free"),
            ("GET //internal/a", "default"),
            ("GET /internal\\a", "default"),
        ] {
            assert_eq!(name(&shop, request), Ok(expected), "{request}");
        }
        for request in [
            "GET /docs/../export/csv",
            "GET /docs/%2e%2E/export/csv",
            "GET /docs/..;/export/csv",
            "GET /docs/..%2Fexport/csv",
        ] {
            assert_eq!(name(&shop, request), Err(Ambiguous::DotSegment), "{request}");
        }
    }

    #[test]
    fn what_any_reading_requires_is_required() {
        let shop = shop();
        let requires = |path: &str| {
            let found = shop.find(&Method::GET, path).unwrap();
            let mut all: Vec<String> = found.requires().map(ToString::to_string).collect();
            all.sort();
            all
        };
        assert_eq!(requires("/export/pdf"), Vec::<String>::new());
        assert_eq!(requires("/export/csv"), ["exports"]);
        assert_eq!(requires("/Export/csv"), ["exports"]);
        assert_eq!(requires("/users/%40me"), ["profile"]);
        // One reading is the export, another the profile: both features, the dearer price.
        let both = RouteTable::new(
            vec![spec("/a/b", requiring("ab", 1, "x")), spec("/a%2Fb", requiring("one", 2, "y"))],
            route("default", 0),
        );
        let both = both.unwrap();
        let found = both.find(&Method::GET, "/a%2Fb").unwrap();
        assert_eq!((&*found.route.name, found.others.len()), ("one", 1));
        assert_eq!(found.requires().map(|name| &**name).collect::<Vec<_>>(), ["y", "x"]);
    }

    #[test]
    fn upper_case_in_a_pattern_is_dear_to_requests_in_lower_case_too() {
        let specs = vec![spec("/Users/{id}", route("users", 5)), spec("/A", route("A", 2)), spec("/a", route("a", 3))];
        let table = RouteTable::new(specs, route("default", 1)).unwrap();
        for (request, expected) in [
            ("GET /Users/1", "users"),
            ("GET /users/1", "users"),
            ("GET /USERS/1", "users"),
            ("GET /A", "a"),
            ("GET /a", "a"),
        ] {
            assert_eq!(name(&table, request), Ok(expected), "{request}");
        }
        let long = format!("GET /USERS/{}", "X".repeat(SHORT));
        assert_eq!(name(&table, &long), Ok("users"));
    }

    #[test]
    fn of_equally_dear_routes_the_stricter_and_then_the_first_applies() {
        let first = route("first", 1);
        let narrow = ChargeOn { codes: Vec::new(), ..first.charge_on.clone() };
        for (other, expected) in [
            (route("other", 1), "first"),
            (route("other", 2), "other"),
            (requiring("other", 1, "x"), "other"),
            (Route { on_abort: OnAbort::Free, ..route("other", 9) }, "other"),
            (Route { charge_on: narrow, ..route("other", 1) }, "first"),
        ] {
            let table =
                RouteTable::new(vec![spec("/a;b", first.clone()), spec("/a", other)], route("default", 0)).unwrap();
            assert_eq!(name(&table, "GET /a;b"), Ok(expected));
        }
        let lenient = Route { on_abort: OnAbort::Free, ..route("lenient", 1) };
        let table = RouteTable::new(vec![spec("/a;b", lenient), spec("/a", first)], route("default", 0)).unwrap();
        assert_eq!(name(&table, "GET /a;b"), Ok("first"));
        let open =
            RouteTable::new(vec![spec("/a;b", public("open")), spec("/a", route("shut", 0))], route("d", 0)).unwrap();
        assert_eq!(name(&open, "GET /a;b"), Ok("shut"));
    }
}
