//! The `plans` section of `pricing.yaml`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::check::{Cursor, Fields};
use super::money;
use super::prices::{Context, Meters, shared};
use super::scalar::{self, COUNT, DECIMAL, DURATION, Kind, NAME, PER_TIME, UNITS};
use super::tree::Style;
use crate::pricing::{Feature, Gate, MeterIndex, OnOutage, Plan, Rate, RatePer, Status, UnitPrice, default_gates};

/// Plans by name.
pub(super) type Plans = BTreeMap<Arc<str>, Arc<Plan>>;

const KEYS: &[&str] = &[
    "monthly",
    "yearly",
    "trial",
    "included",
    "overage",
    "spend_cap",
    "rate",
    "concurrency",
    "grace",
    "status",
    "features",
    "thresholds",
    "on_outage",
];

/// The plan that a tenant falls to where a gate says `free`.
const FREE: &str = "free";

/// Every plan; at least one.
pub(super) fn read(top: &Fields<'_>, meters: &Meters, context: Context<'_>) -> Plans {
    let allowed = "at least one plan: plans: { free: { monthly: 0, included: { api_units: 100 } } }";
    let Some(section) = top.required("plans", allowed) else { return Plans::new() };
    let entries = section.entries().unwrap_or_default();
    if entries.is_empty() && section.is_map() {
        section.wrong("there is no plan", allowed);
    }
    let has_free = entries.iter().any(|(name, _)| *name == FREE);
    let reader = Reader { meters, currency: context.currency, has_free };
    let plans = entries.iter().map(|(name, entry)| reader.plan(name, entry));
    plans.map(|plan| (plan.name.clone(), Arc::new(plan))).collect()
}

/// What a plan is read against.
struct Reader<'a> {
    meters: &'a Meters,
    currency: &'a str,
    /// Whether there is a plan named `free`.
    has_free: bool,
}

impl Reader<'_> {
    fn plan(&self, name: &str, entry: &Cursor<'_>) -> Plan {
        if !scalar::good_name(name) {
            entry.wrong_key(format!("`{name}` cannot name a plan"), NAME.allowed);
        }
        let fields = entry.fields_but(KEYS, &["stripe"]);
        let amount = |key| fields.given(key).and_then(|cursor| money::minor(cursor, self.currency));
        let monthly = fields.required("monthly", "the price per month, 0 for a plan that costs nothing");
        let overage = overage(&fields, self.meters);
        check_spend_cap(&fields, &overage);
        Plan {
            name: name.into(),
            currency_decimals: money::Places::of(self.currency).minor,
            monthly_minor: monthly.and_then(|cursor| money::minor(cursor, self.currency)).unwrap_or(0),
            yearly_minor: amount("yearly"),
            trial_s: seconds(&fields, "trial", 0, "whole seconds, at most 730d (Stripe's longest trial)", 730),
            included: units(&fields, self.meters),
            overage,
            spend_cap_minor: amount("spend_cap"),
            rate: fields.given("rate").and_then(rate),
            concurrency: concurrency(&fields),
            grace_s: seconds(&fields, "grace", DEFAULT_GRACE_S, "whole seconds, at most 365d", 365),
            gates: self.gates(&fields),
            features: features(&fields),
            thresholds_percent: thresholds(&fields),
            on_outage: fields.given("on_outage").and_then(on_outage).unwrap_or(OnOutage::Deny),
        }
    }

    /// `status: { past_due: grace, canceled: free, … }` over the defaults.
    fn gates(&self, fields: &Fields<'_>) -> BTreeMap<Status, Gate> {
        let words = [("pass", Gate::Pass), ("grace", Gate::Grace), ("free", Gate::Free), ("deny", Gate::Deny)];
        let names = STATUSES.map(|(name, _)| name);
        let section = fields.section("status", &names);
        let mut gates = default_gates();
        for (name, status) in STATUSES {
            let Some(cursor) = section.get(name) else { continue };
            let Some(gate) = cursor.choice(&words) else { continue };
            if gate == Gate::Free && !self.has_free {
                cursor.wrong("`free` means the plan named free, and there is none", "pass, grace, deny");
            }
            gates.insert(status, gate);
        }
        gates
    }
}

/// Three days: long enough for a new card after the first failed payment.
const DEFAULT_GRACE_S: i64 = 3 * 86_400;

fn seconds(fields: &Fields<'_>, key: &str, default_s: i64, bounds: &str, days: u64) -> i64 {
    let fits = |length: &Duration| length.subsec_nanos() == 0 && length.as_secs() <= days * 86_400;
    let length = fields.get(key).and_then(|cursor| cursor.read_if(&DURATION, bounds, fits));
    length.map_or(default_s, |length| i64::try_from(length.as_secs()).unwrap_or(i64::MAX))
}

/// A mapping from meters to something.
fn by_meter<T>(section: &Cursor<'_>, meters: &Meters, kind: &Kind<T>) -> BTreeMap<MeterIndex, T> {
    let entries = section.entries().unwrap_or_default();
    let read = entries.iter().filter_map(|(name, entry)| {
        let (meter, value) = (meters.key(name, entry), entry.read(kind));
        Some((meter?, value?))
    });
    read.collect()
}

fn units(fields: &Fields<'_>, meters: &Meters) -> BTreeMap<MeterIndex, u64> {
    fields.given("included").map(|section| by_meter(section, meters, &UNITS)).unwrap_or_default()
}

fn overage(fields: &Fields<'_>, meters: &Meters) -> BTreeMap<MeterIndex, UnitPrice> {
    match fields.get("overage") {
        Some(section) if section.is_map() => by_meter(section, meters, &DECIMAL),
        Some(other) if other.text() != "none" => {
            let allowed = "none (stop at `included`), or a price per unit and meter: { api_units: 0.03 }";
            other.wrong(format!("{} is not an overage rule", other.found()), allowed);
            BTreeMap::new()
        }
        Some(_) | None => BTreeMap::new(),
    }
}

fn check_spend_cap(fields: &Fields<'_>, overage: &BTreeMap<MeterIndex, UnitPrice>) {
    let Some(cap) = fields.given("spend_cap") else { return };
    let written = fields.get("overage").is_some_and(Cursor::is_map);
    if !written {
        cap.wrong_key("`spend_cap` without `overage`: nothing can be spent above `included`", "leave it out");
    } else if !overage.is_empty() && overage.values().all(UnitPrice::is_zero) {
        cap.wrong_key("`spend_cap` where every overage price is 0 is never reached", "leave it out");
    }
}

/// `20/s`, or the long form with `burst` and `per`.
pub(super) fn rate(cursor: &Cursor<'_>) -> Option<Rate> {
    let (sustained, burst, per) = if cursor.is_map() {
        let fields = cursor.fields(&["sustained", "burst", "per"]);
        let words = [("tenant", RatePer::Tenant), ("key", RatePer::Key)];
        let sustained = fields.required("sustained", PER_TIME.allowed).and_then(|at| at.read(&PER_TIME));
        let burst = fields.given("burst").and_then(|at| at.read(&POSITIVE));
        (sustained, burst, fields.given("per").and_then(|at| at.choice(&words)).unwrap_or(RatePer::Tenant))
    } else {
        (cursor.read(&PER_TIME), None, RatePer::Tenant)
    };
    let (count, per_ms) = sustained?;
    let sustained = NonZeroU32::new(count)?;
    Some(Rate { sustained, per_ms, burst: burst.unwrap_or(sustained), per })
}

const POSITIVE: Kind<NonZeroU32> = Kind {
    name: "a number from 1 on",
    allowed: "a whole number from 1 to 4294967295",
    parse: |scalar| (COUNT.parse)(scalar).and_then(|count| u32::try_from(count).ok()).and_then(NonZeroU32::new),
};

fn concurrency(fields: &Fields<'_>) -> Option<NonZeroU32> {
    fields.given("concurrency").and_then(|cursor| cursor.read(&POSITIVE))
}

const STATUSES: [(&str, Status); 8] = [
    ("trialing", Status::Trialing),
    ("active", Status::Active),
    ("past_due", Status::PastDue),
    ("unpaid", Status::Unpaid),
    ("canceled", Status::Canceled),
    ("incomplete", Status::Incomplete),
    ("incomplete_expired", Status::IncompleteExpired),
    ("paused", Status::Paused),
];

fn features(fields: &Fields<'_>) -> BTreeMap<Arc<str>, Feature> {
    let entries = fields.given("features").and_then(Cursor::entries).unwrap_or_default();
    let read = entries.iter().filter_map(|(name, entry)| {
        if !scalar::good_name(name) {
            entry.wrong_key(format!("`{name}` cannot name a feature"), NAME.allowed);
        }
        Some((shared((*name).to_owned()), entry.read(&FEATURE)?))
    });
    read.collect()
}

/// It is told to the upstream in a header.
const FEATURE: Kind<Feature> = Kind {
    name: "a feature's value",
    allowed: "true, false, a whole number, or a word of printable ASCII without , ; =",
    parse: |scalar| match (scalar.style, scalar.text.as_str()) {
        (Style::Plain, "true") => Some(Feature::Flag(true)),
        (Style::Plain, "false") => Some(Feature::Flag(false)),
        (_, text) => match (UNITS.parse)(scalar) {
            Some(number) => Some(Feature::Number(number)),
            None => is_word(text).then(|| Feature::Text(text.into())),
        },
    },
};

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() && !",;=\"".contains(c))
}

fn thresholds(fields: &Fields<'_>) -> Vec<u8> {
    let items = fields.given("thresholds").and_then(Cursor::items).unwrap_or_default();
    let mut percents: Vec<u8> = Vec::new();
    for item in &items {
        let Some(percent) = item.read(&PERCENT) else { continue };
        if percents.last().is_some_and(|last| *last >= percent) {
            item.wrong(format!("{percent} does not follow {percents:?}"), "each once, from low to high");
        }
        percents.push(percent);
    }
    percents
}

const PERCENT: Kind<u8> = Kind {
    name: "a per cent of `included`",
    allowed: "a whole number from 1 to 200",
    parse: |scalar| (COUNT.parse)(scalar).and_then(|count| u8::try_from(count).ok()).filter(|n| (1..=200).contains(n)),
};

fn on_outage(cursor: &Cursor<'_>) -> Option<OnOutage> {
    const ALLOWED: &str = "deny (503), or { allow: UNITS } per node above what is held";
    if cursor.is_map() {
        let fields = cursor.fields(&["allow"]);
        return fields.required("allow", ALLOWED).and_then(|at| at.read(&UNITS)).map(OnOutage::Allow);
    }
    let denied = cursor.text() == "deny";
    if !denied {
        cursor.wrong(format!("{} is not an outage rule", cursor.found()), ALLOWED);
    }
    denied.then_some(OnOutage::Deny)
}
