//! `/api/v1/tenants/{id}/usage`: the running period per meter, and what was used when and where, as JSON or CSV.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::input::{Params, time};
use super::problem::Problem;
use super::tenants::find;
use super::{Active, ControlState};
use crate::period::{Period, period_at};
use crate::pricing::{Access, MeterIndex, Plan};
use crate::records::{MeterUsage, Tenant, UsageBy, UsageRow};
use crate::units::{Account, Money};

/// The plan that a tenant falls to whose own plan's gate says `free`.
const FREE: &str = "free";

/// Query of the usage endpoint.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageParams {
    /// Start of the running period, if it is missing.
    from: Option<String>,
    /// Now, if it is missing.
    to: Option<String>,
    by: Option<UsageBy>,
    /// Rather than the `Accept` header.
    format: Option<Format>,
}

/// How usage is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    Json,
    Csv,
}

/// One meter in the running period, as scripts rely on it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct MeterState {
    meter: Arc<str>,
    used: u64,
    included: u64,
    limit: Option<u64>,
    remaining: u64,
    overage: u64,
    overage_amount: Money,
    pending: u64,
    reported: u64,
}

/// `GET …/usage?from&to&by&format`.
pub(super) async fn show(
    State(state): State<Arc<ControlState>>,
    Path(id): Path<String>,
    Params(params): Params<UsageParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = find(&state, &id).await?;
    let now = state.clock.now();
    let period = period_at(tenant.anchor(), now.as_second());
    let by = params.by.unwrap_or(UsageBy::Route);
    let rows = match range(&params, period, now)? {
        None => state.records.usage_in_period(tenant.num, period, by).await?,
        Some((from, to)) => state.records.usage(tenant.num, from, to, by).await?,
    };
    if params.format.unwrap_or_else(|| accepted(&headers)) == Format::Csv {
        return Ok(as_csv(&rows, by));
    }
    let active = state.active.load_full();
    let plan = plan_in_force(&active, &tenant, now)?;
    let meters = meters(&state, &active, plan, &tenant, period).await?;
    Ok(Answer(json!({
        "tenant": tenant.id,
        "plan": plan.name,
        "period": { "start": moment(period.start_s), "end": moment(period.end_s) },
        "meters": meters,
        "rows": rows.iter().map(|row| as_json(row, by)).collect::<Vec<_>>(),
    }))
    .into_response())
}

/// The span that was asked for; `None` = the running period, exactly.
fn range(params: &UsageParams, period: Period, now: Timestamp) -> Result<Option<(Timestamp, Timestamp)>, Problem> {
    let from = params.from.as_deref().map(|text| time("from", text)).transpose()?;
    let to = params.to.as_deref().map(|text| time("to", text)).transpose()?;
    if from.is_none() && to.is_none() {
        return Ok(None);
    }
    let (from, to) = (from.or_else(|| moment(period.start_s)).unwrap_or(now), to.unwrap_or(now));
    if from > to {
        return Err(Problem::invalid("from", format!("{from} is after `to`, {to}")));
    }
    Ok(Some((from, to)))
}

fn moment(second: i64) -> Option<Timestamp> {
    Timestamp::from_second(second).ok()
}

/// CSV if `Accept` asks for it by name; JSON for everything else.
fn accepted(headers: &HeaderMap) -> Format {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = values.flat_map(|value| value.split(',')).filter_map(|kind| kind.split(';').next());
    if kinds.any(|kind| kind.trim().eq_ignore_ascii_case("text/csv")) { Format::Csv } else { Format::Json }
}

/// The plan whose limits hold now: the tenant's own, or `free` where its status opens only that.
fn plan_in_force<'a>(active: &'a Active, tenant: &Tenant, now: Timestamp) -> Result<&'a Plan, Problem> {
    let named = |name: &str| {
        let unknown = || {
            let detail = format!("plan {name:?} of tenant {:?} is not in the active pricing file", tenant.id);
            Problem::new(StatusCode::CONFLICT, "unknown_plan", detail).at("plan")
        };
        active.pricing.plans.get(name).map(AsRef::as_ref).ok_or_else(unknown)
    };
    let own = named(&tenant.plan)?;
    match own.access(tenant.status, tenant.status_since.map(Timestamp::as_second), now.as_second()) {
        Access::Pass | Access::Deny => Ok(own),
        Access::Free => named(FREE),
    }
}

async fn meters(
    state: &ControlState,
    active: &Active,
    plan: &Plan,
    tenant: &Tenant,
    period: Period,
) -> Result<Vec<MeterState>, Problem> {
    let flushed = state.records.period_usage(tenant.num, period.id()).await?;
    let meters = active.pricing.meters.iter().enumerate().map(|(index, meter)| {
        let account = Account { tenant: tenant.num, period: period.id(), meter: Arc::clone(&meter.name) };
        let known = flushed.iter().find(|usage| *usage.meter == *meter.name);
        let live = (state.live_used)(&account).unwrap_or(0);
        meter_state(plan, MeterIndex(index), account.meter, known, live, &active.settings.stripe.currency)
    });
    Ok(meters.collect())
}

/// `used` is the larger of what this node knows and what all nodes have flushed: each only grows.
fn meter_state(
    plan: &Plan,
    index: MeterIndex,
    meter: Arc<str>,
    flushed: Option<&MeterUsage>,
    live: u64,
    currency: &str,
) -> MeterState {
    let used = flushed.map_or(0, |usage| usage.used).max(live);
    let (included, limit) = (plan.included(index), plan.cap(index));
    let reported = flushed.map_or(0, |usage| usage.reported);
    MeterState {
        meter,
        used,
        included,
        limit,
        remaining: limit.unwrap_or(included).saturating_sub(used),
        overage: used.saturating_sub(included),
        overage_amount: Money { amount: plan.overage_amount_minor(index, used), currency: currency.to_owned() },
        pending: used.saturating_sub(reported),
        reported,
    }
}

fn column(by: UsageBy) -> &'static str {
    match by {
        UsageBy::Route => "route",
        UsageBy::Hour => "hour",
        UsageBy::Day => "day",
        UsageBy::Meter => "meter",
        UsageBy::Key => "key",
        UsageBy::Status => "status",
    }
}

fn as_json(row: &UsageRow, by: UsageBy) -> Value {
    let mut members = Map::new();
    members.insert("meter".to_owned(), row.meter.clone().into());
    members.insert(column(by).to_owned(), row.group.clone().into());
    members.insert("units".to_owned(), row.units.into());
    members.insert("requests".to_owned(), row.requests.into());
    members.into()
}

fn as_csv(rows: &[UsageRow], by: UsageBy) -> Response {
    let text = csv(rows, by);
    ([(header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present")], text).into_response()
}

/// RFC 4180: a header, CRLF at the end of each line.
fn csv(rows: &[UsageRow], by: UsageBy) -> String {
    let grouped = by != UsageBy::Meter;
    let head =
        if grouped { format!("{},meter,units,requests\r\n", column(by)) } else { "meter,units,requests\r\n".into() };
    let lines = rows.iter().map(|row| {
        let group = if grouped { quoted(&row.group) + "," } else { String::new() };
        format!("{group}{},{},{}\r\n", quoted(&row.meter), row.units, row.requests)
    });
    std::iter::once(head).chain(lines).collect()
}

fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn row(group: &str) -> UsageRow {
        UsageRow { meter: "api_units".into(), group: group.into(), units: 7, requests: 3 }
    }

    #[test]
    fn csv_quotes_what_would_break_it() {
        let rows = [row("GET /a"), row("GET /a,\"b\"")];
        let expected = "route,meter,units,requests\r\nGET /a,api_units,7,3\r\n\"GET /a,\"\"b\"\"\",api_units,7,3\r\n";
        assert_eq!(csv(&rows, UsageBy::Route), expected);
        assert_eq!(csv(&[row("api_units")], UsageBy::Meter), "meter,units,requests\r\napi_units,7,3\r\n");
    }

    #[test]
    fn a_row_names_its_group_as_the_query_did() {
        assert_eq!(
            as_json(&row("200"), UsageBy::Status),
            json!({"meter":"api_units","status":"200","units":7,"requests":3})
        );
        assert_eq!(as_json(&row("api_units"), UsageBy::Meter), json!({"meter":"api_units","units":7,"requests":3}));
    }

    #[test]
    fn csv_comes_only_when_asked_for_by_name() {
        let format = |accept| accepted(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]));
        assert_eq!(format("text/csv"), Format::Csv);
        assert_eq!(format("application/json;q=0.5, Text/CSV; header=present"), Format::Csv);
        assert_eq!(format("*/*"), Format::Json);
        assert_eq!(accepted(&HeaderMap::new()), Format::Json);
    }
}
