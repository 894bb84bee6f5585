//! The reporter: seals what is due and sends it to Stripe until there is a definite answer (`LEDGER.md`, "Seal, send,
//! acknowledge").
//!
//! It decides nothing about units: the records seal each into exactly one report, and Stripe takes each identifier
//! once. So reporters may run side by side, die anywhere and begin again. The steps are `seal`, `send` and `lookup`;
//! what they go by is pure: [`stamp`] (the timestamp), [`verdict`] (what an attempt means), [`late`] (when the identifier
//! may have been forgotten), [`desk`] (who is being sent and who waits).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Client;
use super::retry;
use crate::clock::Clock;
use crate::pricing::{MeterKind, Pricing};
use crate::records::{Records, RecordsError, Report};

pub mod desk;
pub mod late;
mod lookup;
mod seal;
mod send;
pub mod stamp;
pub mod verdict;

use desk::{Desk, Lane, Pace};
use late::Plan;

/// Reports asked of the records in one go, besides those known to wait.
const REPORTS: usize = 256;

/// How soon to look again at what only a change of configuration or a person can move.
const HELD: Duration = Duration::from_secs(60);

/// How the reporter works.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Least time between two reports of one tenant and meter.
    pub flush: Duration,
    /// How often it looks for work.
    pub beat: Duration,
    /// Customers served at the same time.
    pub concurrency: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { flush: Duration::from_secs(60), beat: Duration::from_millis(500), concurrency: 32 }
    }
}

/// Which Stripe meter each of our meters feeds, by our name.
pub type Meters = HashMap<Arc<str>, Target>;

/// A meter at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its `event_name`. Two of our meters must not share one: their summaries could not be told apart.
    pub event: Arc<str>,
    /// How values combine.
    pub kind: MeterKind,
}

/// The meters of a price list.
pub fn meters(pricing: &Pricing) -> Meters {
    let target = |m: &crate::pricing::Meter| Target { event: Arc::clone(&m.stripe_event), kind: m.kind };
    pricing.meters.iter().map(|m| (Arc::clone(&m.name), target(m))).collect()
}

/// What [`Reporter::flush_now`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Reports sealed.
    pub sealed: u64,
    /// Reports that Stripe confirmed.
    pub delivered: u64,
    /// Units in them.
    pub delivered_units: u64,
    /// Reports that Stripe refused for good.
    pub rejected: u64,
    /// Customers and meters whose report is still unanswered.
    pub left: u64,
}

/// The reporter. Cheap to clone; all clones share one desk.
#[derive(Clone, Debug)]
pub struct Reporter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    records: Records,
    client: Client,
    clock: Clock,
    config: Config,
    meters: ArcSwap<Meters>,
    desk: Mutex<Desk>,
    slots: Arc<Semaphore>,
}

/// A lane taken and a slot of the concurrency; given back on drop.
struct Seat {
    inner: Arc<Inner>,
    lane: Lane,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.inner.desk().free(&self.lane);
    }
}

/// What came of one look at one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered(u64),
    Rejected,
    /// Still open; the desk knows until when.
    Open,
    /// Somebody else has dealt with it.
    Moot,
}

impl Reporter {
    /// A reporter; does nothing until told to.
    pub fn new(records: Records, client: Client, clock: Clock, config: Config, meters: Meters) -> Self {
        let slots = Arc::new(Semaphore::new(config.concurrency.max(1)));
        let (meters, desk) = (ArcSwap::from_pointee(meters), Mutex::default());
        Self { inner: Arc::new(Inner { records, client, clock, config, meters, desk, slots }) }
    }

    /// From now on these are the meters, after a reload of the price list.
    pub fn set_meters(&self, meters: Meters) {
        self.inner.meters.store(Arc::new(meters));
        tracing::debug!("the reporter knows the new meters");
    }

    /// Works until cancelled, then lets the attempts under way end (at most a minute).
    pub async fn run(&self, cancel: CancellationToken) {
        let sends = TaskTracker::new();
        let mut failures = 0_u32;
        let mut beat = interval(self.inner.config.beat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                _ = beat.tick() => {}
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                done = self.start_due(&sends) => match done {
                    Ok(()) => failures = 0,
                    Err(error) => {
                        tracing::warn!(%error, "the reporter cannot use the records; it will try again");
                        failures = failures.saturating_add(1);
                        let pause = retry::full_jitter(failures, Duration::from_secs(30), retry::random());
                        beat.reset_after(pause.max(self.inner.config.beat));
                    }
                },
            }
        }
        sends.close();
        sends.wait().await;
    }

    /// One beat with its sends, all awaited: seals what is due by the window, sends what may be sent.
    ///
    /// # Errors
    /// The records failed; what was sealed or sent before stands.
    pub async fn pass(&self) -> Result<Flushed, RecordsError> {
        self.inner.round(self.inner.config.flush, Pace::Usual, None).await
    }

    /// Seals everything unreported, whatever the window, and sends until all is answered, nothing can move without
    /// time or a person, or `patience` is over (at most a day; attempts under way are let end, see
    /// [`super::transport::Config::attempt_timeout`]).
    ///
    /// # Errors
    /// The records failed; what was sealed or sent before stands.
    pub async fn flush_now(&self, patience: Duration) -> Result<Flushed, RecordsError> {
        let deadline = Instant::now() + patience.min(Duration::from_secs(24 * 3600));
        let mut sum = Flushed::default();
        for tries in 0.. {
            let round = self.inner.round(Duration::ZERO, Pace::Hurry, Some(deadline)).await?;
            sum = sum.with(round);
            let step = retry::full_jitter(tries, Duration::from_secs(2), retry::random());
            let idle = round.sealed + round.delivered + round.rejected == 0;
            if (idle && round.left == 0) || Instant::now() + step >= deadline {
                break;
            }
            if idle && !self.inner.may_move(deadline - Instant::now()).await? {
                break;
            }
            if idle {
                sleep(step).await;
            }
        }
        Ok(sum)
    }

    async fn start_due(&self, sends: &TaskTracker) -> Result<(), RecordsError> {
        let inner = &self.inner;
        let sealed = inner.seal_due(inner.config.flush).await?;
        let open = inner.open().await?;
        tell_lag(sealed.oldest, &open, inner.clock.now());
        for report in open {
            let slot = Arc::clone(&inner.slots).acquire_owned().await.expect("the semaphore is never closed");
            if let Some(seat) = inner.sit(&report, Pace::Usual, slot) {
                let inner = Arc::clone(inner);
                sends.spawn(async move { inner.attend_and_tell(seat, report).await });
            }
        }
        Ok(())
    }
}

impl Flushed {
    fn with(self, next: Self) -> Self {
        Self {
            sealed: self.sealed + next.sealed,
            delivered: self.delivered + next.delivered,
            delivered_units: self.delivered_units + next.delivered_units,
            rejected: self.rejected + next.rejected,
            left: next.left,
        }
    }

    fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Delivered(units) => {
                self.delivered += 1;
                self.delivered_units += units;
            }
            Fate::Rejected => self.rejected += 1,
            Fate::Open | Fate::Moot => {}
        }
    }
}

impl Inner {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals, then looks at each open report once, if that begins before `deadline`.
    async fn round(
        self: &Arc<Self>,
        window: Duration,
        pace: Pace,
        deadline: Option<Instant>,
    ) -> Result<Flushed, RecordsError> {
        let mut sum = Flushed { sealed: self.seal_due(window).await?.reports, ..Flushed::default() };
        let looks = stream::iter(self.open().await?).map(|report| self.look(report, pace, deadline));
        let fates: Vec<_> = looks.buffer_unordered(self.config.concurrency.max(1)).collect().await;
        for fate in fates {
            sum.count(fate?);
        }
        sum.left = u64::try_from(self.open().await?.len()).unwrap_or(u64::MAX);
        Ok(sum)
    }

    async fn look(
        self: &Arc<Self>,
        report: Report,
        pace: Pace,
        deadline: Option<Instant>,
    ) -> Result<Fate, RecordsError> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed");
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(Fate::Open);
        }
        match self.sit(&report, pace, slot) {
            Some(_seat) => self.attend(report).await,
            None => Ok(Fate::Open),
        }
    }

    fn sit(self: &Arc<Self>, report: &Report, pace: Pace, slot: OwnedSemaphorePermit) -> Option<Seat> {
        let lane = self.desk().take(report, pace, self.clock.now())?;
        Some(Seat { inner: Arc::clone(self), lane, _slot: slot })
    }

    /// Open reports, at least [`REPORTS`] of them that may be startable.
    async fn open(&self) -> Result<Vec<Report>, RecordsError> {
        let limit = REPORTS.saturating_add(self.desk().waiting());
        self.records.open_reports(self.clock.now(), u32::try_from(limit).unwrap_or(u32::MAX)).await
    }

    /// Is there an open report that can be looked at within `patience`?
    async fn may_move(&self, patience: Duration) -> Result<bool, RecordsError> {
        let horizon = desk::after(self.clock.now(), patience);
        let open = self.open().await?;
        let desk = self.desk();
        Ok(open.iter().any(|report| desk.ready_by(report, horizon)))
    }

    async fn attend_and_tell(self: Arc<Self>, _seat: Seat, report: Report) {
        let identifier = report.identifier.clone();
        if let Err(error) = self.attend(report).await {
            tracing::warn!(identifier, %error, "the records failed while a report was sent; it stays open");
        }
    }

    /// Does for a report what can be done now.
    async fn attend(&self, report: Report) -> Result<Fate, RecordsError> {
        let now = self.clock.now();
        let Some(target) = self.meters.load().get(&report.account.meter).cloned() else {
            return Ok(self.hold(&report, "its meter is not in the price list"));
        };
        let reading = self.desk().reading(&report);
        match late::plan(&report, reading, now) {
            Plan::Send => self.send(report, &target).await,
            Plan::Wait(until) => {
                self.desk().rest(&report, until);
                Ok(Fate::Open)
            }
            Plan::Read => self.look_it_up(report, &target, reading).await,
        }
    }

    /// Something in our own configuration keeps it back.
    fn hold(&self, report: &Report, why: &str) -> Fate {
        tracing::warn!(tenant = report.tenant, meter = &*report.account.meter, why, "a report is held back");
        count("held");
        self.desk().rest(report, desk::after(self.clock.now(), HELD));
        Fate::Open
    }
}

fn count(result: &'static str) {
    metrics::counter!("tollgate_stripe_reports_total", "result" => result).increment(1);
}

/// How long the oldest usage that should be at Stripe by now has been waiting, in seconds; 0 with none.
fn tell_lag(unsealed: Option<Timestamp>, open: &[Report], now: Timestamp) {
    let oldest = open.iter().map(|report| report.at).chain(unsealed).min();
    let lag = oldest.map_or(SignedDuration::ZERO, |since| now.duration_since(since));
    let seconds = u32::try_from(lag.as_secs().max(0)).unwrap_or(u32::MAX);
    metrics::gauge!("tollgate_stripe_flush_lag_seconds").set(f64::from(seconds));
}
