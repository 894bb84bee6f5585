//! What goes wrong on demand.

use std::time::Duration;

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::errors::{ApiError, Kind};

const MAX_FAULTS: usize = 256;
/// Longest delay and lag.
const MAX_DELAY_MS: u32 = 600_000;
const MAX_LAG_S: u32 = 7 * 86_400;

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// The call takes effect, then the connection is closed without an answer.
    LostAnswer,
    /// The connection is closed without an answer, and nothing happened.
    Hangup,
    /// 503 before anything happened; no idempotency key remembers it.
    Outage,
    /// This 5xx instead of the effect. Execution had begun: the idempotency key remembers it.
    ErrorBefore {
        /// 500 to 599.
        status: u16,
        /// `Stripe-Should-Retry`, if it is to be sent.
        #[serde(default)]
        should_retry: Option<bool>,
    },
    /// The effect, and then this 5xx; the idempotency key remembers it.
    ErrorAfter {
        /// 500 to 599.
        status: u16,
        /// `Stripe-Should-Retry`, if it is to be sent.
        #[serde(default)]
        should_retry: Option<bool>,
    },
    /// 429 with `Stripe-Rate-Limited-Reason`.
    RateLimited {
        /// `global-rate`, `endpoint-rate`, `global-concurrency`, `endpoint-concurrency`, `resource-specific`.
        reason: String,
    },
    /// 429 `lock_timeout`, without a reason header.
    LockTimeout,
    /// The 429 for a second call at a time for one customer and meter.
    Concurrency,
    /// The call waits before it takes effect; meanwhile its idempotency key, and its customer and meter, are busy.
    Delay {
        /// Milliseconds, 10 minutes at most.
        ms: u32,
    },
    /// The answer waits after the effect.
    SlowAnswer {
        /// Milliseconds, 10 minutes at most.
        ms: u32,
    },
    /// Event summaries do not yet show the newest events.
    Lag {
        /// How far they are behind, 7 days at most.
        seconds: u32,
    },
}

/// Which calls are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// `GET`, `POST`, `DELETE`; `None` = all.
    pub method: Option<String>,
    /// The path, or its beginning and `*`; `None` = all.
    pub path: Option<String>,
}

impl Filter {
    fn holds(&self, method: &Method, path: &str) -> bool {
        let same_path = |wanted: &String| match wanted.strip_suffix('*') {
            Some(beginning) => path.starts_with(beginning),
            None => path == wanted,
        };
        self.method.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method.as_str()))
            && self.path.as_ref().is_none_or(same_path)
    }
}

/// A fault: what, to whom, how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub effect: Effect,
    /// To which calls.
    #[serde(default)]
    pub filter: Filter,
    /// How many matching calls pass first.
    #[serde(default)]
    pub skip: u32,
    /// How many times it happens; `None` = until it is cleared.
    #[serde(default)]
    pub times: Option<u32>,
    /// How likely it is for each call, 1 to 100.
    #[serde(default = "always")]
    pub percent: u8,
    /// The beginning of its chances: the same seed, the same calls.
    #[serde(default)]
    pub seed: u64,
}

fn always() -> u8 {
    100
}

impl Fault {
    /// Happens to every call until it is cleared.
    #[must_use]
    pub fn new(effect: Effect) -> Self {
        Self { effect, filter: Filter::default(), skip: 0, times: None, percent: always(), seed: 0 }
    }

    /// Only to calls of this method and path (see [`Filter::path`]).
    #[must_use]
    pub fn on(mut self, method: &str, path: &str) -> Self {
        self.filter = Filter { method: Some(method.to_owned()), path: Some(path.to_owned()) };
        self
    }

    /// Only so many times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Only after so many matching calls.
    #[must_use]
    pub fn after(mut self, calls: u32) -> Self {
        self.skip = calls;
        self
    }

    /// Only by chance: `percent` of the calls, drawn from `seed`.
    #[must_use]
    pub fn by_chance(mut self, percent: u8, seed: u64) -> Self {
        (self.percent, self.seed) = (percent, seed);
        self
    }

    fn check(&self) -> Result<(), FaultRefused> {
        if !(1..=100).contains(&self.percent) {
            return Err(FaultRefused::Percent(self.percent));
        }
        match self.effect {
            Effect::ErrorBefore { status, .. } | Effect::ErrorAfter { status, .. } if !(500..600).contains(&status) => {
                Err(FaultRefused::Status(status))
            }
            Effect::Delay { ms } | Effect::SlowAnswer { ms } if ms > MAX_DELAY_MS => Err(FaultRefused::Delay(ms)),
            Effect::Lag { seconds } if seconds > MAX_LAG_S => Err(FaultRefused::Lag(seconds)),
            Effect::RateLimited { ref reason }
                if reason.is_empty() || !reason.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Err(FaultRefused::Reason)
            }
            Effect::LostAnswer
            | Effect::Hangup
            | Effect::Outage
            | Effect::ErrorBefore { .. }
            | Effect::ErrorAfter { .. }
            | Effect::RateLimited { .. }
            | Effect::LockTimeout
            | Effect::Concurrency
            | Effect::Delay { .. }
            | Effect::SlowAnswer { .. }
            | Effect::Lag { .. } => Ok(()),
        }
    }
}

/// Why a fault cannot be armed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultRefused {
    /// A chance of nothing, or of more than everything.
    #[error("percent must be 1 to 100, not {0}")]
    Percent(u8),
    /// Not a server error.
    #[error("status must be 500 to 599, not {0}")]
    Status(u16),
    /// Longer than anybody waits.
    #[error("a delay is at most {MAX_DELAY_MS} ms, not {0}")]
    Delay(u32),
    /// Longer than anybody waits.
    #[error("a lag is at most {MAX_LAG_S} s, not {0}")]
    Lag(u32),
    /// Not a header's value.
    #[error("the reason must be one word")]
    Reason,
    /// Too many at once.
    #[error("at most {MAX_FAULTS} faults can be armed; clear some first")]
    TooMany,
}

/// All that is armed.
#[derive(Debug, Default)]
pub(super) struct Faults {
    armed: Vec<Armed>,
    next: u64,
}

/// An armed fault, as the control path shows it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Armed {
    id: u64,
    fault: Fault,
    /// Matching calls so far.
    seen: u32,
    /// How many times it happened.
    fired: u32,
    #[serde(skip)]
    chance: Chance,
}

/// What will happen to one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Before the effect.
    pub(super) delay: Duration,
    /// After the effect.
    pub(super) slow: Duration,
    /// Milliseconds by which summaries are behind.
    pub(super) lag_ms: i64,
    /// The one thing that goes wrong.
    pub(super) wrong: Option<Effect>,
}

impl Faults {
    /// Arms a fault behind the others; its number is the answer.
    pub(super) fn arm(&mut self, fault: Fault) -> Result<u64, FaultRefused> {
        fault.check()?;
        self.armed.retain(|armed| !armed.is_spent());
        if self.armed.len() >= MAX_FAULTS {
            return Err(FaultRefused::TooMany);
        }
        self.next += 1;
        let chance = Chance(fault.seed);
        self.armed.push(Armed { id: self.next, fault, seen: 0, fired: 0, chance });
        Ok(self.next)
    }

    pub(super) fn clear(&mut self) {
        self.armed.clear();
    }

    /// What is armed, spent ones included until the next is armed.
    pub(super) fn armed(&self) -> &[Armed] {
        &self.armed
    }

    /// Draws for one call. Delays and lags add up; of what goes wrong, the fault armed first wins and the others wait.
    pub(super) fn plan(&mut self, method: &Method, path: &str) -> Plan {
        let mut plan = Plan::default();
        for armed in self.armed.iter_mut().filter(|armed| armed.fault.filter.holds(method, path)) {
            if (armed.adds() || plan.wrong.is_none()) && armed.fires() {
                plan.add(&armed.fault.effect);
            }
        }
        plan
    }
}

impl Armed {
    fn is_spent(&self) -> bool {
        self.fault.times.is_some_and(|times| self.fired >= times)
    }

    /// Whether it goes together with others.
    fn adds(&self) -> bool {
        matches!(self.fault.effect, Effect::Delay { .. } | Effect::SlowAnswer { .. } | Effect::Lag { .. })
    }

    fn fires(&mut self) -> bool {
        if self.is_spent() {
            return false;
        }
        self.seen = self.seen.saturating_add(1);
        let fires = self.seen > self.fault.skip && self.chance.percent() < self.fault.percent;
        self.fired = self.fired.saturating_add(u32::from(fires));
        fires
    }
}

impl Plan {
    fn add(&mut self, effect: &Effect) {
        match effect {
            Effect::Delay { ms } => self.delay += Duration::from_millis(u64::from(*ms)),
            Effect::SlowAnswer { ms } => self.slow += Duration::from_millis(u64::from(*ms)),
            Effect::Lag { seconds } => self.lag_ms += i64::from(*seconds) * 1_000,
            Effect::LostAnswer
            | Effect::Hangup
            | Effect::Outage
            | Effect::ErrorBefore { .. }
            | Effect::ErrorAfter { .. }
            | Effect::RateLimited { .. }
            | Effect::LockTimeout
            | Effect::Concurrency => self.wrong = Some(effect.clone()),
        }
    }

    /// What refuses the call before it is even looked at.
    pub(super) fn refusal(&self) -> Option<ApiError> {
        match self.wrong.as_ref()? {
            Effect::Outage => Some(unavailable()),
            Effect::RateLimited { reason } => Some(ApiError::rate_limited(reason)),
            Effect::LockTimeout => Some(ApiError::lock_timeout()),
            Effect::Concurrency => Some(one_at_a_time()),
            Effect::LostAnswer
            | Effect::Hangup
            | Effect::ErrorBefore { .. }
            | Effect::ErrorAfter { .. }
            | Effect::Delay { .. }
            | Effect::SlowAnswer { .. }
            | Effect::Lag { .. } => None,
        }
    }
}

/// 429: Stripe takes one meter event at a time for one customer and meter.
pub(super) fn one_at_a_time() -> ApiError {
    ApiError::rate_limited("resource-specific")
}

/// An answer of 5xx, given once execution began.
pub(super) fn failure(status: u16, should_retry: Option<bool>) -> ApiError {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    ApiError::new(status, Kind::Api, "An unknown error occurred.").executed().should_retry(should_retry)
}

fn unavailable() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, Kind::Api, "Stripe is temporarily unavailable.")
}

/// Reproducible chances (`SplitMix64`, Steele, Lea and Flood 2014).
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 0 to 99.
    pub(super) fn percent(&mut self) -> u8 {
        u8::try_from(self.draw() % 100).unwrap_or_default()
    }

    /// 0 to `end`, without it; 0 for an `end` of 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.draw() % end).unwrap_or_default()
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = "/v1/billing/meter_events";

    fn wrongs(faults: &mut Faults, calls: u32) -> Vec<bool> {
        (0..calls).map(|_| faults.plan(&Method::POST, EVENTS).wrong.is_some()).collect()
    }

    #[test]
    fn a_fault_passes_some_calls_happens_some_times_and_is_spent() {
        let mut faults = Faults::default();
        faults.arm(Fault::new(Effect::LostAnswer).after(1).times(2)).unwrap();
        assert_eq!(wrongs(&mut faults, 5), [false, true, true, false, false]);
    }

    #[test]
    fn a_filter_names_method_and_path() {
        let mut faults = Faults::default();
        faults.arm(Fault::new(Effect::Outage).on("POST", "/v1/billing/*")).unwrap();
        assert!(faults.plan(&Method::POST, EVENTS).wrong.is_some());
        assert!(faults.plan(&Method::GET, EVENTS).wrong.is_none());
        assert!(faults.plan(&Method::POST, "/v1/customers").wrong.is_none());
    }

    #[test]
    fn delays_add_up_and_of_two_wrongs_the_second_waits_its_turn() {
        let mut faults = Faults::default();
        for effect in [Effect::Delay { ms: 5 }, Effect::Delay { ms: 7 }, Effect::Outage, Effect::LockTimeout] {
            faults.arm(Fault::new(effect).times(1)).unwrap();
        }
        let first = faults.plan(&Method::POST, EVENTS);
        assert_eq!((first.delay, first.wrong), (Duration::from_millis(12), Some(Effect::Outage)));
        assert_eq!(faults.plan(&Method::POST, EVENTS).wrong, Some(Effect::LockTimeout));
        assert_eq!(faults.plan(&Method::POST, EVENTS), Plan::default());
    }

    #[test]
    fn chances_repeat_with_their_seed() {
        let drawn = |seed| {
            let mut faults = Faults::default();
            faults.arm(Fault::new(Effect::Hangup).by_chance(30, seed)).unwrap();
            wrongs(&mut faults, 1_000)
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let hits = drawn(1).into_iter().filter(|hit| *hit).count();
        assert!((250..350).contains(&hits), "{hits}");
    }

    #[test]
    fn a_fault_is_written_as_json() {
        let text =
            r#"{"effect":{"error_after":{"status":502}},"filter":{"path":"/v1/billing/meter_events"},"times":1}"#;
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(fault.effect, Effect::ErrorAfter { status: 502, should_retry: None });
        assert_eq!((fault.times, fault.percent), (Some(1), 100));
        assert!(serde_json::from_str::<Fault>(r#"{"effect":"outage","colour":"red"}"#).is_err());
        assert_eq!(serde_json::from_str::<Fault>(r#"{"effect":"outage"}"#).unwrap(), Fault::new(Effect::Outage));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut faults = Faults::default();
        let status = Effect::ErrorBefore { status: 404, should_retry: None };
        assert_eq!(faults.arm(Fault::new(status)), Err(FaultRefused::Status(404)));
        assert_eq!(faults.arm(Fault::new(Effect::Outage).by_chance(0, 1)), Err(FaultRefused::Percent(0)));
        assert_eq!(faults.arm(Fault::new(Effect::Delay { ms: 600_001 })), Err(FaultRefused::Delay(600_001)));
        for _ in 0..MAX_FAULTS {
            faults.arm(Fault::new(Effect::Outage)).unwrap();
        }
        assert_eq!(faults.arm(Fault::new(Effect::Outage)), Err(FaultRefused::TooMany));
    }
}
