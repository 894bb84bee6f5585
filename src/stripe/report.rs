//! The reporter: seals what is due and sends it to Stripe until there is a definite answer (`LEDGER.md`, "Seal, send,
//! acknowledge").
//!
//! It decides nothing about units: the records seal each into exactly one report, and Stripe takes each identifier
//! once. So reporters may run side by side, die anywhere and begin again. Their pure parts: [`stamp`] (the timestamp),
//! [`verdict`] (what an attempt means), [`late`] (when the identifier may have been forgotten), [`desk`] (who is being
//! sent and who waits).

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

use super::client::{Client, Event};
use super::rate::Bucket;
use super::retry::{self, IdempotencyKey};
use super::transport::CallError;
use crate::clock::Clock;
use crate::pricing::{MeterKind, Pricing};
use crate::records::{Due, Records, RecordsError, Report};
use crate::testing::crash_point;

pub mod desk;
pub mod late;
pub mod stamp;
pub mod verdict;

use desk::{Desk, Lane, Pace};
use late::{Finding, Plan, Reading};
use stamp::Stamp;
use verdict::Verdict;

/// Accounts sealed in one go; the rest follow at the next beat.
const SEALS: u32 = 500;

/// Reports asked of the records in one go, besides those known to wait.
const REPORTS: usize = 256;

/// How long a report waits for the shared rate budget before it makes room for another.
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon to look again at what only a change of configuration or a person can move.
const HELD: Duration = Duration::from_secs(60);

/// How soon to try the summaries again when they could not be read.
const READ_AGAIN: Duration = Duration::from_secs(10 * 60);

/// An attempt that has not begun so long after it was noted is not begun: its note says when it was.
const STALE: Duration = Duration::from_secs(30);

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

/// What a round of seals found.
struct Sealed {
    reports: u64,
    /// Since when the oldest of it had been waiting.
    oldest: Option<Timestamp>,
}

/// What became of reading the summaries.
enum Look {
    Read(Reading),
    NotNow(String),
    /// For a person.
    Never(String),
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

    /// Seals accounts whose oldest unreported usage is older than `window`.
    async fn seal_due(&self, window: Duration) -> Result<Sealed, RecordsError> {
        let now = self.clock.now();
        let ripe = now.checked_sub(window).unwrap_or(Timestamp::MIN);
        let due = self.records.due_accounts(ripe, SEALS).await?;
        let mut sealed = Sealed { reports: 0, oldest: due.first().map(|due| due.since) };
        for due in &due {
            sealed.reports += u64::from(self.seal(due, now).await?);
        }
        Ok(sealed)
    }

    async fn seal(&self, due: &Due, now: Timestamp) -> Result<bool, RecordsError> {
        let Some(tenant) = self.records.tenant_by_num(due.account.tenant).await? else {
            return Err(RecordsError::Corrupt(format!("account {:?} has no tenant", due.account)));
        };
        let at = match stamp::stamp(&tenant, due.account.period, now) {
            Stamp::Within(at) => at,
            Stamp::Late(at) => {
                tracing::warn!(tenant = due.tenant, meter = &*due.account.meter, "usage too old for its period");
                at
            }
            Stamp::Early => return Ok(false),
        };
        Ok(self.records.seal(&due.account, at, now).await?.is_some())
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

    /// One attempt. The note of it is in the records before its first byte is on the wire.
    async fn send(&self, report: Report, target: &Target) -> Result<Fate, RecordsError> {
        let event = event(&report, target);
        let transport = self.client.transport();
        let request = match transport.prepare(&event.request()) {
            Ok(request) => request,
            Err(error) => return Ok(self.hold(&report, &error.to_string())),
        };
        let permit = match transport.permit(Bucket::MeterEvents, &event.customer, PATIENCE).await {
            Ok(permit) => permit,
            Err(busy) => {
                self.desk().rest(&report, desk::after(self.clock.now(), busy.wait));
                return Ok(Fate::Open);
            }
        };
        let asked = Instant::now();
        let Some(report) = self.records.first_try(&report, self.clock.now()).await? else { return Ok(Fate::Moot) };
        crash_point("report.after_first_try");
        // This process may have been stopped for hours anywhere above.
        if asked.elapsed() > STALE || !late::may_send(&report, self.clock.now()) {
            return Ok(Fate::Open);
        }
        let key = IdempotencyKey::named(&report.identifier, report.suffix);
        let attempt = transport.attempt(permit, &request, &key).await;
        crash_point("report.after_answer");
        self.conclude(&report, verdict::judge(&attempt, &report.identifier)).await
    }

    async fn conclude(&self, report: &Report, verdict: Verdict) -> Result<Fate, RecordsError> {
        let now = self.clock.now();
        match &verdict {
            Verdict::Delivered | Verdict::Rejected(_) => self.desk().forget(report),
            Verdict::Again(_, wait) | Verdict::AgainFresh(_, wait) => {
                self.desk().again(report, *wait, now, retry::random());
            }
            Verdict::NoAccess(_) => self.desk().shut(desk::after(now, HELD)),
        }
        if self.records.answered(report, verdict.answer(), now).await?.is_none() {
            return Ok(Fate::Moot);
        }
        tell(report, &verdict);
        Ok(match verdict {
            Verdict::Delivered => {
                crash_point("report.after_delivered");
                Fate::Delivered(report.value)
            }
            Verdict::Rejected(_) => Fate::Rejected,
            Verdict::Again(..) | Verdict::AgainFresh(..) | Verdict::NoAccess(_) => Fate::Open,
        })
    }

    /// Its identifier may have been forgotten: compares Stripe's summaries with what was confirmed.
    async fn look_it_up(&self, report: Report, target: &Target, last: Option<Reading>) -> Result<Fate, RecordsError> {
        let reading = match self.read(&report, target).await? {
            Look::Read(reading) => reading,
            Look::NotNow(why) => return Ok(self.read_later(&report, &why)),
            Look::Never(why) => return Ok(self.alarm(&report, &why)),
        };
        let finding = last.map_or(Finding::Unsettled, |last| late::find(report.value, last, reading));
        match finding {
            Finding::Unsettled => {
                self.desk().read(&report, Some(reading));
                Ok(Fate::Open)
            }
            Finding::Arrived => self.conclude(&report, Verdict::Delivered).await,
            Finding::Absent => self.renew(&report).await,
            Finding::Unclear(why) => Ok(self.alarm(&report, &why)),
        }
    }

    /// Reads both sides.
    async fn read(&self, report: &Report, target: &Target) -> Result<Look, RecordsError> {
        if target.kind != MeterKind::Counter {
            return Ok(Look::Never("summaries of a gauge do not tell which values arrived".to_owned()));
        }
        let customer = report.stripe_customer_id.as_deref().unwrap_or_default();
        if self.meters.load().values().filter(|other| other.event == target.event).count() > 1 {
            return Ok(Look::Never(format!("two of our meters feed {:?}", target.event)));
        }
        let metered = match self.metered(report, customer, target).await {
            Ok(metered) => metered,
            Err(error @ (CallError::Unavailable(_) | CallError::Unknown(_))) => {
                return Ok(Look::NotNow(error.to_string()));
            }
            Err(error) => return Ok(Look::Never(error.to_string())),
        };
        let span = stamp::minute_of(report.at);
        let bound = |s| Timestamp::from_second(s).map_err(|e| RecordsError::Corrupt(format!("report's time: {e}")));
        let (from, to) = (bound(span.start_s)?, bound(span.end_s)?);
        let delivered = self.records.delivered_between(customer, &report.account.meter, from, to).await?;
        Ok(Look::Read(Reading { metered, delivered, at: self.clock.now() }))
    }

    async fn metered(&self, report: &Report, customer: &str, target: &Target) -> Result<u64, CallError> {
        let meter = self.client.meter_by_event(&target.event).await?;
        let meter = meter.ok_or_else(|| CallError::Invalid(format!("no active meter for {:?}", target.event)))?;
        self.client.metered(&meter.id, customer, stamp::minute_of(report.at)).await
    }

    /// Stripe provably does not have it: it goes out again at the next look, under a new identifier.
    async fn renew(&self, report: &Report) -> Result<Fate, RecordsError> {
        self.desk().forget(report);
        match self.records.reidentify(report, self.clock.now()).await {
            Ok(renewed) => {
                let (old, new) = (&report.identifier, renewed.identifier);
                tracing::warn!(tenant = report.tenant, old, new, "a report never arrived; sending it anew");
                count("renewed");
                Ok(Fate::Open)
            }
            Err(RecordsError::Invalid(why)) => {
                tracing::debug!(why, "another reporter was quicker");
                Ok(Fate::Moot)
            }
            Err(error) => Err(error),
        }
    }

    fn read_later(&self, report: &Report, why: &str) -> Fate {
        tracing::warn!(
            identifier = report.identifier,
            why,
            "Stripe's summaries cannot be read; they will be tried again"
        );
        self.desk().rest(report, desk::after(self.clock.now(), READ_AGAIN));
        Fate::Open
    }

    /// Wants a person; nothing is sent, nothing is changed, and it is looked at again tomorrow.
    fn alarm(&self, report: &Report, why: &str) -> Fate {
        tracing::error!(
            tenant = report.tenant,
            identifier = report.identifier,
            value = report.value,
            why,
            "it cannot be told whether Stripe has this report; it is left for a person"
        );
        count("unclear");
        let mut desk = self.desk();
        desk.read(report, None);
        let tomorrow = self.clock.now().checked_add(late::AFTER_ALARM).unwrap_or(Timestamp::MAX);
        desk.rest(report, tomorrow);
        Fate::Open
    }

    /// Something in our own configuration keeps it back.
    fn hold(&self, report: &Report, why: &str) -> Fate {
        tracing::warn!(tenant = report.tenant, meter = &*report.account.meter, why, "a report is held back");
        count("held");
        self.desk().rest(report, desk::after(self.clock.now(), HELD));
        Fate::Open
    }
}

fn event(report: &Report, target: &Target) -> Event {
    Event {
        event_name: Arc::clone(&target.event),
        customer: report.stripe_customer_id.clone().unwrap_or_default(),
        value: report.value,
        identifier: report.identifier.clone(),
        timestamp: report.at.as_second(),
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

/// Says what came of an attempt, once, where it is handled.
fn tell(report: &Report, verdict: &Verdict) {
    count(verdict.label());
    let (tenant, identifier, value) = (&report.tenant, &report.identifier, report.value);
    match verdict {
        Verdict::Delivered => tracing::debug!(tenant, identifier, value, "report delivered"),
        Verdict::Rejected(why) => tracing::error!(tenant, identifier, value, why, "Stripe refused a report for good"),
        Verdict::NoAccess(why) => tracing::error!(why, "Stripe does not accept our key; reports are waiting"),
        Verdict::Again(why, _) | Verdict::AgainFresh(why, _) => {
            tracing::info!(tenant, identifier, why, "report not confirmed yet; it will be sent again");
        }
    }
}
