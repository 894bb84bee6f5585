//! For the tests of this room: calls to an engine, without sockets and with a time of their own.

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::answer::{Answer, Outcome, Request};
use super::engine::{Engine, Step, Ticket};
use super::faults::Fault;
use super::meter_events::Validation;

/// 2026-10-01T00:00:00Z
pub(super) const START_S: i64 = 1_790_812_800;

/// An engine and its time.
pub(super) struct Desk {
    pub(super) engine: Engine,
    pub(super) now_ms: i64,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self { engine: Engine::new(None, Validation::Now), now_ms: START_S * 1_000 }
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        self.engine.faults.arm(fault).unwrap();
    }

    pub(super) fn request(method: Method, target: &str, body: &str, key: Option<&str>) -> Request {
        Request {
            method,
            target: target.to_owned(),
            authorization: Some("Bearer sk_test_desk".to_owned()),
            idempotency_key: key.map(str::to_owned),
            stripe_version: None,
            content_type: Some("application/x-www-form-urlencoded".to_owned()),
            body: Bytes::from(body.to_owned()),
        }
    }

    /// The answer, or `None` if the connection was closed.
    pub(super) fn ask(&mut self, request: &Request) -> Option<Answer> {
        match self.engine.begin(request, self.now_ms) {
            Step::Done(Outcome::Answer(answer), _) => Some(answer),
            Step::Done(Outcome::Hangup, _) => None,
            Step::Wait(..) => panic!("the call waits"),
        }
    }

    /// A call that a delay holds up.
    pub(super) fn hold(&mut self, request: &Request) -> Ticket {
        match self.engine.begin(request, self.now_ms) {
            Step::Wait(_, ticket) => ticket,
            Step::Done(..) => panic!("the call does not wait"),
        }
    }

    pub(super) fn release(&mut self, request: &Request, ticket: Ticket) -> Answer {
        match self.engine.finish(request, ticket, self.now_ms) {
            Step::Done(Outcome::Answer(answer), _) => answer,
            other @ (Step::Done(..) | Step::Wait(..)) => panic!("{other:?}"),
        }
    }

    pub(super) fn post(&mut self, path: &str, body: &str) -> (u16, Value) {
        shown(&self.ask(&Self::request(Method::POST, path, body, None)).unwrap())
    }

    pub(super) fn get(&mut self, target: &str) -> (u16, Value) {
        shown(&self.ask(&Self::request(Method::GET, target, "", None)).unwrap())
    }

    pub(super) fn delete(&mut self, target: &str) -> (u16, Value) {
        shown(&self.ask(&Self::request(Method::DELETE, target, "", None)).unwrap())
    }

    /// Posts what must succeed; the id of what was made.
    pub(super) fn make(&mut self, path: &str, body: &str) -> String {
        let (status, made) = self.post(path, body);
        assert_eq!(status, 200, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }

    /// A customer, and a `sum` meter for the event name `units`.
    pub(super) fn with_meter() -> (Self, String, String) {
        let mut desk = Self::new();
        let customer = desk.make("/v1/customers", "name=Acme");
        let meter =
            desk.make("/v1/billing/meters", "event_name=units&display_name=Units&default_aggregation[formula]=sum");
        (desk, customer, meter)
    }
}

/// A meter event's form.
pub(super) fn event(customer: &str, value: &str, rest: &str) -> String {
    format!("event_name=units&payload[stripe_customer_id]={customer}&payload[value]={value}{rest}")
}

pub(super) fn shown(answer: &Answer) -> (u16, Value) {
    (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap())
}
