//! What a request would match and cost: the answer of `tollgate check --explain 'GET /path'`. Pure.

use std::fmt;

use http::Method;
use serde::Serialize;

use crate::pricing::{Ambiguous, Charge, ChargeOn, Meter, OnAbort, Plan, Pricing, Rate, RatePer, Route};

/// What one request would match and cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// As asked.
    pub method: String,
    /// As asked, without the query.
    pub path: String,
    /// The rule that applies: `GET /signals/{symbol}`, `* /export/csv`, `default`.
    pub route: String,
    /// Other rules that an origin might read this path into; the dearest one is `route`.
    pub other_readings: Vec<String>,
    /// Open without a credential, never metered.
    pub public: bool,
    /// What it costs; empty = free.
    pub costs: Vec<MeterCost>,
    /// Statuses of the answer that cost: `2xx`, `101`.
    pub charge_on: Vec<String>,
    /// What a client pays that leaves after the origin had the request: `charge` or `free`.
    pub on_abort: &'static str,
    /// Rate of the route, per tenant or key.
    pub rate: Option<String>,
    /// Features that the plan must have on.
    pub requires: Vec<String>,
    /// What the plan makes of it, where one was named.
    pub plan: Option<PlanView>,
}

/// Units on one meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MeterCost {
    /// The meter.
    pub meter: String,
    /// Units of a request that is charged.
    pub units: u64,
    /// Units per period that the plan includes.
    pub included: Option<u64>,
    /// Units per period at which requests are refused; `None` = never, or no plan was named.
    pub limit: Option<u64>,
    /// Price of a unit above `included`, main units of the currency.
    pub overage_price: Option<String>,
}

/// What a plan makes of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanView {
    /// Its name.
    pub name: String,
    /// Features that it lacks; one is enough for a 403 `feature_required`.
    pub lacks: Vec<String>,
    /// Its rate.
    pub rate: Option<String>,
    /// Its exchanges in flight at once.
    pub concurrency: Option<u32>,
}

/// Why there is nothing to explain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// Not `METHOD /path`.
    #[error("`{0}` is not a request; write METHOD and path, for example 'GET /signals'")]
    NotARequest(String),
    /// It would be refused before any rule.
    #[error("the request would be refused with `ambiguous_path`: {0}")]
    Ambiguous(#[from] Ambiguous),
}

/// Explains `request`, `GET /path?query`, for a tenant on `plan` if one is given.
///
/// # Errors
/// It is no request, or would be refused for its path.
pub fn explain(pricing: &Pricing, request: &str, plan: Option<&Plan>) -> Result<Explanation, ExplainError> {
    let (method, path) = parse(request)?;
    let matched = pricing.routes.find(&method, path)?;
    let route = matched.route;
    let requires: Vec<String> = matched.requires().map(ToString::to_string).collect();
    Ok(Explanation {
        method: method.to_string(),
        path: path.to_owned(),
        route: route.name.to_string(),
        other_readings: matched.others.iter().map(|route| route.name.to_string()).collect(),
        public: route.public,
        costs: costs(&pricing.meters, route, plan),
        charge_on: statuses(&route.charge_on),
        on_abort: on_abort(route.on_abort),
        rate: route.rate.map(rate),
        plan: plan.map(|plan| view(plan, &requires)),
        requires,
    })
}

fn parse(request: &str) -> Result<(Method, &str), ExplainError> {
    let wrong = || ExplainError::NotARequest(request.to_owned());
    let (method, target) = request.trim().split_once(' ').ok_or_else(wrong)?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| wrong())?;
    let target = target.trim();
    let path = target.split(['?', '#']).next().unwrap_or(target);
    if !path.starts_with('/') || path.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok((method, path))
}

fn costs(meters: &[Meter], route: &Route, plan: Option<&Plan>) -> Vec<MeterCost> {
    let cost = |charge: &Charge| MeterCost {
        meter: meters.get(charge.meter.0).map_or_else(String::new, |meter| meter.name.to_string()),
        units: charge.cost.bound(),
        included: plan.map(|plan| plan.included(charge.meter)),
        limit: plan.and_then(|plan| plan.cap(charge.meter)),
        overage_price: plan.and_then(|plan| plan.overage.get(&charge.meter)).map(ToString::to_string),
    };
    route.charges.iter().map(cost).collect()
}

fn statuses(set: &ChargeOn) -> Vec<String> {
    let classes = (1..=5).filter(|class| set.classes[*class]).map(|class| format!("{class}xx"));
    classes.chain(set.codes.iter().map(|code| code.as_u16().to_string())).collect()
}

fn on_abort(rule: OnAbort) -> &'static str {
    match rule {
        OnAbort::Charge => "charge",
        OnAbort::Free => "free",
    }
}

fn view(plan: &Plan, requires: &[String]) -> PlanView {
    PlanView {
        name: plan.name.to_string(),
        lacks: requires.iter().filter(|feature| !plan.opens(feature)).cloned().collect(),
        rate: plan.rate.map(rate),
        concurrency: plan.concurrency.map(std::num::NonZeroU32::get),
    }
}

fn rate(rate: Rate) -> String {
    let unit = match rate.per_ms {
        1_000 => "s".to_owned(),
        60_000 => "m".to_owned(),
        3_600_000 => "h".to_owned(),
        other => format!("{other}ms"),
    };
    let per = match rate.per {
        RatePer::Tenant => "tenant",
        RatePer::Key => "key",
    };
    format!("{}/{unit} per {per}, {} at once", rate.sustained, rate.burst)
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.method, self.path)?;
        line(f, "route", &self.route)?;
        list(f, "also read as", &self.other_readings)?;
        if self.public {
            line(f, "public", "open without a credential, not metered")?;
        } else if self.costs.is_empty() {
            line(f, "cost", "free, counted")?;
        }
        for cost in &self.costs {
            line(f, "cost", &cost.to_string())?;
        }
        if !self.costs.is_empty() {
            line(f, "charged on", &self.charge_on.join(" "))?;
            line(f, "on abort", self.on_abort)?;
        }
        list(f, "requires", &self.requires)?;
        if let Some(rate) = &self.rate {
            line(f, "route rate", rate)?;
        }
        self.plan.as_ref().map_or(Ok(()), |plan| plan.fmt(f))
    }
}

impl fmt::Display for MeterCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.units, self.meter)?;
        let Some(included) = self.included else { return Ok(()) };
        write!(f, "; {included} included per period")?;
        if let Some(price) = &self.overage_price {
            write!(f, ", then {price} each")?;
        }
        match self.limit {
            Some(limit) => write!(f, ", refused (402) above {limit}"),
            None => f.write_str(", no limit"),
        }
    }
}

impl fmt::Display for PlanView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "plan", &self.name)?;
        if !self.lacks.is_empty() {
            line(f, "refused", &format!("403 feature_required: the plan lacks {}", self.lacks.join(", ")))?;
        }
        if let Some(rate) = &self.rate {
            line(f, "plan rate", rate)?;
        }
        self.concurrency.map_or(Ok(()), |most| line(f, "concurrency", &most.to_string()))
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:<12} {value}")
}

fn list(f: &mut fmt::Formatter<'_>, name: &str, values: &[String]) -> fmt::Result {
    if values.is_empty() { Ok(()) } else { line(f, name, &values.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Env, load};

    fn shipped() -> Pricing {
        load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/tollgate.yaml"), &Env::empty()).unwrap().pricing
    }

    fn said(request: &str, plan: Option<&str>) -> String {
        let pricing = shipped();
        let plan = plan.map(|name| &*pricing.plans[name]);
        explain(&pricing, request, plan).unwrap().to_string()
    }

    #[test]
    fn requests_are_method_and_path() {
        assert_eq!(parse("GET /a?b=/c"), Ok((Method::GET, "/a")));
        assert_eq!(parse(" PATCH  /a "), Ok((Method::PATCH, "/a")));
        for text in ["/a", "GET", "GET a", "G@T /a", "GET /a b", ""] {
            assert_eq!(parse(text), Err(ExplainError::NotARequest(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_metered_request_on_a_plan_with_overage() {
        assert_eq!(
            said("HEAD /signals/history/ABC?x=1", Some("pro")),
            "HEAD /signals/history/ABC\n  \
             route        GET /signals/history/{symbol}\n  \
             cost         2 api_units; 10000 included per period, then 0.02 each, no limit\n  \
             charged on   2xx 3xx 101\n  \
             on abort     charge\n  \
             plan         pro\n"
        );
    }

    #[test]
    fn limits_features_and_public_routes() {
        let free = said("POST /export/csv", Some("free"));
        assert!(free.contains("3 api_units; 100 included per period, refused (402) above 100"), "{free}");
        assert!(free.contains("refused      403 feature_required: the plan lacks exports"), "{free}");
        let enterprise = said("POST /export/csv", Some("enterprise"));
        assert!(enterprise.contains("then 0.01 each, refused (402) above 600000"), "{enterprise}");
        assert!(enterprise.contains("plan rate    200/s per tenant, 400 at once"), "{enterprise}");
        assert!(said("GET /docs/a/b", None).contains("public       open without a credential"));
        assert!(said("GET /elsewhere", None).contains("route        default\n  cost         1 api_units\n"));
    }

    #[test]
    fn a_path_that_is_refused_is_not_explained() {
        let error = explain(&shipped(), "GET /a/../b", None).unwrap_err();
        assert_eq!(error, ExplainError::Ambiguous(Ambiguous::DotSegment));
    }

    #[test]
    fn as_json() {
        let json = serde_json::to_value(explain(&shipped(), "GET /signals", None).unwrap()).unwrap();
        assert_eq!(
            json["costs"][0],
            serde_json::json!({
                "meter": "api_units", "units": 1, "included": null, "limit": null, "overage_price": null
            })
        );
        assert_eq!(json["route"], "GET /signals");
    }
}
