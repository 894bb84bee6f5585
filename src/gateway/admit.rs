//! May the caller do this now: scope, status, feature, budget already spent, rate, concurrency, then the reservation.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::Method;
use jiff::Timestamp;

use super::identify::Caller;
use super::refusal::{Limit, Refusal};
use super::{Lane, Priced};
use crate::accounts::State;
use crate::accounts::tenant::InFlight;
use crate::ledger::Short;
use crate::meter::{Exchange, Reserved, Subject, note_refused, reserve_all};
use crate::pricing::{Access, OnOutage, Plan, Rate, RatePer};
use crate::units::KeyNum;

/// A caller who may pass, with the exchange that pays.
#[derive(Debug)]
pub struct Admitted {
    /// What the caller's requests see.
    pub state: Arc<State>,
    /// The reservation.
    pub exchange: Exchange,
}

/// Checks everything and reserves.
///
/// # Errors
/// The refusal to send; it is counted in the journal.
pub async fn admit(
    lane: &Lane,
    caller: &Caller,
    priced: &Priced<'_>,
    method: &Method,
    path: &str,
    now_ms: i64,
) -> Result<Admitted, Refusal> {
    let state = lane.gateway.accounts.state(&caller.tenant, &priced.snapshot.prices, now_ms);
    if let Some(key) = &caller.key {
        key.last_used_ms.store(now_ms, Relaxed);
    }
    let subject = Subject {
        tenant: caller.tenant.num,
        key: caller.key.as_ref().map_or(KeyNum::NONE, |key| key.num),
        period: state.period.id(),
        route: priced.name,
        free_meter: priced.snapshot.free_meter,
        at_ms: now_ms,
    };
    let admission = Admission { lane, caller, priced, state, subject };
    let admitted = admission.run(method, path).await;
    admitted.inspect_err(|refusal| note_refused(&lane.writer, subject, refusal.status()))
}

struct Admission<'a> {
    lane: &'a Lane,
    caller: &'a Caller,
    priced: &'a Priced<'a>,
    state: Arc<State>,
    subject: Subject,
}

impl Admission<'_> {
    async fn run(self, method: &Method, path: &str) -> Result<Admitted, Refusal> {
        self.check_scope(method, path)?;
        let plan = self.check_access()?;
        self.check_features(&plan)?;
        let wanted = self.wanted();
        self.check_spent(&wanted)?;
        self.check_rates(&plan)?;
        let in_flight = self.caller.tenant.enter(plan.concurrency).ok_or(Refusal::TooManyConcurrent)?;
        self.reserve(&wanted, &plan).await?;
        self.open(wanted, in_flight)
    }

    fn check_scope(&self, method: &Method, path: &str) -> Result<(), Refusal> {
        let Some(key) = &self.caller.key else { return Ok(()) };
        if key.scopes.cover(method, path) { Ok(()) } else { Err(Refusal::OutOfScope) }
    }

    fn check_access(&self) -> Result<Arc<Plan>, Refusal> {
        match (&self.state.plan, self.state.access) {
            (Some(plan), Access::Pass | Access::Free) => Ok(Arc::clone(plan)),
            (plan, Access::Deny | Access::Pass | Access::Free) => Err(Refusal::SubscriptionInactive {
                plan: plan.as_ref().map_or_else(|| Arc::from("unknown"), |plan| Arc::clone(&plan.name)),
            }),
        }
    }

    fn check_features(&self, plan: &Plan) -> Result<(), Refusal> {
        match self.priced.matched.requires().find(|feature| !plan.opens(feature)) {
            Some(missing) => Err(Refusal::FeatureRequired(Arc::clone(missing))),
            None => Ok(()),
        }
    }

    /// What the route's rule would charge, at most.
    fn wanted(&self) -> Vec<Reserved> {
        let charges = self.priced.matched.route.charges.iter();
        charges
            .filter_map(|charge| {
                let budget = Arc::clone(self.state.budget(charge.meter)?);
                let meter = *self.priced.snapshot.meter_names.get(charge.meter.0)?;
                Some(Reserved { budget, index: charge.meter, meter, units: charge.cost.bound() })
            })
            .collect()
    }

    /// Before the rate limit: who has spent everything is told so, not to slow down.
    fn check_spent(&self, wanted: &[Reserved]) -> Result<(), Refusal> {
        match wanted.iter().position(|want| want.units > 0 && want.budget.is_spent()) {
            Some(n) => Err(self.limit_exceeded(wanted, n)),
            None => Ok(()),
        }
    }

    fn check_rates(&self, plan: &Plan) -> Result<(), Refusal> {
        if let Some(rate) = plan.rate {
            let limiter = match (rate.per, &self.caller.key) {
                (RatePer::Key, Some(key)) => &key.limiter,
                (RatePer::Key, None) | (RatePer::Tenant, _) => &self.caller.tenant.limiter,
            };
            limiter.check(rate).map_err(Refusal::RateLimited)?;
        }
        match self.priced.matched.route.rate {
            Some(rate) => self.check_route_rate(rate),
            None => Ok(()),
        }
    }

    fn check_route_rate(&self, rate: Rate) -> Result<(), Refusal> {
        let limiter = self.caller.tenant.route_limiter(self.priced.snapshot.prices.version, self.priced.matched.index);
        limiter.check(rate).map_err(Refusal::RateLimited)
    }

    async fn reserve(&self, wanted: &[Reserved], plan: &Plan) -> Result<(), Refusal> {
        let allowance = match plan.on_outage {
            OnOutage::Deny => None,
            OnOutage::Allow(units) => Some(units),
        };
        let reserved = reserve_all(&self.lane.gateway.node, wanted, allowance, self.subject.at_ms).await;
        reserved.map_err(|(n, short)| match short {
            Short::NoAnswer => Refusal::LedgerUnavailable,
            Short::Spent => self.limit_exceeded(wanted, n),
        })
    }

    fn open(self, reserved: Vec<Reserved>, in_flight: InFlight) -> Result<Admitted, Refusal> {
        let terms = &self.priced.snapshot.terms[self.priced.matched.index];
        let exchange = Exchange::open(&self.lane.writer, self.subject, terms, reserved, in_flight)
            .map_err(|_full| Refusal::JournalFull)?;
        Ok(Admitted { state: self.state, exchange })
    }

    fn limit_exceeded(&self, wanted: &[Reserved], n: usize) -> Refusal {
        let budget = &wanted[n].budget;
        let view = budget.view();
        let plan = self.state.plan.as_ref();
        Refusal::LimitExceeded(Box::new(Limit {
            plan: plan.map_or_else(|| Arc::from("unknown"), |plan| Arc::clone(&plan.name)),
            meter: Arc::clone(&budget.account().meter),
            used: view.used,
            limit: view.cap.unwrap_or(view.used),
            resets_at: Timestamp::from_second(self.state.period.end_s).unwrap_or(Timestamp::MAX),
            upgrade_url: self.priced.snapshot.upgrade_url.clone(),
        }))
    }
}
