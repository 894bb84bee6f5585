//! The `routes` and `default` sections of `pricing.yaml`.

use std::sync::Arc;

use http::StatusCode;

use super::check::{Cursor, Fields};
use super::plans::{self, Plans};
use super::prices::{Context, Meters, shared};
use super::scalar::{FLAG, Kind, NAME, UNITS};
use crate::pricing::{
    Charge, ChargeOn, Conflict, Cost, Feature, OnAbort, Pattern, Place, Route, RouteSpec, RouteTable,
};

/// Keys of a cost that is read from the response or measured: a later version's.
pub(super) const FROM_RESPONSE: &[&str] =
    &["json", "header", "sse", "bytes", "bytes_in", "bytes_out", "duration", "max", "per"];

const RULE: &[&str] = &["cost", "meter", "charge_on", "on_abort", "rate", "requires", "public"];

/// What a rule is read against.
struct Reader<'a> {
    meters: &'a Meters,
    plans: &'a Plans,
    self_service: Option<&'a str>,
}

/// The table; `None` only together with a mistake.
pub(super) fn read(top: &Fields<'_>, meters: &Meters, plans: &Plans, context: Context<'_>) -> Option<RouteTable> {
    let reader = Reader { meters, plans, self_service: context.self_service };
    let default = reader.default(&top.section("default", RULE));
    let rules = top.given("routes").and_then(Cursor::items).unwrap_or_default();
    let routes: Vec<(RouteSpec, Cursor<'_>)> = rules.iter().flat_map(|rule| reader.rule(rule, &default)).collect();
    let (specs, places): (Vec<RouteSpec>, Vec<Cursor<'_>>) = routes.into_iter().unzip();
    match RouteTable::new(specs, default) {
        Ok(table) => Some(table),
        Err(conflicts) => {
            for conflict in &conflicts {
                note_conflict(conflict, &places);
            }
            None
        }
    }
}

fn note_conflict(conflict: &Conflict, places: &[Cursor<'_>]) {
    let line = |place: Place| places.get(place.route).map_or(0, |cursor| cursor.node.at.line);
    if let Some(cursor) = places.get(conflict.second.route) {
        let problem = format!(
            "`{}` matches exactly the requests of `{}` on line {}",
            conflict.second_text,
            conflict.first_text,
            line(conflict.first)
        );
        cursor.wrong(problem, "one rule for each request");
    }
}

impl Reader<'_> {
    fn default(&self, fields: &Fields<'_>) -> Route {
        let name = shared("default".to_owned());
        let builtin = Route {
            charges: self.builtin_charge(fields),
            name,
            public: false,
            requires: None,
            charge_on: charge_on_default(),
            on_abort: OnAbort::Charge,
            rate: None,
        };
        self.route(fields, &builtin)
    }

    /// One unit of the main meter; without a main meter `default.cost` must say.
    fn builtin_charge(&self, fields: &Fields<'_>) -> Vec<Charge> {
        let Some(meter) = self.meters.main() else {
            if fields.get("cost").is_none() {
                fields.of.wrong_key(NO_METER, format!("default: {{ cost: … }} on one of {}", self.meters.listed()));
            }
            return Vec::new();
        };
        if self.meters.is_gauge(meter) {
            return Vec::new();
        }
        vec![Charge { meter, cost: Cost::Fixed(1) }]
    }

    /// One entry of `routes`: a route for each of its patterns.
    fn rule<'c>(&self, rule: &Cursor<'c>, default: &Route) -> Vec<(RouteSpec, Cursor<'c>)> {
        let keys: Vec<&str> = ["match"].into_iter().chain(RULE.iter().copied()).collect();
        let fields = rule.fields(&keys);
        let route = self.route(&fields, default);
        let patterns = self.patterns(&fields).into_iter().map(|(pattern, at)| {
            let route = Route { name: label(&pattern), ..route.clone() };
            (RouteSpec { patterns: vec![pattern], route }, at)
        });
        patterns.collect()
    }

    fn patterns<'c>(&self, fields: &Fields<'c>) -> Vec<(Pattern, Cursor<'c>)> {
        let Some(cursor) = fields.required("match", MATCH) else { return Vec::new() };
        let items = if cursor.text().is_empty() { cursor.items().unwrap_or_default() } else { vec![cursor.clone()] };
        if items.is_empty() && cursor.found() == "a list" {
            cursor.wrong("the list is empty", MATCH);
        }
        items.into_iter().filter_map(|item| Some((self.pattern(&item)?, item))).collect()
    }

    fn pattern(&self, item: &Cursor<'_>) -> Option<Pattern> {
        let parsed = match Pattern::parse(&item.text()) {
            _ if item.text().is_empty() => Err("there is no template".to_owned()),
            Ok(pattern) => Ok(pattern),
            Err(error) => Err(error.to_string()),
        };
        match parsed {
            Ok(pattern) => {
                self.check_reach(item, &pattern);
                Some(pattern)
            }
            Err(problem) => {
                item.wrong(format!("{} is not a template: {problem}", item.found()), MATCH);
                None
            }
        }
    }

    /// What lies under the self-service prefix is answered there; a rule for it would look as if it counted.
    fn check_reach(&self, item: &Cursor<'_>, pattern: &Pattern) {
        let Some(prefix) = self.self_service else { return };
        let below = pattern.template.text.strip_prefix(prefix);
        if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            let problem = format!("{} is never reached: `{prefix}` answers tenants itself", item.found());
            item.wrong(problem, "another path, or another self_service.prefix in tollgate.yaml");
        }
    }

    /// The rule in `fields`; what it leaves open is as in `default`, except for `rate`, `requires` and `public`.
    fn route(&self, fields: &Fields<'_>, default: &Route) -> Route {
        let public = fields.or("public", &FLAG, false);
        let charges = self.charges(fields).unwrap_or_else(|| default.charges.clone());
        let route = Route {
            name: default.name.clone(),
            charges: if public && fields.get("cost").is_none() { Vec::new() } else { charges },
            public,
            requires: fields.given("requires").and_then(|cursor| self.requires(cursor)),
            charge_on: fields.get("charge_on").and_then(charge_on).unwrap_or_else(|| default.charge_on.clone()),
            on_abort: fields.get("on_abort").and_then(on_abort).unwrap_or(default.on_abort),
            rate: fields.given("rate").and_then(plans::rate),
        };
        check_public(fields, &route);
        route
    }

    fn charges(&self, fields: &Fields<'_>) -> Option<Vec<Charge>> {
        let Some(cost) = fields.get("cost") else {
            if let Some(meter) = fields.given("meter") {
                meter.wrong_key("`meter` without `cost`", "cost: N beside it");
            }
            return None;
        };
        let charges = if cost.is_map() { self.by_meter(fields, cost)? } else { self.single(fields, cost)? };
        // A free route has no charges at all, so that nobody asks a budget for 0 units.
        Some(charges.into_iter().filter(|charge| charge.cost.bound() > 0).collect())
    }

    fn single(&self, fields: &Fields<'_>, cost: &Cursor<'_>) -> Option<Vec<Charge>> {
        let units = cost.read(&COST)?;
        let meter = match fields.given("meter") {
            Some(cursor) => self.meters.value(cursor),
            None if units == 0 => return Some(Vec::new()),
            None => self.main(cost),
        }?;
        self.charge(cost, meter, units).map(|charge| vec![charge])
    }

    fn main(&self, cost: &Cursor<'_>) -> Option<crate::pricing::MeterIndex> {
        let main = self.meters.main();
        if main.is_none() {
            cost.wrong(
                NO_METER,
                format!("meter: NAME beside `cost`, or cost: {{ NAME: N }}; {}", self.meters.listed()),
            );
        }
        main
    }

    fn by_meter(&self, fields: &Fields<'_>, cost: &Cursor<'_>) -> Option<Vec<Charge>> {
        let entries = cost.entries()?;
        if let Some((key, entry)) = entries.iter().find(|(key, _)| FROM_RESPONSE.contains(key)) {
            let problem = format!("a cost taken from the response (`{key}`) is not supported in this version");
            entry.wrong_key(problem, "a number, or a number per meter: { api_units: 2 }");
            return None;
        }
        if let Some(meter) = fields.given("meter") {
            meter.wrong_key("`meter` beside a `cost` that names its meters", "leave it out");
        }
        let charges = entries.iter().filter_map(|(name, entry)| {
            let (meter, units) = (self.meters.key(name, entry), entry.read(&COST));
            self.charge(entry, meter?, units?)
        });
        Some(charges.collect())
    }

    fn charge(&self, at: &Cursor<'_>, meter: crate::pricing::MeterIndex, units: u64) -> Option<Charge> {
        if units > 0 && self.meters.is_gauge(meter) {
            at.wrong("a gauge has a value and no sum: a request cannot add to it", "a meter of kind counter");
            return None;
        }
        Some(Charge { meter, cost: Cost::Fixed(units) })
    }

    /// A feature that some plan switches on; otherwise nobody could ever call the route.
    fn requires(&self, cursor: &Cursor<'_>) -> Option<Arc<str>> {
        let name = cursor.read(&NAME)?;
        let on = |plan: &Arc<crate::pricing::Plan>| plan.features.get(name.as_str()) == Some(&Feature::Flag(true));
        if !self.plans.values().any(on) {
            let mut known: Vec<&str> = self.plans.values().flat_map(|plan| switched_on(plan)).collect();
            known.sort_unstable();
            known.dedup();
            let allowed = if known.is_empty() {
                "a feature that a plan switches on: features: { exports: true }".to_owned()
            } else {
                known.join(", ")
            };
            cursor.wrong_word(format!("no plan has the feature {}", cursor.found()), allowed, known);
        }
        Some(shared(name))
    }
}

fn switched_on(plan: &crate::pricing::Plan) -> impl Iterator<Item = &str> {
    plan.features.iter().filter(|(_, value)| **value == Feature::Flag(true)).map(|(name, _)| &**name)
}

const NO_METER: &str = "there are several meters, and none is named api_units";

const MATCH: &str = "[METHOD ]/path with {name} for one segment and {*rest} at the end, or a list of these";

/// Units of one request: bounded so that sums of many stay far from every overflow.
const COST: Kind<u64> = Kind {
    name: "a cost",
    allowed: "a whole number of units from 0 to 1000000000, or a number per meter: { api_units: 2, events: 1 }",
    parse: |scalar| (UNITS.parse)(scalar).filter(|units| *units <= 1_000_000_000),
};

fn label(pattern: &Pattern) -> Arc<str> {
    let method = pattern.method.as_ref().map_or("*", http::Method::as_str);
    shared(format!("{method} {}", pattern.template.text))
}

fn charge_on_default() -> ChargeOn {
    ChargeOn { classes: [false, false, true, true, false, false], codes: vec![StatusCode::SWITCHING_PROTOCOLS] }
}

fn charge_on(cursor: &Cursor<'_>) -> Option<ChargeOn> {
    const ALLOWED: &str = "a list of 1xx to 5xx and single statuses: [2xx, 3xx, 101]";
    let items = cursor.items()?;
    if items.is_empty() {
        cursor.wrong("the list is empty", format!("{ALLOWED}; cost: 0 for what never costs"));
    }
    let mut set = ChargeOn { classes: [false; 6], codes: Vec::new() };
    for item in items {
        let class = item.text().strip_suffix("xx").and_then(|class| class.parse::<usize>().ok());
        let code = item.text().parse::<u16>().ok().and_then(|code| StatusCode::from_u16(code).ok());
        match (class.filter(|class| (1..=5).contains(class)), code.filter(|code| code.as_u16() < 600)) {
            (Some(class), _) => set.classes[class] = true,
            (None, Some(code)) => set.codes.push(code),
            (None, None) => item.wrong(format!("{} is not a status", item.found()), ALLOWED),
        }
    }
    Some(set)
}

fn on_abort(cursor: &Cursor<'_>) -> Option<OnAbort> {
    cursor.choice(&[("charge", OnAbort::Charge), ("free", OnAbort::Free)])
}

/// A public route has no tenant: nobody to charge, to ask for a feature, or to hold to a rate.
fn check_public(fields: &Fields<'_>, route: &Route) {
    if !route.public {
        return;
    }
    if let Some(cost) = fields.get("cost").filter(|_| !route.charges.is_empty()) {
        cost.wrong("a public route has nobody to charge", "cost: 0, or without `public`");
    }
    for key in ["requires", "rate"] {
        if let Some(cursor) = fields.given(key) {
            cursor.wrong_key(format!("a public route has no tenant, so `{key}` means nothing"), "leave it out");
        }
    }
}
