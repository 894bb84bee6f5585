//! `/v1/billing/meters/{id}/event_summaries`

use serde_json::{Number, Value, json};
use sha2::{Digest, Sha256};

use super::errors::ApiError;
use super::expand::Expand;
use super::meters::Meter;
use super::params::{Params, TEXT};
use super::series::{Series, Span, Window};
use super::shelf::{Cursor, From, list};
use super::store::{Call, Store};

const MINUTE_S: i64 = 60;

/// What a call asks about.
#[derive(Debug)]
struct Query {
    customer: String,
    from: i64,
    to: i64,
    window: Option<Window>,
}

impl Query {
    fn read(params: &mut Params) -> Result<Self, ApiError> {
        let customer = params.required_text("customer", TEXT)?;
        let window = params.choice("value_grouping_window", Window::TABLE)?;
        let (from, to) = (aligned(params, "start_time", window)?, aligned(params, "end_time", window)?);
        if from >= to {
            return Err(ApiError::invalid("`start_time` must be before `end_time`.").param("start_time"));
        }
        Ok(Self { customer, from, to, window })
    }
}

/// `GET /v1/billing/meters/{id}/event_summaries`: newest window first; no object where there are no events.
pub(super) fn list_all(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    Expand::of_list(&mut call.params, &[])?;
    let cursor = Cursor::take(&mut call.params)?;
    let query = Query::read(&mut call.params)?;
    let visible_ms = call.now_ms.saturating_sub(call.lag_ms);
    call.finish()?;
    let meter = store.meters.need(id, "id")?;
    store.customers.refer(&query.customer, "customer")?;
    let series = store.usage.series(id, &query.customer);
    let all = series.map(|series| summaries(series, meter, &query, visible_ms)).unwrap_or_default();
    let (page, more) = page(&all, &cursor)?;
    Ok(list(&format!("/v1/billing/meters/{id}/event_summaries"), page, more))
}

fn summaries(series: &Series, meter: &Meter, query: &Query, visible_ms: i64) -> Vec<Value> {
    let whole = Span { from: query.from, to: query.to, visible_ms };
    let spans = match query.window {
        None => vec![whole],
        Some(window) => {
            let span = |from| Span { from, to: from + window.seconds(), visible_ms };
            series.windows(whole, window).into_iter().map(span).collect()
        }
    };
    spans.into_iter().filter_map(|span| summary(series, meter, query, span)).collect()
}

fn summary(series: &Series, meter: &Meter, query: &Query, span: Span) -> Option<Value> {
    let value = series.aggregate(span, meter.formula(), meter.event_time_window)?;
    Some(json!({
        "id": summary_id(meter, query, span),
        "object": "billing.meter_event_summary",
        "aggregated_value": Number::from_i128(value),
        "end_time": span.to,
        "livemode": false,
        "meter": meter.id,
        "start_time": span.from,
    }))
}

/// The same window has the same id in every call, as paging needs.
fn summary_id(meter: &Meter, query: &Query, span: Span) -> String {
    let name = format!("{} {} {} {}", meter.id, query.customer, span.from, span.to);
    let digest = hex::encode(Sha256::digest(name));
    format!("mtrusg_test_{}", digest.get(..32).unwrap_or(&digest))
}

fn page(all: &[Value], cursor: &Cursor) -> Result<(Vec<Value>, bool), ApiError> {
    let place = |id: &str, param: &str| {
        let found = all.iter().position(|summary| summary["id"] == id);
        found.ok_or_else(|| ApiError::no_such_reference("meter event summary", id, param))
    };
    let (rest, more) = match &cursor.from {
        From::Newest => (all, all.len() > cursor.limit),
        From::After(id) => {
            let older = &all[place(id, "starting_after")? + 1..];
            (older, older.len() > cursor.limit)
        }
        From::Before(id) => {
            let newer = &all[..place(id, "ending_before")?];
            let skip = newer.len().saturating_sub(cursor.limit);
            (&newer[skip..], skip > 0)
        }
    };
    Ok((rest.iter().take(cursor.limit).cloned().collect(), more))
}

/// A time that must be there and lie on a minute, or on the boundary of the window asked for.
fn aligned(params: &mut Params, key: &str, window: Option<Window>) -> Result<i64, ApiError> {
    let at = params.integer(key)?.ok_or_else(|| ApiError::missing(key))?;
    let (step, noun) = match window {
        None => (MINUTE_S, "minute"),
        Some(Window::Hour) => (Window::Hour.seconds(), "hour"),
        Some(Window::Day) => (Window::Day.seconds(), "UTC day"),
    };
    if at.rem_euclid(step) != 0 {
        let message = format!("Invalid {key}: {at} must be aligned with {noun} boundaries.");
        return Err(ApiError::invalid(message).param(key));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::desk::{Desk, START_S, event};

    const HOUR: i64 = 3_600;

    /// Events of 1, 2, 3 units, one in each of the last three hours.
    fn three_hours() -> (Desk, String) {
        let (mut desk, customer, meter) = Desk::with_meter();
        for (value, ago) in [("1", 3), ("2", 2), ("3", 1)] {
            let timestamp = format!("&timestamp={}", START_S - ago * HOUR + 5);
            assert_eq!(desk.post("/v1/billing/meter_events", &event(&customer, value, &timestamp)).0, 200);
        }
        (desk, format!("/v1/billing/meters/{meter}/event_summaries?customer={customer}"))
    }

    fn span(from: i64, to: i64) -> String {
        format!("&start_time={from}&end_time={to}")
    }

    fn values(shown: &Value) -> Vec<i64> {
        shown["data"].as_array().unwrap().iter().map(|s| s["aggregated_value"].as_i64().unwrap()).collect()
    }

    #[test]
    fn one_summary_for_the_whole_time_and_none_without_events() {
        let (mut desk, url) = three_hours();
        let (_, all) = desk.get(&format!("{url}{}", span(START_S - 3 * HOUR, START_S)));
        assert_eq!(values(&all), [6]);
        assert_eq!(
            (&all["data"][0]["start_time"], &all["data"][0]["end_time"]),
            (&json!(START_S - 3 * HOUR), &json!(START_S))
        );
        let (_, minute) = desk.get(&format!("{url}{}", span(START_S - HOUR + 60, START_S)));
        assert_eq!(values(&minute), [0_i64; 0]);
    }

    #[test]
    fn windows_come_newest_first_and_page_by_page() {
        let (mut desk, url) = three_hours();
        let hourly = format!("{url}{}&value_grouping_window=hour&limit=2", span(START_S - 24 * HOUR, START_S));
        let (_, first) = desk.get(&hourly);
        assert_eq!((values(&first), &first["has_more"]), (vec![3, 2], &json!(true)));
        let last = first["data"][1]["id"].as_str().unwrap();
        let (_, second) = desk.get(&format!("{hourly}&starting_after={last}"));
        assert_eq!((values(&second), &second["has_more"]), (vec![1], &json!(false)));
        let oldest = second["data"][0]["id"].as_str().unwrap();
        let (_, back) = desk.get(&format!("{hourly}&ending_before={oldest}"));
        assert_eq!(values(&back), [3, 2]);
        let daily = format!("{url}{}&value_grouping_window=day", span(START_S - 24 * HOUR, START_S));
        assert_eq!(values(&desk.get(&daily).1), [6]);
    }

    #[test]
    fn times_lie_on_minutes_or_on_the_windows_boundaries() {
        let (mut desk, url) = three_hours();
        let mut param =
            |rest: String| desk.get(&format!("{url}{rest}")).1["error"]["param"].as_str().map(str::to_owned);
        assert_eq!(param(span(START_S - 61, START_S)).as_deref(), Some("start_time"));
        assert_eq!(param(span(START_S - 60, START_S + 1)).as_deref(), Some("end_time"));
        let minutes = span(START_S - HOUR - 60, START_S);
        assert_eq!(param(format!("{minutes}&value_grouping_window=hour")).as_deref(), Some("start_time"));
        let hours = span(START_S - HOUR, START_S);
        assert_eq!(param(format!("{hours}&value_grouping_window=day")).as_deref(), Some("start_time"));
        assert_eq!(param(span(START_S, START_S)).as_deref(), Some("start_time"));
        assert_eq!(param(format!("&end_time={START_S}")).as_deref(), Some("start_time"));
    }
}
