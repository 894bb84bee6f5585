//! What this node may spend of one account, in memory: one atomic subtraction per request, no store call.
//!
//! Names as in the protocol: `spent` = journaled + in flight, admit only while `spent + cost <= ceiling`;
//! `durable` (`U`) = fdatasynced; `hold` (`H`) is what the next settle says.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Answer, Ask};
use crate::units::Account;

/// Ceiling and cap of an account without a cap.
pub const UNLIMITED: u64 = u64::MAX;

/// After a refusal the account is not settled again for so long …
const REFUSED_PAUSE_MS: i64 = 100;
/// … and for so long when the whole cap is used.
const EXHAUSTED_PAUSE_MS: i64 = 1_000;
/// An unspent ceiling is given back after so long without a request.
const IDLE_MS: u64 = 2_000;
/// Least units asked for at once, so that small plans do not settle for every request.
const WANT_AT_LEAST: u64 = 64;

/// This node's share of one account.
#[derive(Debug)]
pub struct Budget {
    account: Account,
    /// Everything journaled by this node plus what is reserved by exchanges in flight.
    spent: AtomicU64,
    /// Admission stops here.
    ceiling: AtomicU64,
    /// Journaled by this node.
    completed: AtomicU64,
    /// Journaled and fdatasynced by this node: all that a settle may claim.
    durable: AtomicU64,
    /// Used by other nodes, as last heard.
    others: AtomicU64,
    cap: AtomicU64,
    plan_version: AtomicU64,
    /// `boot << 40`, plus the number of settles made.
    ctr: AtomicU64,
    /// A settle is out and its answer not in.
    waiting: AtomicBool,
    /// Base totals are read from the records.
    loaded: AtomicBool,
    /// Held by whoever moves the ceiling, so that an answer, a plan and a give-back never cross: an answer to the old
    /// plan that lands on the new one would raise what was just lowered. Requests that find budget never take it.
    turn: Mutex<Waiting>,
    /// Below so much headroom the next settle is asked for at once.
    low_water: AtomicU64,
    /// It is already in the settler's queue.
    queued: AtomicBool,
    recall: AtomicBool,
    /// No settle before this moment for requests that cost …
    pause_until_ms: AtomicI64,
    /// … so much or more: what is left may still do for a cheaper one.
    pause_from: AtomicU64,
    last_used_ms: AtomicI64,
    /// `completed` at the last settle, for the rate.
    rate_mark: AtomicU64,
    rate_mark_ms: AtomicI64,
    /// Rises with each answer (or failed attempt), for those who wait.
    answers: AtomicU64,
    unanswered: AtomicBool,
    answered: Notify,
}

/// Requests that wait for budget, first come first.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// Units by the order of arrival.
    units: BTreeMap<u64, u64>,
    /// What the first one wanted when the last settle went out.
    asked: u64,
}

impl Waiting {
    fn first(&self) -> u64 {
        self.units.first_key_value().map_or(0, |(_, units)| *units)
    }

    fn all(&self) -> u64 {
        self.units.values().fold(0, |sum, units| sum.saturating_add(*units))
    }
}

/// Why a reservation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// The cap would be passed.
    Spent,
    /// The ledger did not answer in time: the plan's outage rule decides.
    NoAnswer,
}

/// What the tightest limit looks like to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Completed on this node, plus what the ledger knows of others.
    pub used: u64,
    /// Hard cap; `None` = no cap.
    pub cap: Option<u64>,
}

impl Budget {
    /// A budget that holds nothing yet; its first request waits for the first settle. `last_ctr` is not below any that
    /// this node has used for the account.
    #[must_use]
    pub fn new(account: Account, last_ctr: u64, plan_version: u64, cap: Option<u64>) -> Self {
        Self {
            account,
            spent: AtomicU64::new(0),
            ceiling: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            others: AtomicU64::new(0),
            cap: AtomicU64::new(cap.unwrap_or(UNLIMITED)),
            plan_version: AtomicU64::new(plan_version),
            ctr: AtomicU64::new(last_ctr),
            waiting: AtomicBool::new(false),
            loaded: AtomicBool::new(false),
            turn: Mutex::default(),
            low_water: AtomicU64::new(0),
            queued: AtomicBool::new(false),
            recall: AtomicBool::new(false),
            pause_until_ms: AtomicI64::new(i64::MIN),
            pause_from: AtomicU64::new(0),
            last_used_ms: AtomicI64::new(i64::MIN),
            rate_mark: AtomicU64::new(0),
            rate_mark_ms: AtomicI64::new(i64::MIN),
            answers: AtomicU64::new(0),
            unanswered: AtomicBool::new(false),
            answered: Notify::new(),
        }
    }

    /// Which counter.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Used and cap, as a client is told.
    #[must_use]
    pub fn view(&self) -> View {
        let used = self.completed.load(Acquire).saturating_add(self.others.load(Relaxed));
        View { used, cap: some_cap(self.cap.load(Relaxed)) }
    }

    /// Completed and in flight on this node, plus what the ledger knows of others.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.spent.load(Relaxed).saturating_add(self.others.load(Relaxed))
    }

    /// Whether the cap is used up by what is completed: the early 402, before the rate limit.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        let view = self.view();
        self.loaded.load(Acquire) && view.cap.is_some_and(|cap| view.used >= cap)
    }

    /// Reserves `cost` units if they are held here.
    ///
    /// The ceiling is read again after the addition: whoever lowers it stores first and reads `spent` after,
    /// so one of the two always sees the other.
    pub fn try_reserve(&self, cost: u64) -> bool {
        self.try_reserve_above(cost, 0)
    }

    fn try_reserve_above(&self, cost: u64, extra: u64) -> bool {
        let fits = |spent: u64| {
            let next = spent.checked_add(cost)?;
            (next <= self.ceiling.load(SeqCst).saturating_add(extra)).then_some(next)
        };
        let Ok(before) = self.spent.fetch_update(SeqCst, SeqCst, fits) else { return false };
        if before.saturating_add(cost) > self.ceiling.load(SeqCst).saturating_add(extra) {
            self.spent.fetch_sub(cost, SeqCst);
            return false;
        }
        true
    }

    /// Reserves during an outage of the ledger: up to `allowance` units above what is held here.
    pub fn try_reserve_in_outage(&self, cost: u64, allowance: u64) -> bool {
        self.loaded.load(Acquire) && self.try_reserve_above(cost, allowance)
    }

    /// Whether headroom is so small that the next settle should not wait for its beat. True once per settle.
    pub fn wants_settle(&self) -> bool {
        let low_water = self.low_water.load(Relaxed);
        if low_water == 0 {
            return false;
        }
        let headroom = self.ceiling.load(Relaxed).saturating_sub(self.spent.load(Relaxed));
        headroom < low_water && !self.queued.swap(true, AcqRel)
    }

    /// Marks the budget as queued for the settler; false if it already is.
    pub fn enqueue(&self) -> bool {
        !self.queued.swap(true, AcqRel)
    }

    /// Ends a reservation of `reserved` units of which `real` were journaled (`real <= reserved` for known costs), admitted
    /// at `at_ms`.
    pub fn complete(&self, reserved: u64, real: u64, at_ms: i64) {
        self.completed.fetch_add(real, AcqRel);
        if real < reserved {
            self.spent.fetch_sub(reserved - real, SeqCst);
        } else if real > reserved {
            self.spent.fetch_add(real - reserved, SeqCst);
        }
        self.last_used_ms.fetch_max(at_ms, Relaxed);
    }

    /// `units` more of this node's journal are on the disk itself. That is a use too: an exchange may have been admitted
    /// long ago, and until the records have its units (see [`Budget::is_at_rest`]) the budget must not leave memory.
    pub fn note_durable(&self, units: u64, now_ms: i64) {
        self.last_used_ms.fetch_max(now_ms, Relaxed);
        self.durable.fetch_add(units, AcqRel);
    }

    /// Sets the base totals once: what this node and all nodes had completed before this budget was made.
    pub fn load(&self, own: u64, all: u64) {
        let _turn = self.turn.lock();
        if self.loaded.load(Acquire) {
            return;
        }
        self.spent.fetch_add(own, SeqCst);
        self.completed.fetch_add(own, AcqRel);
        self.durable.fetch_add(own, AcqRel);
        self.rate_mark.fetch_add(own, AcqRel);
        self.others.store(all.saturating_sub(own), Relaxed);
        let open = if self.cap.load(Relaxed) == UNLIMITED { UNLIMITED } else { self.spent.load(SeqCst) };
        self.ceiling.store(open, SeqCst);
        self.loaded.store(true, Release);
    }

    /// Whether the base totals are set.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Acquire)
    }

    /// Takes over a plan's cap if `version` is newer. A raised or lifted cap helps at the next settle or at once;
    /// under a lowered one the unspent ceiling is given back.
    pub fn set_plan(&self, version: u64, cap: Option<u64>) {
        if self.plan_version.load(Acquire) >= version {
            return;
        }
        let _turn = self.turn.lock();
        if self.plan_version.fetch_max(version, AcqRel) >= version {
            return;
        }
        let cap = cap.unwrap_or(UNLIMITED);
        self.cap.store(cap, Release);
        self.pause_until_ms.store(i64::MIN, Relaxed);
        if !self.is_loaded() {
            return;
        }
        if cap == UNLIMITED {
            self.ceiling.store(UNLIMITED, SeqCst);
        } else {
            self.lower_to_spent();
        }
    }

    /// Lowers the ceiling to what is spent and returns it: local first, then said. Never above what it was, whatever
    /// `spent` shows: a reservation that read the ceiling before it was lowered the last time may be in it for a
    /// moment, before it sees the new one and undoes itself. In turn only.
    fn lower_to_spent(&self) -> u64 {
        let before = self.ceiling.load(SeqCst);
        let low = self.spent.load(SeqCst).min(before);
        self.ceiling.store(low, SeqCst);
        // A reservation that got in between is in `spent` by now, or sees the lowered ceiling and undoes itself.
        let hold = self.spent.load(SeqCst).clamp(low, before);
        self.ceiling.store(hold, SeqCst);
        hold
    }

    /// Whether a request for `cost` units should be refused like the one before it, without asking.
    #[must_use]
    pub fn is_paused(&self, cost: u64, now_ms: i64) -> bool {
        // Of a clock that was set back meanwhile, a pause would not end for as long as that.
        let left_ms = self.pause_until_ms.load(Relaxed).saturating_sub(now_ms);
        (1..=EXHAUSTED_PAUSE_MS).contains(&left_ms) && cost >= self.pause_from.load(Relaxed)
    }

    /// The next settle gives back what is not spent.
    pub fn recall(&self) {
        self.recall.store(true, Relaxed);
    }

    /// Whether an unspent ceiling lies idle and should go back.
    #[must_use]
    pub fn is_idle(&self, now_ms: i64) -> bool {
        now_ms.abs_diff(self.last_used_ms.load(Relaxed)) > IDLE_MS
    }

    /// Whether there is something to say: unspent ceiling of a capped account, or a recall.
    #[must_use]
    pub fn holds_unspent(&self) -> bool {
        let ceiling = self.ceiling.load(Relaxed);
        ceiling != UNLIMITED && ceiling > self.spent.load(Relaxed)
    }

    /// Nothing in flight, nothing held, nothing used since `since_ms`: it may leave memory once flushed.
    #[must_use]
    pub fn is_at_rest(&self, since_ms: i64) -> bool {
        self.last_used_ms.load(Relaxed) < since_ms
            && self.spent.load(SeqCst) == self.completed.load(Acquire)
            && self.durable.load(Acquire) == self.completed.load(Acquire)
            && !self.holds_unspent()
            && self.turn.lock().units.is_empty()
    }

    /// The last number that a settle of this account had.
    #[must_use]
    pub fn last_ctr(&self) -> u64 {
        self.ctr.load(Acquire)
    }

    /// The next settle's words. Lowers the ceiling first where it is given back; marks the answer as awaited.
    ///
    /// `need` is what the first waiting request lacks: the ledger gathers it whole or says that there is not so much.
    /// Asked for all of them together it could refuse everybody what each of them could have had. A node that was
    /// recalled gives back although somebody waits: who waits first on which node, the ledger decides.
    pub fn ask(&self, now_ms: i64) -> Ask {
        let mut waiting = self.turn.lock();
        self.queued.store(false, Release);
        let (first, all) = (waiting.first(), waiting.all());
        waiting.asked = first;
        let give_back = self.recall.load(Relaxed) || (all == 0 && self.is_idle(now_ms));
        let capped = some_cap(self.cap.load(Acquire));
        let hold = match (capped, give_back) {
            (None, _) => self.durable.load(Acquire),
            (Some(_), true) => self.lower_to_spent(),
            (Some(_), false) => self.ceiling.load(SeqCst),
        };
        let ctr = self.ctr.fetch_add(1, AcqRel) + 1;
        self.waiting.store(true, Release);
        let ahead = if give_back { 0 } else { self.two_seconds(now_ms).max(WANT_AT_LEAST) };
        let spent = self.spent.load(SeqCst);
        let lacking = |units: u64| spent.saturating_add(units).saturating_sub(hold);
        Ask {
            account: self.account.clone(),
            ctr,
            used: self.durable.load(Acquire),
            hold,
            need: if first == 0 { 0 } else { lacking(first) },
            want: if capped.is_none() || (all == 0 && give_back) { 0 } else { lacking(all.saturating_add(ahead)) },
            plan_version: self.plan_version.load(Acquire),
            cap: capped,
        }
    }

    /// What two seconds take at the recent rate.
    fn two_seconds(&self, now_ms: i64) -> u64 {
        let completed = self.completed.load(Acquire);
        let since = self.rate_mark.swap(completed, AcqRel);
        let mark_ms = self.rate_mark_ms.swap(now_ms, AcqRel);
        let elapsed_ms = u64::try_from(now_ms.saturating_sub(mark_ms)).unwrap_or(0).clamp(50, 60_000);
        completed.saturating_sub(since).saturating_mul(2_000) / elapsed_ms
    }

    /// Applies an answer, if it is the one awaited, and wakes who waits.
    pub fn answer(&self, asked: &Ask, answer: &Answer, now_ms: i64) {
        let turn = self.turn.lock();
        match answer {
            Answer::Settled { ctr, ceiling, used, recall, exhausted, .. } => {
                if *ctr == self.ctr.load(Acquire) && self.waiting.swap(false, AcqRel) {
                    self.others.store(used.saturating_sub(asked.used), Relaxed);
                    self.recall.store(*recall, Relaxed);
                    // The plan changed while the settle was out: its cap rules, and the next settle says so.
                    if self.plan_version.load(Acquire) == asked.plan_version {
                        self.raise(asked, *ceiling);
                        self.pause_if_short(asked, *ceiling, *exhausted, turn.asked, now_ms);
                    }
                }
            }
            Answer::Old => self.waiting.store(false, Release),
            Answer::Closed { .. } => return self.no_answer(),
        }
        drop(turn);
        self.unanswered.store(false, Release);
        self.wake();
    }

    fn raise(&self, asked: &Ask, ceiling: u64) {
        self.ceiling.store(if asked.cap.is_none() { UNLIMITED } else { ceiling }, SeqCst);
        self.low_water.store(ceiling.saturating_sub(asked.hold) / 2, Relaxed);
    }

    /// `first`: what the first waiting request costs.
    fn pause_if_short(&self, asked: &Ask, ceiling: u64, exhausted: bool, first: u64, now_ms: i64) {
        if asked.need > 0 && ceiling.saturating_sub(asked.hold) < asked.need {
            let (pause, from) = if exhausted { (EXHAUSTED_PAUSE_MS, 0) } else { (REFUSED_PAUSE_MS, first) };
            self.pause_from.store(from, Relaxed);
            self.pause_until_ms.store(now_ms.saturating_add(pause), Relaxed);
        }
    }

    /// The ledger gave no answer: those who wait are told so.
    pub fn no_answer(&self) {
        self.waiting.store(false, Release);
        self.unanswered.store(true, Release);
        self.wake();
    }

    /// It cannot even be settled: who comes later asks again.
    pub fn cannot_settle(&self) {
        self.queued.store(false, Release);
        self.no_answer();
    }

    fn wake(&self) {
        self.answers.fetch_add(1, AcqRel);
        self.answered.notify_waiters();
    }

    /// Waits, at most `deadline`, until `cost` units are reserved here or the ledger has said that there are none.
    ///
    /// `kick` puts the budget into the settler's queue; `now_ms` is asked each time: a wait may outlast a pause.
    ///
    /// # Errors
    /// [`Short::Spent`] when the cap would be passed, [`Short::NoAnswer`] when the ledger was silent.
    pub async fn reserve(
        &self,
        cost: u64,
        deadline: Duration,
        now_ms: impl Fn() -> i64,
        kick: impl Fn(),
    ) -> Result<(), Short> {
        let _place = Place::of(self, cost);
        let wait = async {
            loop {
                let answered = self.answered.notified();
                let seen = self.answers.load(Acquire);
                if self.try_reserve(cost) {
                    return Ok(());
                }
                if self.is_paused(cost, now_ms()) {
                    return Err(Short::Spent);
                }
                kick();
                answered.await;
                if self.try_reserve(cost) {
                    return Ok(());
                }
                if self.answers.load(Acquire) != seen && self.unanswered.load(Acquire) {
                    return Err(Short::NoAnswer);
                }
            }
        };
        tokio::time::timeout(deadline, wait).await.unwrap_or(Err(Short::NoAnswer))
    }
}

/// One waiting request's place in the order; its drop leaves it.
struct Place<'a> {
    budget: &'a Budget,
    number: u64,
}

impl<'a> Place<'a> {
    fn of(budget: &'a Budget, units: u64) -> Self {
        let mut waiting = budget.turn.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.units.insert(number, units);
        Self { budget, number }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.budget.turn.lock().units.remove(&self.number);
    }
}

fn some_cap(cap: u64) -> Option<u64> {
    (cap != UNLIMITED).then_some(cap)
}
