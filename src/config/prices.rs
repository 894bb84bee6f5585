//! `pricing.yaml`: its meters, and the file as a whole. Plans are in `plans`, routes in `routes`.

use std::sync::Arc;

use super::check::{Cursor, Fields};
use super::scalar::{self, Kind, NAME};
use super::{plans, routes};
use crate::pricing::{Meter, MeterIndex, MeterKind, Pricing};

/// What `tollgate.yaml` says that prices depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    /// ISO 4217, lower case.
    pub(super) currency: &'a str,
    /// Prefix that never reaches a route.
    pub(super) self_service: Option<&'a str>,
}

/// The whole file; `None` only together with a mistake.
pub(super) fn read(root: &Cursor<'_>, context: Context<'_>) -> Option<Pricing> {
    let top = root.fields(&["meters", "plans", "routes", "default"]);
    let meters = Meters::read(&top);
    let plans = plans::read(&top, &meters, context);
    let routes = routes::read(&top, &meters, &plans, context)?;
    Some(Pricing { meters: meters.list, plans, routes })
}

/// The meter that a cost means when there are several and none is named.
const MAIN: &str = "api_units";

/// The meters of a file.
pub(super) struct Meters {
    list: Vec<Meter>,
}

impl Meters {
    fn read(top: &Fields<'_>) -> Self {
        let mut meters = Self { list: Vec::new() };
        for (name, entry) in top.given("meters").and_then(Cursor::entries).unwrap_or_default() {
            meters.add(name, &entry);
        }
        if meters.list.is_empty() {
            meters.list.push(Meter { name: MAIN.into(), kind: MeterKind::Counter, stripe_event: MAIN.into() });
        }
        meters
    }

    fn add(&mut self, name: &str, entry: &Cursor<'_>) {
        let fields = entry.fields(&["kind", "stripe_event"]);
        let kinds = [("counter", MeterKind::Counter), ("gauge", MeterKind::Gauge)];
        let kind = fields.get("kind").map_or(Some(MeterKind::Counter), |cursor| cursor.choice(&kinds));
        let event = fields.or("stripe_event", &EVENT, name.to_owned());
        if !scalar::good_name(name) || routes::FROM_RESPONSE.contains(&name) {
            let allowed = format!("{}; not {}", NAME.allowed, routes::FROM_RESPONSE.join(", "));
            entry.wrong_key(format!("`{name}` cannot name a meter"), allowed);
        }
        if let Some(other) = self.list.iter().find(|other| *other.stripe_event == *event) {
            let problem = format!("`{event}` is the Stripe event of the meter `{}` already", other.name);
            fields.get("stripe_event").unwrap_or(entry).wrong(problem, "an event name of its own for each meter");
        }
        let kind = kind.unwrap_or(MeterKind::Counter);
        self.list.push(Meter { name: name.into(), kind, stripe_event: event.into() });
    }

    fn names(&self) -> Vec<&str> {
        self.list.iter().map(|meter| &*meter.name).collect()
    }

    /// The meter with this name, if there is one.
    pub(super) fn find(&self, name: &str) -> Option<MeterIndex> {
        self.list.iter().position(|meter| &*meter.name == name).map(MeterIndex)
    }

    /// The meter that the key at `entry` names.
    pub(super) fn key(&self, name: &str, entry: &Cursor<'_>) -> Option<MeterIndex> {
        let found = self.find(name);
        if found.is_none() {
            entry.unknown_key(name, "a meter", self.names());
        }
        found
    }

    /// The meter that the value at `cursor` names.
    pub(super) fn value(&self, cursor: &Cursor<'_>) -> Option<MeterIndex> {
        let found = self.find(&cursor.text());
        if found.is_none() {
            cursor.wrong_word(format!("{} is not a meter", cursor.found()), self.names().join(", "), self.names());
        }
        found
    }

    /// The meter of a cost that names none: the only one, or `api_units`.
    pub(super) fn main(&self) -> Option<MeterIndex> {
        if self.list.len() == 1 { Some(MeterIndex(0)) } else { self.find(MAIN) }
    }

    /// A gauge has a value, not a sum: a request cannot add to it.
    pub(super) fn is_gauge(&self, meter: MeterIndex) -> bool {
        self.list.get(meter.0).is_some_and(|meter| meter.kind == MeterKind::Gauge)
    }

    /// All meters, for messages.
    pub(super) fn listed(&self) -> String {
        self.names().join(", ")
    }
}

/// Stripe's `event_name`.
const EVENT: Kind<String> = Kind {
    name: "the name of a Stripe meter event",
    allowed: "1 to 100 printable ASCII characters without blanks",
    parse: |scalar| {
        let fits = (1..=100).contains(&scalar.text.len()) && scalar.text.chars().all(|c| c.is_ascii_graphic());
        fits.then(|| scalar.text.clone())
    },
};

/// A word shared by everything that keeps it.
pub(super) fn shared(text: String) -> Arc<str> {
    text.into()
}
