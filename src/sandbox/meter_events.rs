//! `/v1/billing/meter_events` and `/v1/billing/meter_event_adjustments`

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::errors::ApiError;
use super::expand::Expand;
use super::meters::{EVENT_NAME, Meter};
use super::params::{Metadata, Params};
use super::series::{Event, Formula, Place, Series};
use super::store::{Call, Store};

/// Events held for summaries, and identifiers held against repetition.
const MAX_EVENTS: usize = 1_000_000;
/// Late errors kept; the oldest go first.
const MAX_LATE_ERRORS: usize = 10_000;
/// Identifiers are unique, and events can be cancelled, for this long.
const WINDOW_MS: i64 = 24 * 3_600 * 1_000;
/// Timestamps may lie this far back, and this far ahead.
const PAST_S: i64 = 35 * 86_400;
const AHEAD_S: i64 = 5 * 60;
const IDENTIFIER: usize = 100;
const PAYLOAD_VALUE: usize = 100;
const VALUE_DIGITS: usize = 15;

/// When a meter event with an unknown name, an unknown customer, a bad value or a bad time is refused. Stripe does
/// both; a client must be ready for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Validation {
    /// At once, with a 400.
    #[default]
    Now,
    /// Answered with 200, reported as an error later, and never counted.
    Later,
}

/// An accepted event that was found wrong later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LateError {
    /// Stripe's reason code, such as `meter_event_customer_not_found`.
    pub code: &'static str,
    /// The same in words.
    pub message: String,
    /// The event's name.
    pub event_name: String,
    /// The event's identifier.
    pub identifier: String,
    /// The call's `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// When it was found, Unix seconds.
    pub at: i64,
}

/// A meter's and a customer's id.
pub(super) type Owner = (String, String);

/// Every accepted event.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) validation: Validation,
    pub(super) late_errors: VecDeque<LateError>,
    /// Those that no thin event tells of yet.
    unreported: Vec<LateError>,
    pub(super) series: HashMap<Owner, Series>,
    receipts: HashMap<String, Receipt>,
    /// Identifiers in the order of their receipt, in milliseconds.
    order: VecDeque<(i64, String)>,
    events: usize,
    next_seq: u64,
}

/// What is known about an identifier.
#[derive(Debug)]
struct Receipt {
    event_name: String,
    /// Where the event is; `None` when it was cancelled, or wrong from the beginning.
    counted: Option<(Owner, Place)>,
}

impl Usage {
    /// Nothing yet.
    pub(super) fn new(validation: Validation) -> Self {
        Self { validation, ..Self::default() }
    }

    /// The events of one customer on one meter.
    pub(super) fn series(&self, meter: &str, customer: &str) -> Option<&Series> {
        self.series.get(&(meter.to_owned(), customer.to_owned()))
    }

    fn forget_old_identifiers(&mut self, now_ms: i64) {
        while let Some((at_ms, _)) = self.order.front()
            && now_ms.saturating_sub(*at_ms) >= WINDOW_MS
        {
            if let Some((_, identifier)) = self.order.pop_front() {
                self.receipts.remove(&identifier);
            }
        }
    }

    fn check_new(&self, identifier: &str) -> Result<(), ApiError> {
        if self.receipts.contains_key(identifier) {
            let message = format!("An event already exists with identifier {identifier}.");
            return Err(ApiError::invalid(message).executed().should_retry(Some(false)));
        }
        if self.events >= MAX_EVENTS || self.receipts.len() >= MAX_EVENTS {
            return Err(ApiError::full("meter events", MAX_EVENTS));
        }
        Ok(())
    }

    fn count(&mut self, owner: Owner, at: i64, event: Event) -> Place {
        let place = (at, self.next_seq);
        self.next_seq += 1;
        self.events += 1;
        self.series.entry(owner).or_default().add(place, event);
        place
    }

    fn remember(&mut self, identifier: String, receipt: Receipt, now_ms: i64) {
        self.order.push_back((now_ms, identifier.clone()));
        self.receipts.insert(identifier, receipt);
    }

    /// Whether late errors wait to be told of.
    pub(super) fn has_unreported(&self) -> bool {
        !self.unreported.is_empty()
    }

    /// The late errors since the last report.
    pub(super) fn take_unreported(&mut self) -> Vec<LateError> {
        std::mem::take(&mut self.unreported)
    }

    fn report(&mut self, error: LateError) {
        if self.unreported.len() < MAX_LATE_ERRORS {
            self.unreported.push(error.clone());
        }
        if self.late_errors.len() >= MAX_LATE_ERRORS {
            self.late_errors.pop_front();
        }
        self.late_errors.push_back(error);
    }
}

/// The parameters of a new event.
#[derive(Debug)]
struct Draft {
    event_name: String,
    identifier: Option<String>,
    timestamp: Option<i64>,
    payload: Metadata,
}

impl Draft {
    fn read(params: &mut Params) -> Result<Self, ApiError> {
        let payload = params.object("payload")?.ok_or_else(|| ApiError::missing("payload"))?;
        Ok(Self {
            event_name: params.required_text("event_name", EVENT_NAME)?,
            identifier: params.text("identifier", IDENTIFIER)?,
            timestamp: params.integer("timestamp")?,
            payload: payload.into_texts(PAYLOAD_VALUE)?,
        })
    }
}

/// What is wrong with an event's content: Stripe's code for the late report, and the refusal at once.
struct Unsound {
    late_code: &'static str,
    refusal: Box<ApiError>,
}

impl Unsound {
    fn new(code: &'static str, refusal: ApiError) -> Self {
        Self { late_code: code, refusal: Box::new(refusal.executed()) }
    }
}

/// `POST /v1/billing/meter_events`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    Expand::of_object(&mut call.params, &[])?;
    let now_s = call.now_s();
    let accepted_ms = call.now_ms;
    let draft = Draft::read(&mut call.params)?;
    let key = call.key.clone();
    call.finish()?;
    let identifier = draft.identifier.clone().unwrap_or_else(|| store.ids.make("evt"));
    store.usage.forget_old_identifiers(accepted_ms);
    store.usage.check_new(&identifier)?;
    let timestamp = draft.timestamp.unwrap_or(now_s);
    let counted = match check(store, &draft, timestamp, now_s) {
        Ok((owner, value)) => {
            let event = Event { value, accepted_ms };
            Some((owner.clone(), store.usage.count(owner, timestamp, event)))
        }
        Err(unsound) => postpone(store, &draft, (&identifier, key), unsound, now_s)?,
    };
    let receipt = Receipt { event_name: draft.event_name.clone(), counted };
    store.usage.remember(identifier.clone(), receipt, accepted_ms);
    Ok(shown(&draft, &identifier, timestamp, now_s))
}

/// Refuses an unsound event, or keeps its error for later.
fn postpone<T>(
    store: &mut Store,
    draft: &Draft,
    (identifier, idempotency_key): (&str, Option<String>),
    unsound: Unsound,
    at: i64,
) -> Result<Option<T>, ApiError> {
    match store.usage.validation {
        Validation::Now => Err(*unsound.refusal),
        Validation::Later => {
            store.usage.report(LateError {
                code: unsound.late_code,
                message: unsound.refusal.message,
                event_name: draft.event_name.clone(),
                identifier: identifier.to_owned(),
                idempotency_key,
                at,
            });
            Ok(None)
        }
    }
}

/// Whose event it is and what it is worth.
fn check(store: &Store, draft: &Draft, timestamp: i64, now_s: i64) -> Result<(Owner, i64), Unsound> {
    let meter = meter_for(store, &draft.event_name)?;
    let customer = customer_of(store, meter, &draft.payload)?;
    // A customer on a test clock lives at its time.
    let now_s = store
        .customers
        .get(&customer)
        .and_then(|known| known.test_clock())
        .map_or(now_s, |clock| store.time_on(Some(clock)));
    let value = value_of(meter, &draft.payload)?;
    check_time(timestamp, now_s)?;
    Ok(((meter.id.clone(), customer), value))
}

fn meter_for<'a>(store: &'a Store, event_name: &str) -> Result<&'a Meter, Unsound> {
    let mut named = store.meters.iter().filter(|meter| meter.event_name == event_name).peekable();
    let known = named.peek().is_some();
    named.find(|meter| meter.is_active()).ok_or_else(|| {
        let message = format!("No active meter found for event name {event_name}.");
        let refusal = ApiError::invalid(message).code("resource_missing").param("event_name");
        Unsound::new(if known { "archived_meter" } else { "no_meter" }, refusal)
    })
}

fn customer_of(store: &Store, meter: &Meter, payload: &Metadata) -> Result<String, Unsound> {
    let param = format!("payload[{}]", meter.customer_key());
    let id = payload
        .get(meter.customer_key())
        .ok_or_else(|| Unsound::new("meter_event_no_customer_defined", ApiError::missing(&param)))?;
    match store.customers.refer(id, &param) {
        Ok(_) => Ok(id.clone()),
        Err(refusal) => Err(Unsound::new("meter_event_customer_not_found", refusal)),
    }
}

/// Whole numbers of up to 15 digits; a `count` meter needs none.
fn value_of(meter: &Meter, payload: &Metadata) -> Result<i64, Unsound> {
    let param = format!("payload[{}]", meter.value_key());
    let Some(text) = payload.get(meter.value_key()) else {
        return match meter.formula() {
            Formula::Count => Ok(1),
            Formula::Sum | Formula::Last => Err(Unsound::new("meter_event_value_not_found", ApiError::missing(&param))),
        };
    };
    let digits = text.strip_prefix('-').unwrap_or(text);
    let sound = (1..=VALUE_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| sound).ok_or_else(|| {
        let message = format!("Invalid value: {text} is not a whole number of at most {VALUE_DIGITS} digits.");
        let code = "meter_event_invalid_value";
        Unsound::new(code, ApiError::invalid(message).code(code).param(&param))
    })
}

fn check_time(timestamp: i64, now_s: i64) -> Result<(), Unsound> {
    let (oldest, newest) = (now_s - PAST_S, now_s + AHEAD_S);
    let (code, message) = if timestamp < oldest {
        let expected = format!("Expected a timestamp greater than or equal to {oldest}.");
        ("timestamp_too_far_in_past", format!("The event timestamp cannot be more than 35 days in past. {expected}"))
    } else if timestamp > newest {
        let expected = format!("Expected a timestamp less than or equal to {newest}.");
        ("timestamp_in_future", format!("The event timestamp cannot be more than 5 minutes in future. {expected}"))
    } else {
        return Ok(());
    };
    Err(Unsound::new(code, ApiError::invalid(message).code(code).param("timestamp")))
}

fn shown(draft: &Draft, identifier: &str, timestamp: i64, now_s: i64) -> Value {
    json!({
        "object": "billing.meter_event",
        "created": now_s,
        "event_name": draft.event_name,
        "identifier": identifier,
        "livemode": false,
        "payload": draft.payload,
        "timestamp": timestamp,
    })
}

/// `POST /v1/billing/meter_event_adjustments`: takes one whole event back, within 24 hours.
pub(super) fn adjust(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    Expand::of_object(&mut call.params, &[])?;
    call.params.required_choice("type", &[("cancel", ())])?;
    let event_name = call.params.required_text("event_name", EVENT_NAME)?;
    let mut cancel = call.params.object("cancel")?.ok_or_else(|| ApiError::missing("cancel"))?;
    let identifier = cancel.required_text("identifier", IDENTIFIER)?;
    cancel.finish()?;
    let now_ms = call.now_ms;
    call.finish()?;
    store.usage.forget_old_identifiers(now_ms);
    store.usage.cancel(&event_name, &identifier)?;
    Ok(json!({
        "object": "billing.meter_event_adjustment",
        "cancel": { "identifier": identifier },
        "event_name": event_name,
        "livemode": false,
        "status": "pending",
        "type": "cancel",
    }))
}

impl Usage {
    fn cancel(&mut self, event_name: &str, identifier: &str) -> Result<(), ApiError> {
        let receipt = self.receipts.get_mut(identifier).filter(|receipt| receipt.event_name == event_name);
        let Some((owner, place)) = receipt.and_then(|receipt| receipt.counted.take()) else {
            let message = format!("No event of the last 24 hours can be cancelled with identifier {identifier}.");
            return Err(ApiError::invalid(message).code("resource_missing").param("cancel[identifier]").executed());
        };
        if self.series.get_mut(&owner).and_then(|series| series.cancel(place)).is_some() {
            self.events -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::desk::{Desk, START_S, event};
    use crate::sandbox::meter_totals::MeterTotal;

    const EVENTS: &str = "/v1/billing/meter_events";
    const ADJUSTMENTS: &str = "/v1/billing/meter_event_adjustments";

    fn code(answer: &(u16, Value)) -> (u16, &str) {
        (answer.0, answer.1["error"]["code"].as_str().unwrap_or_default())
    }

    #[test]
    fn an_event_is_shown_and_counted() {
        let (mut desk, customer, _) = Desk::with_meter();
        let (status, shown) = desk.post(EVENTS, &event(&customer, "25", "&identifier=i1&timestamp=1790812700"));
        assert_eq!(status, 200, "{shown}");
        assert_eq!((&shown["identifier"], &shown["timestamp"]), (&json!("i1"), &json!(1_790_812_700)));
        assert_eq!(shown["payload"]["value"], "25");
        desk.post(EVENTS, &event(&customer, "-5", ""));
        assert_eq!(desk.engine.store.meter_total("units", &customer), 20);
    }

    #[test]
    fn an_identifier_is_taken_for_a_day() {
        let (mut desk, customer, _) = Desk::with_meter();
        let form = event(&customer, "25", "&identifier=i1");
        assert_eq!(desk.post(EVENTS, &form).0, 200);
        desk.now_ms += WINDOW_MS - 1;
        let (status, refused) = desk.post(EVENTS, &event(&customer, "1", "&identifier=i1"));
        let expected = json!({ "error": {
            "type": "invalid_request_error", "message": "An event already exists with identifier i1." } });
        assert_eq!((status, refused), (400, expected));
        let repeated = Desk::request(http::Method::POST, EVENTS, &form, None);
        let headers = desk.ask(&repeated).unwrap().headers;
        assert_eq!(headers, [("stripe-should-retry", "false".to_owned())]);
        desk.now_ms += 1;
        assert_eq!(desk.post(EVENTS, &form).0, 200);
        assert_eq!(desk.engine.store.meter_total("units", &customer), 50);
    }

    #[test]
    fn timestamps_lie_between_35_days_back_and_5_minutes_ahead() {
        let (mut desk, customer, _) = Desk::with_meter();
        let mut at = |timestamp: i64| desk.post(EVENTS, &event(&customer, "1", &format!("&timestamp={timestamp}")));
        assert_eq!(at(START_S - PAST_S).0, 200);
        assert_eq!(at(START_S + AHEAD_S).0, 200);
        assert_eq!(code(&at(START_S - PAST_S - 1)), (400, "timestamp_too_far_in_past"));
        assert_eq!(code(&at(START_S + AHEAD_S + 1)), (400, "timestamp_in_future"));
    }

    #[test]
    fn values_are_whole_numbers_of_15_digits() {
        let (mut desk, customer, _) = Desk::with_meter();
        for value in ["1.5", "abc", "1234567890123456", "-", "%2B1", "+1"] {
            let refused = desk.post(EVENTS, &event(&customer, value, ""));
            assert_eq!(code(&refused), (400, "meter_event_invalid_value"), "{value}");
        }
        assert_eq!(desk.post(EVENTS, &event(&customer, "999999999999999", "")).0, 200);
        assert_eq!(desk.engine.store.meter_total("units", &customer), 999_999_999_999_999);
    }

    #[test]
    fn unsound_events_are_refused_now_or_reported_later() {
        let unsound = [
            ("event_name=none&payload[stripe_customer_id]=CUS&payload[value]=1", "no_meter"),
            ("event_name=units&payload[value]=1", "meter_event_no_customer_defined"),
            ("event_name=units&payload[stripe_customer_id]=cus_x&payload[value]=1", "meter_event_customer_not_found"),
            ("event_name=units&payload[stripe_customer_id]=CUS", "meter_event_value_not_found"),
            (
                "event_name=units&payload[stripe_customer_id]=CUS&payload[value]=1&timestamp=1",
                "timestamp_too_far_in_past",
            ),
        ];
        for (form, late) in unsound {
            let (mut desk, customer, _) = Desk::with_meter();
            let form = form.replace("CUS", &customer);
            assert_eq!(desk.post(EVENTS, &form).0, 400, "{form}");
            desk.engine.store.usage.validation = Validation::Later;
            assert_eq!(desk.post(EVENTS, &form).0, 200, "{form}");
            let reported: Vec<&str> = desk.engine.store.usage.late_errors.iter().map(|error| error.code).collect();
            assert_eq!(reported, [late]);
            assert_eq!(desk.engine.store.meter_total("units", &customer), 0);
        }
    }

    #[test]
    fn an_inactive_meter_takes_no_events() {
        let (mut desk, customer, meter) = Desk::with_meter();
        desk.post(&format!("/v1/billing/meters/{meter}/deactivate"), "");
        assert_eq!(desk.post(EVENTS, &event(&customer, "1", "")).0, 400);
        desk.engine.store.usage.validation = Validation::Later;
        assert_eq!(desk.post(EVENTS, &event(&customer, "1", "")).0, 200);
        assert_eq!(desk.engine.store.usage.late_errors[0].code, "archived_meter");
    }

    #[test]
    fn a_cancelled_event_counts_no_more_and_can_be_cancelled_once_within_a_day() {
        let (mut desk, customer, _) = Desk::with_meter();
        let cancel = |id: &str| format!("type=cancel&event_name=units&cancel[identifier]={id}");
        for id in ["a", "b"] {
            desk.post(EVENTS, &event(&customer, "5", &format!("&identifier={id}")));
        }
        let (status, shown) = desk.post(ADJUSTMENTS, &cancel("a"));
        assert_eq!((status, &shown["cancel"]["identifier"]), (200, &json!("a")));
        assert_eq!(desk.engine.store.meter_total("units", &customer), 5);
        assert_eq!(code(&desk.post(ADJUSTMENTS, &cancel("a"))), (400, "resource_missing"));
        desk.now_ms += WINDOW_MS;
        assert_eq!(code(&desk.post(ADJUSTMENTS, &cancel("b"))), (400, "resource_missing"));
        assert_eq!(desk.engine.store.meter_total("units", &customer), 5);
    }

    #[test]
    fn totals_come_per_meter_and_customer() {
        let (mut desk, customer, meter) = Desk::with_meter();
        for value in ["5", "7"] {
            desk.post(EVENTS, &event(&customer, value, ""));
        }
        let total = MeterTotal { event_name: "units".into(), customer, meter, sum: 12, events: 2, value: 12 };
        assert_eq!(desk.engine.store.meter_totals(), [total]);
    }
}
