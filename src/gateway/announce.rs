//! What a metered response says about itself: cost, and the tightest limit
//! (draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy: "meter";q=quota;w=window`, `RateLimit: "meter";r=left;t=seconds`).

use std::fmt::Write as _;
use std::sync::Arc;

use http::header::ACCESS_CONTROL_EXPOSE_HEADERS;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::admit::Admitted;
use super::{Reply, X_REQUEST_ID};
use crate::ledger::Budget;
use crate::meter::Terms;

const X_TOLLGATE_COST: HeaderName = HeaderName::from_static("x-tollgate-cost");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What is known before the request goes out.
pub struct Announced {
    /// Summed over meters.
    cost: u64,
    terms: Arc<Terms>,
    limit: Option<Quota>,
}

struct Quota {
    budget: Arc<Budget>,
    /// Of this request on this meter.
    cost: u64,
    units: u64,
    window_s: i64,
    resets_in_s: i64,
}

impl Announced {
    /// For an admitted request.
    #[must_use]
    pub fn of(admitted: &Admitted, now_ms: i64) -> Self {
        let exchange = &admitted.exchange;
        let period = admitted.state.period;
        let quota = |n: usize| {
            let reserved = &exchange.reserved()[n];
            let view = reserved.budget.view();
            let included = admitted.state.included_of(&reserved.budget);
            Quota {
                budget: Arc::clone(&reserved.budget),
                cost: reserved.units,
                units: view.cap.unwrap_or(included),
                window_s: period.end_s - period.start_s,
                resets_in_s: period.end_s - now_ms.div_euclid(1_000),
            }
        };
        let tightest = (0..exchange.reserved().len()).map(quota).min_by_key(|quota| quota.left(0));
        Self {
            cost: exchange.reserved().iter().map(|r| r.units).sum(),
            terms: Arc::clone(exchange.terms()),
            limit: tightest,
        }
    }

    /// Writes the headers; `cors` adds them to what a page's script may read.
    pub fn write(self, response: &mut Response<Reply>, request_id: &HeaderValue, for_browser: bool) {
        let status = response.status();
        let charged = self.charged(status);
        // A response without a body has ended by now; the others still hold their reservation.
        let uncharged_hold = match response.body() {
            Reply::Metered(_) if !charged => self.limit.as_ref().map_or(0, |limit| limit.cost),
            Reply::Metered(_) | Reply::Full(_) => 0,
        };
        let headers = response.headers_mut();
        headers.insert(X_TOLLGATE_COST, HeaderValue::from(if charged { self.cost } else { 0 }));
        if !headers.contains_key(&X_REQUEST_ID) {
            headers.insert(X_REQUEST_ID, request_id.clone());
        }
        if let Some(limit) = &self.limit {
            limit.write(headers, uncharged_hold);
        }
        if for_browser {
            let ours = "X-Request-Id, X-Tollgate-Cost, RateLimit, RateLimit-Policy";
            headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(ours));
        }
    }

    fn charged(&self, status: StatusCode) -> bool {
        self.terms.charge_on.covers(status)
    }
}

impl Quota {
    /// Units left after everything reserved, except `hold` that is about to come back.
    fn left(&self, hold: u64) -> u64 {
        self.units.saturating_sub(self.budget.committed().saturating_sub(hold))
    }

    fn write(&self, headers: &mut HeaderMap, hold: u64) {
        let meter = &self.budget.account().meter;
        let mut text = String::with_capacity(64);
        let written = write!(text, "\"{meter}\";q={};w={}", self.units, self.window_s);
        written.expect("writing to a String does not fail");
        insert(headers, RATE_LIMIT_POLICY, &text);
        text.clear();
        let written = write!(text, "\"{meter}\";r={};t={}", self.left(hold), self.resets_in_s.max(0));
        written.expect("writing to a String does not fail");
        insert(headers, RATE_LIMIT, &text);
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}
