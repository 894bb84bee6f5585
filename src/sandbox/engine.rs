//! One call, from the request to the answer. No sockets, no waiting: [`Step::Wait`] asks the caller to wait.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use http::{Method, StatusCode};

use super::agenda::Scope;
use super::answer::{Answer, Outcome, Request};
use super::auth;
use super::errors::ApiError;
use super::exchanges::{Exchange, Exchanges};
use super::faults::{Effect, Faults, Plan, failure, one_at_a_time};
use super::form::{self, Form, Node};
use super::idempotency::{Claim, Fingerprint, Keys};
use super::meter_events::{Usage, Validation};
use super::outbox::Delivery;
use super::page::{self, Page};
use super::params::Params;
use super::state::{self, Entry, Settings, StateFile};
use super::store::{Call, Ids, Legacy, Store};
use super::{renewal, route, thin_events};

const METER_EVENTS: &str = "/v1/billing/meter_events";
const FORM: &str = "application/x-www-form-urlencoded";

/// Everything behind the mutex.
pub(super) struct Engine {
    pub(super) store: Store,
    pub(super) faults: Faults,
    pub(super) exchanges: Exchanges,
    allowed: auth::Keys,
    keys: Keys,
    /// Customer and event name of the meter events that are waiting.
    busy: HashSet<Pair>,
    /// Ids of answers; their own, since they are no part of the account.
    pub(super) request_ids: Ids,
    file: Option<StateFile>,
}

type Pair = (String, String);

/// What to do now.
#[derive(Debug)]
pub(super) enum Step {
    /// Wait (after the effect), then this is the end.
    Done(Outcome, Duration),
    /// Wait (before the effect), then [`Engine::finish`].
    Wait(Duration, Ticket),
}

/// A call that has been let in.
#[derive(Debug)]
pub(super) struct Ticket {
    plan: Plan,
    form: Form,
    key: Option<String>,
    pair: Option<Pair>,
}

impl Engine {
    /// An empty account; `None` accepts any test key.
    pub(super) fn new(secret_key: Option<String>, validation: Validation) -> Self {
        Self {
            store: Store::new(Usage::new(validation)),
            faults: Faults::default(),
            exchanges: Exchanges::default(),
            allowed: secret_key.map_or(auth::Keys::AnyTest, auth::Keys::Only),
            keys: Keys::default(),
            busy: HashSet::new(),
            request_ids: Ids::new(),
            file: None,
        }
    }

    /// Lets a call in or turns it away.
    pub(super) fn begin(&mut self, request: &Request, now_ms: i64) -> Step {
        self.catch_up(now_ms);
        let plan = self.faults.plan(&request.method, request.path());
        if plan.wrong == Some(Effect::Hangup) {
            return Step::Done(Outcome::Hangup, plan.slow);
        }
        match self.admit(request, &plan, now_ms) {
            Ok(Admitted::Fresh(ticket)) if plan.delay.is_zero() => self.finish(request, ticket, now_ms),
            Ok(Admitted::Fresh(ticket)) => Step::Wait(plan.delay, ticket),
            Ok(Admitted::Replay(answer)) => self.close(request, &plan, answer),
            Err(error) => self.close(request, &plan, Answer::from(error)),
        }
    }

    /// Carries the call out.
    pub(super) fn finish(&mut self, request: &Request, ticket: Ticket, now_ms: i64) -> Step {
        self.catch_up(now_ms);
        let Ticket { plan, form, key, pair } = ticket;
        let answer = self.carry_out(request, &plan, form, now_ms);
        if let Some(key) = key {
            self.keys.settle(&key, &answer, now_ms);
        }
        if let Some(pair) = pair {
            self.busy.remove(&pair);
        }
        self.close(request, &plan, answer)
    }

    /// Everything that is due by now happens, at its own time.
    pub(super) fn catch_up(&mut self, now_ms: i64) {
        self.store.now_s = now_ms.div_euclid(1_000);
        renewal::run(&mut self.store, &Scope::Sandbox, now_ms.div_euclid(1_000));
    }

    /// A browser's visit to a hosted page.
    pub(super) fn visit(&mut self, method: &Method, path: &str, body: &str, now_ms: i64) -> Option<Page> {
        self.catch_up(now_ms);
        if *method == Method::POST {
            self.keep(&Entry::Visit { at_ms: now_ms, path: path.to_owned(), body: body.to_owned() });
        }
        page::answer(&mut self.store, method, path, body)
    }

    /// Time passes without a call: what is due, and reports of late errors.
    pub(super) fn tick(&mut self, now_ms: i64) {
        self.catch_up(now_ms);
        if self.store.usage.has_unreported() {
            self.keep(&Entry::Report { at_ms: now_ms });
            self.report();
        }
    }

    fn report(&mut self) {
        if let Err(error) = thin_events::report(&mut self.store) {
            tracing::warn!(message = %error.message, "late errors of meter events could not be reported");
        }
    }

    /// An endpoint took an event, or the last retry has failed: then it stays pending.
    pub(super) fn delivered(&mut self, delivery: &Delivery, acknowledged: bool) {
        if acknowledged {
            let (event, endpoint) = (delivery.event.clone(), delivery.endpoint.clone());
            self.keep(&Entry::Acknowledged { event, endpoint });
            self.store.outbox.ended(delivery);
        }
    }

    /// A delivery waits again.
    pub(super) fn retry(&mut self, delivery: &Delivery) {
        self.store.outbox.again(delivery);
    }

    pub(super) fn set(&mut self, settings: &Settings) {
        self.keep(&Entry::Settings(settings.clone()));
        let store = &mut self.store;
        store.usage.validation = settings.validation.unwrap_or(store.usage.validation);
        store.dunning_end = settings.dunning_end.unwrap_or(store.dunning_end);
        if let Some(delivering) = &settings.webhooks {
            store.outbox.set(delivering.clone());
        }
    }

    /// Keeps what the file says, and keeps the file; how far the sandbox was ahead, in milliseconds.
    pub(super) fn restore(&mut self, path: &Path) -> io::Result<i64> {
        let (mut file, entries) = StateFile::open(path)?;
        if entries.is_empty() {
            file.append(&Entry::Begin { salt: self.store.ids.salt().to_owned() })?;
        }
        let mut ahead_ms = 0;
        for entry in entries {
            ahead_ms += self.redo(entry);
        }
        self.file = Some(file);
        Ok(ahead_ms)
    }

    fn redo(&mut self, entry: Entry) -> i64 {
        match entry {
            Entry::Begin { salt } => self.store.ids = Ids::with_salt(salt),
            Entry::Call { at_ms, method, target, body, key, version } => {
                self.redo_call(&state::request(&method, target, body, key, version), at_ms);
            }
            Entry::Visit { at_ms, path, body } => drop(self.visit(&Method::POST, &path, &body, at_ms)),
            Entry::Report { at_ms } => {
                self.catch_up(at_ms);
                self.report();
            }
            Entry::Acknowledged { event, endpoint } => self.store.outbox.forget(&event, &endpoint),
            Entry::Ahead { by_ms } => return by_ms,
            Entry::Settings(settings) => self.set(&settings),
        }
        0
    }

    fn redo_call(&mut self, request: &Request, at_ms: i64) {
        self.catch_up(at_ms);
        // It was let in once, so its form can be read.
        let Ok(form) = read_form(request) else { return };
        if let Some(key) = &request.idempotency_key {
            let print = Fingerprint::of(&request.method, request.path(), &form);
            drop(self.keys.claim(key, print, at_ms));
        }
        let answer = self.carry_out(request, &Plan::default(), form, at_ms);
        if let Some(key) = &request.idempotency_key {
            self.keys.settle(key, &answer, at_ms);
        }
    }

    /// Notes in the file, if there is one, what is about to happen.
    pub(super) fn keep(&mut self, entry: &Entry) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.append(entry)
        {
            tracing::error!(%error, "the sandbox's state file cannot be written; from now on nothing is kept");
            self.file = None;
        }
    }

    fn admit(&mut self, request: &Request, plan: &Plan, now_ms: i64) -> Result<Admitted, ApiError> {
        plan.refusal().map_or(Ok(()), Err)?;
        self.allowed.check(request.authorization.as_deref())?;
        let form = read_form(request)?;
        let key = request.idempotency_key.clone().filter(|_| request.method == Method::POST);
        if let Some(key) = &key {
            let print = Fingerprint::of(&request.method, request.path(), &form);
            if let Claim::Replay(answer) = self.keys.claim(key, print, now_ms)? {
                return Ok(Admitted::Replay(answer));
            }
        }
        let pair = self.take_turn(request, &form, key.as_deref(), now_ms)?;
        Ok(Admitted::Fresh(Ticket { plan: plan.clone(), form, key, pair }))
    }

    /// One meter event at a time for one customer and meter.
    fn take_turn(
        &mut self,
        request: &Request,
        form: &Form,
        key: Option<&str>,
        now_ms: i64,
    ) -> Result<Option<Pair>, ApiError> {
        let Some(pair) = self.pair(request, form) else { return Ok(None) };
        if self.busy.insert(pair.clone()) {
            return Ok(Some(pair));
        }
        let refusal = one_at_a_time();
        if let Some(key) = key {
            self.keys.settle(key, &Answer::from(refusal.clone()), now_ms);
        }
        Err(refusal)
    }

    fn pair(&self, request: &Request, form: &Form) -> Option<Pair> {
        if request.method != Method::POST || request.path() != METER_EVENTS {
            return None;
        }
        let Node::Text(event_name) = form.get("event_name")? else { return None };
        let Node::Map(payload) = form.get("payload")? else { return None };
        let meter = self.store.meters.iter().find(|meter| meter.event_name == *event_name)?;
        let Node::Text(customer) = payload.get(meter.customer_key())? else { return None };
        Some((customer.clone(), event_name.clone()))
    }

    fn carry_out(&mut self, request: &Request, plan: &Plan, form: Form, now_ms: i64) -> Answer {
        let legacy = Legacy::of(request.stripe_version.as_deref());
        let key = request.idempotency_key.clone();
        let call = Call { now_ms, lag_ms: plan.lag_ms, legacy, key, params: Params::new(form) };
        if let Some(Effect::ErrorBefore { status, should_retry }) = plan.wrong {
            return Answer::from(failure(status, should_retry));
        }
        if request.method != Method::GET {
            self.keep(&Entry::of(request, now_ms));
        }
        let answer = Answer::from(route::execute(&mut self.store, &request.method, request.path(), call));
        if let Some(Effect::ErrorAfter { status, should_retry }) = plan.wrong {
            return Answer::from(failure(status, should_retry));
        }
        answer
    }

    /// The last step: a lost answer is lost, every other one is recorded.
    fn close(&mut self, request: &Request, plan: &Plan, answer: Answer) -> Step {
        if plan.wrong == Some(Effect::LostAnswer) {
            return Step::Done(Outcome::Hangup, plan.slow);
        }
        self.exchanges.record(Exchange::new(request, &answer));
        Step::Done(Outcome::Answer(answer), plan.slow)
    }
}

enum Admitted {
    Fresh(Ticket),
    Replay(Answer),
}

/// The body of a POST, the query of anything else.
fn read_form(request: &Request) -> Result<Form, ApiError> {
    let invalid = |error: form::FormError| ApiError::invalid(error.to_string());
    if request.method != Method::POST {
        return form::parse(request.query()).map_err(invalid);
    }
    let kind = request.content_type.as_deref().unwrap_or(FORM);
    let kind = kind.split_once(';').map_or(kind, |(kind, _)| kind).trim();
    if !request.body.is_empty() && !kind.eq_ignore_ascii_case(FORM) {
        let message = format!("Invalid request: the content type must be {FORM}, not {kind}.");
        let mut error = ApiError::invalid(message);
        error.status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(error);
    }
    let text = std::str::from_utf8(&request.body).map_err(|_| invalid(form::FormError::Utf8))?;
    form::parse(text).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::desk::{Desk, event, shown};
    use crate::sandbox::faults::Fault;

    const POST_EVENT: (&str, &str) = ("POST", METER_EVENTS);

    fn post(body: &str, key: &str) -> Request {
        Desk::request(Method::POST, METER_EVENTS, body, Some(key))
    }

    fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
        answer.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_str())
    }

    fn once(effect: Effect) -> Fault {
        Fault::new(effect).on(POST_EVENT.0, POST_EVENT.1).times(1)
    }

    #[test]
    fn a_lost_answer_took_effect_and_the_same_key_brings_it_back() {
        let (mut desk, customer, _) = Desk::with_meter();
        desk.fault(once(Effect::LostAnswer));
        let request = post(&event(&customer, "7", "&identifier=a"), "k1");
        assert_eq!(desk.ask(&request), None);
        assert_eq!(desk.engine.store.meter_total("units", &customer), 7);
        let again = desk.ask(&request).unwrap();
        assert_eq!((again.status.as_u16(), header(&again, "idempotent-replayed")), (200, Some("true")));
        assert_eq!(desk.engine.store.meter_total("units", &customer), 7);
    }

    #[test]
    fn after_a_5xx_a_fresh_key_finds_out_what_happened() {
        for (effect, counted, status) in [
            (Effect::ErrorAfter { status: 500, should_retry: Some(true) }, 7, 400),
            (Effect::ErrorBefore { status: 502, should_retry: None }, 0, 200),
        ] {
            let (mut desk, customer, _) = Desk::with_meter();
            desk.fault(once(effect));
            let form = event(&customer, "7", "&identifier=a");
            let first = desk.ask(&post(&form, "k1")).unwrap();
            assert!(first.status.is_server_error());
            assert_eq!(desk.engine.store.meter_total("units", &customer), counted);
            let replayed = desk.ask(&post(&form, "k1")).unwrap();
            assert_eq!((replayed.status, header(&replayed, "idempotent-replayed")), (first.status, Some("true")));
            assert_eq!(desk.ask(&post(&form, "k2")).unwrap().status.as_u16(), status);
            assert_eq!(desk.engine.store.meter_total("units", &customer), 7);
        }
    }

    #[test]
    fn a_limiter_or_an_outage_leaves_no_trace() {
        let limits = [
            (Effect::RateLimited { reason: "global-rate".into() }, 429, Some("global-rate"), Some("rate_limit")),
            (Effect::LockTimeout, 429, None, Some("lock_timeout")),
            (Effect::Concurrency, 429, Some("resource-specific"), Some("rate_limit")),
            (Effect::Outage, 503, None, None),
        ];
        for (effect, status, reason, code) in limits {
            let (mut desk, customer, _) = Desk::with_meter();
            desk.fault(once(effect));
            let request = post(&event(&customer, "7", ""), "k");
            let refused = desk.ask(&request).unwrap();
            assert_eq!((refused.status.as_u16(), header(&refused, "stripe-rate-limited-reason")), (status, reason));
            assert_eq!(shown(&refused).1["error"]["code"].as_str(), code);
            let answer = desk.ask(&request).unwrap();
            assert_eq!((answer.status.as_u16(), header(&answer, "idempotent-replayed")), (200, None));
        }
    }

    #[test]
    fn a_waiting_call_keeps_its_key_and_its_customer_and_meter_busy() {
        let (mut desk, customer, _) = Desk::with_meter();
        let other = desk.make("/v1/customers", "name=Other");
        desk.fault(once(Effect::Delay { ms: 50 }));
        let slow = post(&event(&customer, "7", ""), "k1");
        let ticket = desk.hold(&slow);
        assert_eq!(desk.ask(&slow).unwrap().status, 409);
        let second = post(&event(&customer, "1", ""), "k2");
        let refused = desk.ask(&second).unwrap();
        assert_eq!(
            (refused.status.as_u16(), header(&refused, "stripe-rate-limited-reason")),
            (429, Some("resource-specific"))
        );
        assert_eq!(desk.ask(&post(&event(&other, "1", ""), "k3")).unwrap().status, 200);
        assert_eq!(desk.engine.store.meter_total("units", &customer), 0);
        assert_eq!(desk.release(&slow, ticket).status, 200);
        assert_eq!(desk.ask(&second).unwrap().status, 200);
        assert_eq!(desk.engine.store.meter_total("units", &customer), 8);
    }

    #[test]
    fn a_refused_parameter_sets_the_key_free_and_a_missing_object_does_not() {
        let mut desk = Desk::new();
        let bad = Desk::request(Method::POST, "/v1/customers", "colour=red", Some("k1"));
        assert_eq!(desk.ask(&bad).unwrap().status, 400);
        let good = Desk::request(Method::POST, "/v1/customers", "name=a", Some("k1"));
        assert_eq!(desk.ask(&good).unwrap().status, 200);
        let missing = Desk::request(Method::POST, "/v1/customers/cus_none", "name=a", Some("k2"));
        assert_eq!(desk.ask(&missing).unwrap().status, 404);
        assert_eq!(header(&desk.ask(&missing).unwrap(), "idempotent-replayed"), Some("true"));
    }

    #[test]
    fn calls_without_a_key_or_in_json_are_refused() {
        let mut desk = Desk::new();
        let anonymous = Request { authorization: None, ..Desk::request(Method::GET, "/v1/customers", "", None) };
        let refused = desk.ask(&anonymous).unwrap();
        assert_eq!(
            (refused.status.as_u16(), header(&refused, "www-authenticate")),
            (401, Some("Basic realm=\"Stripe\""))
        );
        let json = Request {
            content_type: Some("application/json".into()),
            ..Desk::request(Method::POST, "/v1/customers", "{}", None)
        };
        assert_eq!(desk.ask(&json).unwrap().status, 415);
        assert_eq!(desk.get("/v1/charges").0, 404);
    }

    #[test]
    fn summaries_lag_behind_only_while_the_fault_says_so() {
        let (mut desk, customer, meter) = Desk::with_meter();
        desk.post(METER_EVENTS, &event(&customer, "7", ""));
        desk.fault(Fault::new(Effect::Lag { seconds: 60 }));
        let (from, to) = (desk.now_ms / 1_000, desk.now_ms / 1_000 + 3_600);
        let target =
            format!("/v1/billing/meters/{meter}/event_summaries?customer={customer}&start_time={from}&end_time={to}");
        assert_eq!(desk.get(&target).1["data"].as_array().unwrap().len(), 0);
        desk.now_ms += 60_000;
        assert_eq!(desk.get(&target).1["data"][0]["aggregated_value"], 7);
    }
}
