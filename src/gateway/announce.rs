//! What a metered response says about itself: cost, and the tightest limit
//! (draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy: "meter";q=quota;w=window`, `RateLimit: "meter";r=left;t=seconds`).

use std::io::Write as _;
use std::sync::Arc;

use http::header::ACCESS_CONTROL_EXPOSE_HEADERS;
use http::{HeaderName, HeaderValue, Response};

use super::admit::Admitted;
use super::{Priced, Reply, X_REQUEST_ID};
use crate::ledger::Budget;
use crate::meter::Reserved;

const X_TOLLGATE_COST: HeaderName = HeaderName::from_static("x-tollgate-cost");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What is known before the request goes out.
pub struct Announced {
    limit: Option<Limit>,
}

struct Limit {
    budget: Arc<Budget>,
    policy: HeaderValue,
    /// Units of this request on this meter.
    cost: u64,
    /// Units of the period.
    quota: u64,
    resets_in_s: i64,
}

impl Announced {
    /// For an admitted request.
    #[must_use]
    pub fn of(admitted: &Admitted, now_ms: i64) -> Self {
        let (state, exchange) = (&admitted.state, &admitted.exchange);
        let quota = |reserved: &Reserved| state.quotas.get(reserved.index.0).copied().unwrap_or(0);
        let tightest = exchange.reserved().iter().min_by_key(|r| quota(r).saturating_sub(r.budget.committed()));
        let limit = tightest.and_then(|reserved| {
            Some(Limit {
                budget: Arc::clone(&reserved.budget),
                policy: state.policies.get(reserved.index.0)?.clone(),
                cost: reserved.units,
                quota: quota(reserved),
                resets_in_s: state.period.end_s - now_ms.div_euclid(1_000),
            })
        });
        Self { limit }
    }

    /// Writes the headers; for a browser, also which of them its page may read.
    pub fn write(
        self,
        response: &mut Response<Reply>,
        priced: &Priced<'_>,
        request_id: &HeaderValue,
        audience: Audience,
    ) {
        let (snapshot, route) = (priced.snapshot, priced.matched.index);
        let charged = snapshot.terms[route].charge_on.covers(response.status());
        // A response without a body has ended by now; the others still hold their reservation.
        let hold = match response.body() {
            Reply::Metered(_) if !charged => self.limit.as_ref().map_or(0, |limit| limit.cost),
            Reply::Metered(_) | Reply::Full(_) => 0,
        };
        let headers = response.headers_mut();
        headers.insert(
            X_TOLLGATE_COST,
            if charged { snapshot.costs[route].clone() } else { HeaderValue::from_static("0") },
        );
        headers.entry(X_REQUEST_ID).or_insert_with(|| request_id.clone());
        if let Some(limit) = self.limit {
            headers.insert(RATE_LIMIT, limit.left(hold));
            headers.insert(RATE_LIMIT_POLICY, limit.policy);
        }
        if audience == Audience::Browser {
            let ours = "X-Request-Id, X-Tollgate-Cost, RateLimit, RateLimit-Policy";
            headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(ours));
        }
    }
}

/// Who reads the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A program.
    Program,
    /// A page in a browser: the request had an `Origin`.
    Browser,
}

/// Meters' names are at most 64 characters; numbers have at most 20 digits each.
const LEFT_AT_MOST: usize = 128;

impl Limit {
    /// `RateLimit`: units left after everything reserved, except `hold` that is about to come back.
    fn left(&self, hold: u64) -> HeaderValue {
        let left = self.quota.saturating_sub(self.budget.committed().saturating_sub(hold));
        let mut text = [0; LEFT_AT_MOST];
        let mut rest = text.as_mut_slice();
        let (meter, resets_in_s) = (&self.budget.account().meter, self.resets_in_s.max(0));
        let written = write!(rest, "\"{meter}\";r={left};t={resets_in_s}");
        let length = LEFT_AT_MOST - rest.len();
        match (written, HeaderValue::from_bytes(&text[..length])) {
            (Ok(()), Ok(value)) => value,
            (Ok(()) | Err(_), _) => HeaderValue::from_static("\"units\";r=0"),
        }
    }
}
