//! A circuit breaker: while Stripe is down, one probe now and then instead of everybody's retries. Pure; time is an
//! argument.
//!
//! It opens when several *different* callers failed in a row with nobody succeeding in between, so that one customer
//! whose requests always fail cannot close the door for the others. Half open, one probe is let through; its outcome
//! decides. It only saves work: what must be sent stays in the records.

use std::time::{Duration, Instant};

/// When it opens and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// So many different callers in a row have to fail.
    pub callers: usize,
    /// Nothing is let through for so long.
    pub cool_off: Duration,
    /// A probe that has not come back by then counts as lost, and another may go.
    pub probe: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { callers: 5, cool_off: Duration::from_secs(10), probe: Duration::from_secs(60) }
    }
}

/// The breaker.
#[derive(Debug)]
pub struct Breaker {
    config: Config,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Letting everything through; callers that failed since the last success.
    Closed { failed: Vec<String> },
    /// Letting nothing through.
    Open { until: Instant },
    /// Letting one probe through; nobody else until it is back or lost.
    HalfOpen { until: Instant },
}

/// How a request was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Like all others.
    Normal,
    /// As the probe: nobody else goes until it is back.
    Probe,
}

/// What the outcome of an attempt says about Stripe's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answered sensibly, be it with a refusal.
    Up,
    /// It could not be reached, did not answer, or answered with 5xx.
    Down,
}

impl Breaker {
    /// A closed one.
    pub fn new(config: Config) -> Self {
        Self { config, state: State::Closed { failed: Vec::new() } }
    }

    /// May a request go now? `Err` says how long to wait before asking again.
    ///
    /// # Errors
    /// The breaker is open, or a probe is under way.
    pub fn admit(&mut self, now: Instant) -> Result<Pass, Duration> {
        match self.state {
            State::Closed { .. } => Ok(Pass::Normal),
            State::Open { until } | State::HalfOpen { until } if now < until => Err(until - now),
            State::Open { .. } | State::HalfOpen { .. } => {
                self.state = State::HalfOpen { until: now + self.config.probe };
                Ok(Pass::Probe)
            }
        }
    }

    /// An admitted request was not sent after all; if it was the probe, the next one is.
    pub fn give_back(&mut self, pass: Pass, now: Instant) {
        if pass == Pass::Probe && matches!(self.state, State::HalfOpen { .. }) {
            self.state = State::Open { until: now };
        }
    }

    /// An admitted request of `caller` came back.
    pub fn record(&mut self, caller: &str, health: Health, now: Instant) {
        match (&mut self.state, health) {
            (State::Closed { failed }, Health::Up) => failed.clear(),
            (State::Closed { failed }, Health::Down) => {
                if !failed.iter().any(|known| known == caller) {
                    failed.push(caller.to_owned());
                }
                if failed.len() >= self.config.callers {
                    self.open(now);
                }
            }
            // Also an answer to a request from before it opened: whoever brings it, Stripe is up.
            (State::HalfOpen { .. } | State::Open { .. }, Health::Up) => self.close(),
            (State::HalfOpen { .. }, Health::Down) => self.open(now),
            (State::Open { .. }, Health::Down) => {}
        }
    }

    fn open(&mut self, now: Instant) {
        tracing::warn!(for_s = self.config.cool_off.as_secs(), "Stripe looks down: holding requests back");
        self.state = State::Open { until: now + self.config.cool_off };
    }

    fn close(&mut self) {
        tracing::info!("Stripe answers again");
        self.state = State::Closed { failed: Vec::new() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config { callers: 3, cool_off: Duration::from_secs(10), probe: Duration::from_secs(60) };

    fn open_at(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(CONFIG);
        for caller in ["a", "b", "c"] {
            assert_eq!(breaker.admit(now), Ok(Pass::Normal));
            breaker.record(caller, Health::Down, now);
        }
        breaker
    }

    #[test]
    fn different_failing_callers_open_it() {
        let now = Instant::now();
        assert_eq!(open_at(now).admit(now), Err(Duration::from_secs(10)));
    }

    #[test]
    fn one_failing_caller_never_opens_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(CONFIG);
        for _ in 0..100 {
            breaker.record("broken", Health::Down, now);
        }
        assert_eq!(breaker.admit(now), Ok(Pass::Normal));
    }

    #[test]
    fn a_success_between_starts_the_count_again() {
        let now = Instant::now();
        let mut breaker = Breaker::new(CONFIG);
        for caller in ["a", "b"] {
            breaker.record(caller, Health::Down, now);
        }
        breaker.record("d", Health::Up, now);
        breaker.record("c", Health::Down, now);
        assert_eq!(breaker.admit(now), Ok(Pass::Normal));
    }

    #[test]
    fn half_open_lets_one_probe_through_and_its_outcome_decides() {
        let start = Instant::now();
        let later = start + CONFIG.cool_off;
        let mut breaker = open_at(start);
        assert_eq!(breaker.admit(later), Ok(Pass::Probe));
        assert_eq!(breaker.admit(later), Err(CONFIG.probe), "nobody beside it");
        breaker.record("a", Health::Down, later);
        assert_eq!(breaker.admit(later), Err(CONFIG.cool_off), "open again");
        let much_later = later + CONFIG.cool_off;
        assert_eq!(breaker.admit(much_later), Ok(Pass::Probe));
        breaker.record("a", Health::Up, much_later);
        assert_eq!(breaker.admit(much_later), Ok(Pass::Normal), "closed");
    }

    #[test]
    fn a_lost_probe_does_not_block_for_ever() {
        let start = Instant::now();
        let mut breaker = open_at(start);
        let later = start + CONFIG.cool_off;
        assert_eq!(breaker.admit(later), Ok(Pass::Probe));
        assert_eq!(breaker.admit(later + CONFIG.probe), Ok(Pass::Probe));
    }

    #[test]
    fn an_unused_probe_makes_room_for_another_at_once() {
        let start = Instant::now();
        let mut breaker = open_at(start);
        let later = start + CONFIG.cool_off;
        let pass = breaker.admit(later).unwrap();
        breaker.give_back(pass, later);
        assert_eq!(breaker.admit(later), Ok(Pass::Probe));
    }
}
