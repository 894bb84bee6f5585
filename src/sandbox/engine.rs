//! One call, from the request to the answer. No sockets, no waiting: [`Step::Wait`] asks the caller to wait.

use std::collections::HashSet;
use std::time::Duration;

use http::{Method, StatusCode};

use super::answer::{Answer, Outcome, Request};
use super::auth;
use super::errors::ApiError;
use super::exchanges::{Exchange, Exchanges};
use super::faults::{Effect, Faults, Plan, failure, one_at_a_time};
use super::form::{self, Form, Node};
use super::idempotency::{Claim, Fingerprint, Keys};
use super::meter_events::{Usage, Validation};
use super::params::Params;
use super::route;
use super::store::{Call, Store};

const METER_EVENTS: &str = "/v1/billing/meter_events";
const FORM: &str = "application/x-www-form-urlencoded";

/// Everything behind the mutex.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) store: Store,
    pub(super) faults: Faults,
    pub(super) exchanges: Exchanges,
    allowed: auth::Keys,
    keys: Keys,
    /// Customer and event name of the meter events that are waiting.
    busy: HashSet<Pair>,
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
        }
    }

    /// Lets a call in or turns it away.
    pub(super) fn begin(&mut self, request: &Request, now_ms: i64) -> Step {
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
        let call = Call { now_ms, lag_ms: plan.lag_ms, params: Params::new(form) };
        if let Some(Effect::ErrorBefore { status, should_retry }) = plan.wrong {
            return Answer::from(failure(status, should_retry));
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
