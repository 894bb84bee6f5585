//! The rate budget shared by everything that talks to Stripe with one key.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::attempt::Head;

/// Requests a second that Stripe allows. Live: 1 000 meter events, 100 others; test mode: 25 and 25.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// `POST /v1/billing/meter_events`.
    pub meter_events: NonZeroU32,
    /// Everything else.
    pub other: NonZeroU32,
}

impl Rates {
    /// Stripe's live mode, and our sandbox.
    pub const LIVE: Self = Self { meter_events: per_second(1000), other: per_second(100) };
    /// Stripe's test mode.
    pub const TEST: Self = Self { meter_events: per_second(25), other: per_second(25) };
}

const fn per_second(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("written as a constant above zero")
}

/// Which limit a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// Meter events.
    MeterEvents,
    /// Everything else.
    Other,
}

impl Bucket {
    /// The bucket of a path below `/v1`.
    pub fn of(path: &str) -> Self {
        if path == "/billing/meter_events" { Self::MeterEvents } else { Self::Other }
    }
}

/// Longest pause for everybody on one 429's word.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Token buckets, and a pause for all when Stripe says that the whole account is too fast.
#[derive(Debug)]
pub struct Budget {
    meter_events: DefaultDirectRateLimiter,
    other: DefaultDirectRateLimiter,
    clock: governor::clock::DefaultClock,
    paused: Mutex<Option<Instant>>,
}

impl Budget {
    /// Full buckets.
    pub fn new(rates: Rates) -> Self {
        Self {
            meter_events: RateLimiter::direct(Quota::per_second(rates.meter_events)),
            other: RateLimiter::direct(Quota::per_second(rates.other)),
            clock: governor::clock::DefaultClock::default(),
            paused: Mutex::new(None),
        }
    }

    /// Takes a token, or says how long until there is one.
    ///
    /// # Errors
    /// The wait.
    pub fn take(&self, bucket: Bucket, now: Instant) -> Result<(), Duration> {
        if let Some(until) = *self.paused.lock().unwrap_or_else(PoisonError::into_inner)
            && now < until
        {
            return Err(until - now);
        }
        let limiter = match bucket {
            Bucket::MeterEvents => &self.meter_events,
            Bucket::Other => &self.other,
        };
        limiter.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    /// Stripe answered 429: if that was about the whole account, everybody waits, else only whoever asked.
    pub fn limited(&self, head: &Head, now: Instant) {
        let reason = head.limited.as_deref().unwrap_or_default();
        if reason.starts_with("global") || reason.starts_with("endpoint") {
            let wait = head.retry_after.unwrap_or(Duration::from_secs(1)).min(LONGEST_PAUSE);
            *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(meter_events: u32, other: u32) -> Rates {
        Rates { meter_events: per_second(meter_events), other: per_second(other) }
    }

    #[test]
    fn meter_events_and_the_rest_do_not_share_tokens() {
        let (budget, now) = (Budget::new(rates(2, 1)), Instant::now());
        assert!(budget.take(Bucket::MeterEvents, now).is_ok());
        assert!(budget.take(Bucket::MeterEvents, now).is_ok());
        let wait = budget.take(Bucket::MeterEvents, now).unwrap_err();
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        assert!(budget.take(Bucket::Other, now).is_ok());
    }

    #[test]
    fn a_429_about_the_account_pauses_all_and_one_about_a_customer_nobody() {
        let (budget, now) = (Budget::new(rates(100, 100)), Instant::now());
        let mut head = Head { limited: Some("resource-specific".into()), ..Head::default() };
        budget.limited(&head, now);
        assert!(budget.take(Bucket::MeterEvents, now).is_ok());
        head.limited = None;
        budget.limited(&head, now);
        assert!(budget.take(Bucket::MeterEvents, now).is_ok(), "without a reason it is a lock_timeout");
        head = Head { limited: Some("global-rate".into()), retry_after: Some(Duration::from_secs(3)), ..head };
        budget.limited(&head, now);
        assert_eq!(budget.take(Bucket::MeterEvents, now), Err(Duration::from_secs(3)));
        assert_eq!(budget.take(Bucket::Other, now), Err(Duration::from_secs(3)));
        assert!(budget.take(Bucket::Other, now + Duration::from_secs(3)).is_ok());
    }

    #[test]
    fn buckets_by_path() {
        assert_eq!(Bucket::of("/billing/meter_events"), Bucket::MeterEvents);
        assert_eq!(Bucket::of("/billing/meters/mtr_1/event_summaries"), Bucket::Other);
    }
}
