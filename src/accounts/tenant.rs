//! One tenant in memory: its row, and the state that requests see, made anew when plan, prices or period change.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::HeaderValue;

use super::Prices;
use crate::ledger::{Budget, Node};
use crate::period::{Period, period_at};
use crate::pricing::{Access, Meter, MeterIndex, Plan, Rate};
use crate::records::Tenant;
use crate::units::{Account, TenantNum};

/// One tenant.
#[derive(Debug)]
pub struct Entry {
    /// Number in the records.
    pub num: TenantNum,
    row: ArcSwap<Tenant>,
    /// Rises when `row` is replaced.
    row_version: AtomicU64,
    state: ArcSwapOption<State>,
    last_used_ms: AtomicI64,
    in_flight: AtomicU32,
    /// Requests of all keys together.
    pub limiter: LimiterCell,
    /// Requests per route, where the route says so; by route index and prices' version.
    route_limiters: DashMap<(u64, usize), Arc<LimiterCell>>,
}

/// What requests of a tenant see. Good until `valid_until_s`, or until the row or the prices change.
#[derive(Debug)]
pub struct State {
    /// Tenant's id.
    pub id: Arc<str>,
    /// The plan that applies; `None` if the prices do not know it.
    pub plan: Option<Arc<Plan>>,
    /// What the subscription's status opens.
    pub access: Access,
    /// The running period.
    pub period: Period,
    /// By [`MeterIndex`].
    pub budgets: Vec<Arc<Budget>>,
    /// By [`MeterIndex`]: units after which a request costs money or is refused.
    pub quotas: Vec<u64>,
    /// By [`MeterIndex`]: `RateLimit-Policy`.
    pub policies: Vec<HeaderValue>,
    /// `X-Tenant-ID` for the upstream.
    pub id_header: HeaderValue,
    /// `X-Tenant-Plan` for the upstream.
    pub plan_header: HeaderValue,
    /// `X-Tenant-Features` for the upstream.
    pub features_header: Option<HeaderValue>,
    prices_version: u64,
    row_version: u64,
    valid_until_s: i64,
}

impl State {
    /// The budget of `meter`.
    #[must_use]
    pub fn budget(&self, meter: MeterIndex) -> Option<&Arc<Budget>> {
        self.budgets.get(meter.0)
    }
}

impl Entry {
    pub(super) fn new(row: Tenant) -> Self {
        Self {
            num: row.num,
            row: ArcSwap::from_pointee(row),
            row_version: AtomicU64::new(0),
            state: ArcSwapOption::empty(),
            last_used_ms: AtomicI64::new(i64::MIN),
            in_flight: AtomicU32::new(0),
            limiter: LimiterCell::default(),
            route_limiters: DashMap::new(),
        }
    }

    /// The tenant's name in the API.
    #[must_use]
    pub fn id(&self) -> String {
        self.row.load().id.clone()
    }

    pub(super) fn replace(&self, row: Tenant) {
        self.row.store(Arc::new(row));
        self.row_version.fetch_add(1, AcqRel);
    }

    pub(super) fn used_since(&self, since_ms: i64) -> bool {
        self.last_used_ms.load(Relaxed) >= since_ms
    }

    pub(super) fn state(&self, prices: &Prices, node: &Node, now_ms: i64) -> Arc<State> {
        self.last_used_ms.store(now_ms, Relaxed);
        let second = now_ms.div_euclid(1_000);
        if let Some(state) = &*self.state.load()
            && state.prices_version == prices.version
            && state.row_version == self.row_version.load(Acquire)
            && (state.period.start_s..state.valid_until_s).contains(&second)
        {
            return Arc::clone(state);
        }
        let state = Arc::new(self.make_state(prices, node, second));
        self.state.store(Some(Arc::clone(&state)));
        state
    }

    fn make_state(&self, prices: &Prices, node: &Node, now_s: i64) -> State {
        let row_version = self.row_version.load(Acquire);
        let row = self.row.load_full();
        let own_plan = prices.pricing.plans.get(row.plan.as_str());
        let since_s = row.status_since.map(jiff::Timestamp::as_second);
        let access = own_plan.map_or(Access::Deny, |plan| plan.access(row.status, since_s, now_s));
        let plan = match access {
            Access::Free => prices.pricing.plans.get("free"),
            Access::Pass | Access::Deny => own_plan,
        };
        let period = period_at(row.anchor(), now_s);
        let grace_end_s = own_plan.zip(since_s).map(|(plan, since_s)| since_s.saturating_add(plan.grace_s));
        let meters = prices.pricing.meters.iter().enumerate();
        let budgets = meters.clone().map(|(index, meter)| {
            let account = Account { tenant: row.num, period: period.id(), meter: Arc::clone(&meter.name) };
            let cap = plan.map_or(Some(0), |plan| plan.cap(MeterIndex(index)));
            node.budget(&account, row.plan_version.saturating_add(prices.version), cap)
        });
        let quota = |index| {
            let index = MeterIndex(index);
            plan.map_or(0, |plan| plan.cap(index).unwrap_or_else(|| plan.included(index)))
        };
        let policy = |(index, meter): (usize, &Meter)| {
            header(&format!("\"{}\";q={};w={}", meter.name, quota(index), period.end_s - period.start_s))
        };
        State {
            id: row.id.as_str().into(),
            plan: plan.cloned(),
            access,
            period,
            budgets: budgets.collect(),
            quotas: meters.clone().map(|(index, _)| quota(index)).collect(),
            policies: meters.clone().map(policy).collect(),
            id_header: header(&row.id),
            plan_header: header(plan.map_or("", |plan| &plan.name)),
            features_header: plan.and_then(|plan| plan.features_header()),
            prices_version: prices.version,
            row_version,
            valid_until_s: grace_end_s.filter(|end_s| *end_s > now_s).map_or(period.end_s, |e| e.min(period.end_s)),
        }
    }

    /// One more exchange in flight, unless that passes `limit`; the guard's drop ends it.
    #[must_use]
    pub fn enter(self: &Arc<Self>, limit: Option<NonZeroU32>) -> Option<InFlight> {
        let Some(limit) = limit else { return Some(InFlight(None)) };
        if self.in_flight.fetch_add(1, AcqRel) >= limit.get() {
            self.in_flight.fetch_sub(1, AcqRel);
            return None;
        }
        Some(InFlight(Some(Arc::clone(self))))
    }

    /// The limiter of route `index` under prices `version`.
    #[must_use]
    pub fn route_limiter(&self, version: u64, index: usize) -> Arc<LimiterCell> {
        if let Some(limiter) = self.route_limiters.get(&(version, index)) {
            return Arc::clone(&limiter);
        }
        self.route_limiters.retain(|(of, _), _| *of == version);
        Arc::clone(&self.route_limiters.entry((version, index)).or_default())
    }
}

/// An exchange in flight, where the plan bounds their number.
#[derive(Debug)]
pub struct InFlight(Option<Arc<Entry>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(entry) = &self.0 {
            entry.in_flight.fetch_sub(1, AcqRel);
        }
    }
}

/// A rate limiter that follows its plan: made on first use, made anew when the rate changes.
#[derive(Debug, Default)]
pub struct LimiterCell(ArcSwapOption<(Rate, DefaultDirectRateLimiter)>);

impl LimiterCell {
    /// Takes one request from the bucket.
    ///
    /// # Errors
    /// How long until there is room again.
    pub fn check(&self, rate: Rate) -> Result<(), Duration> {
        let current = self.0.load();
        match &*current {
            Some(made) if made.0 == rate => take(&made.1),
            Some(_) | None => {
                let made = Arc::new((rate, RateLimiter::direct(quota(rate))));
                self.0.store(Some(Arc::clone(&made)));
                take(&made.1)
            }
        }
    }
}

fn take(limiter: &DefaultDirectRateLimiter) -> Result<(), Duration> {
    use governor::clock::{Clock as _, DefaultClock};
    limiter.check().map_err(|until| until.wait_time_from(DefaultClock::default().now()))
}

fn quota(rate: Rate) -> Quota {
    let per_request = Duration::from_millis(rate.per_ms) / rate.sustained.get();
    let period = per_request.max(Duration::from_nanos(1));
    Quota::with_period(period).expect("a period of at least a nanosecond is not zero").allow_burst(rate.burst)
}

/// Ids and plan names are ASCII words; anything else would have been refused when it was stored.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
