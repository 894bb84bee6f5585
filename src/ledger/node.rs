//! This node's side of the ledger: the budgets it holds, the settler that keeps them filled and honest, and the
//! shipper that carries the journal into the records.
//!
//! Dying between any two lines of the shipper loses nothing: the journal is read again from the `flushed_seq` that
//! the records hold. Dying between any two lines of the settler frees nothing: a restarted node holds nothing and
//! says so with its first settle.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::budget::{Budget, Short};
use super::fence::Fence;
use super::{Answer, Ask, Ledger, LedgerError};
use crate::clock::Clock;
use crate::journal::{Batch, Health, Journal, Record, batch};
use crate::records::{Flushed, Records, RecordsError};
use crate::testing::crash_point;
use crate::units::Account;

mod registering;

use registering::is_noted;

/// Accounts in one settle.
const ASKS_AT_MOST: usize = 100;
/// Budgets that may wait for the settler at once; a full queue only means that the next beat picks them up.
const QUEUE: usize = 4_096;
/// Records read from a journal in one go.
const READ_AT_MOST: usize = 65_536;
/// Batches kept in memory while the records are away; the journal holds the rest.
const BATCHES_AT_MOST: usize = 64;
/// A budget leaves memory after so long without a request.
const FORGET_AFTER_MS: i64 = 600_000;
/// At most one complaint about the ledger in so many milliseconds.
const COMPLAINTS_MS: i64 = 1_000;
/// Every so many beats, idle ceilings are given back and budgets at rest forgotten.
const SWEEP_BEATS: u64 = 8;

/// What a [`Node`] is made of.
#[derive(Clone)]
pub struct Parts {
    /// Settles.
    pub ledger: Arc<dyn Ledger>,
    /// Base totals, and where batches are flushed to.
    pub records: Records,
    /// This node's records on disk.
    pub journal: Arc<Journal>,
    /// Time.
    pub clock: Clock,
    /// Beat of batches and settles.
    pub batch: Duration,
    /// How long a request waits for a settle at most.
    pub wait: Duration,
    /// Stop spending after ten minutes without an answer: for a ledger that others may rebuild without this node.
    pub fence: bool,
}

/// The budgets of this node. Shared by all workers.
pub struct Node {
    parts: Parts,
    budgets: DashMap<Account, Arc<Budget>>,
    queue: mpsc::Sender<Arc<Budget>>,
    /// Budgets with new durable records since the last beat of the settler.
    active: Mutex<HashSet<Account>>,
    /// Everything that was completed before this moment is in the records.
    shipped_ms: AtomicI64,
    /// One exchange with the ledger at a time, from the words to what the answers change: a node must not enter a new
    /// generation of the ledger while an answer from the old one may still raise a ceiling.
    turn: tokio::sync::Mutex<()>,
    /// When to stop spending what the ledger granted; only for a ledger that may go on without this node.
    fence: Option<Fence>,
    /// When it was last said that the ledger does not answer.
    complained_ms: AtomicI64,
    /// Not below any `ctr` of a budget that has left memory: one that comes back must not be taken for an old message.
    last_ctr: AtomicU64,
}

/// The receiving end of a node's queue, for [`Node::run_settler`].
pub struct Queue(mpsc::Receiver<Arc<Budget>>);

impl Node {
    /// A node that holds nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> (Arc<Self>, Queue) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let fence = parts.fence.then(Fence::new);
        let first_ctr = u64::from(parts.journal.boot()) << 40;
        let node = Self {
            parts,
            budgets: DashMap::new(),
            queue,
            active: Mutex::default(),
            shipped_ms: AtomicI64::new(i64::MIN),
            turn: tokio::sync::Mutex::default(),
            fence,
            complained_ms: AtomicI64::new(i64::MIN),
            last_ctr: AtomicU64::new(first_ctr),
        };
        (Arc::new(node), Queue(receiver))
    }

    /// The budget of `account` under a plan's cap, made on first use.
    pub fn budget(&self, account: &Account, plan_version: u64, cap: Option<u64>) -> Arc<Budget> {
        if let Some(budget) = self.budgets.get(account) {
            let budget = Arc::clone(&budget);
            budget.set_plan(plan_version, cap);
            return budget;
        }
        let fresh = || Arc::new(Budget::new(account.clone(), self.last_ctr.load(Acquire), plan_version, cap));
        let budget = Arc::clone(&self.budgets.entry(account.clone()).or_insert_with(fresh));
        budget.set_plan(plan_version, cap);
        budget
    }

    /// The freshest count of `account` on this node, if it is in memory.
    #[must_use]
    pub fn used(&self, account: &Account) -> Option<u64> {
        let budget = self.budgets.get(account)?;
        budget.is_loaded().then(|| budget.view().used)
    }

    /// Budgets in memory.
    #[must_use]
    pub fn budgets_held(&self) -> usize {
        self.budgets.len()
    }

    /// Asks for a settle ahead of the beat.
    pub fn kick(&self, budget: &Arc<Budget>) {
        if budget.enqueue() {
            self.push(budget);
        }
    }

    /// Queues a budget that already counts as queued (see [`Budget::wants_settle`]).
    pub fn push(&self, budget: &Arc<Budget>) {
        if self.queue.try_send(Arc::clone(budget)).is_err() {
            // The settler is behind; its next beat finds the account among the active ones.
            self.active.lock().insert(budget.account().clone());
        }
    }

    /// Reserves `cost` units, waiting for one shared settle where they are not held.
    ///
    /// # Errors
    /// See [`Budget::reserve`].
    pub async fn reserve(&self, budget: &Arc<Budget>, cost: u64) -> Result<(), Short> {
        self.reserve_held(budget, cost).await?;
        // After the subtraction: a process that was paused in between must not spend what others may hold by now.
        if self.fence.as_ref().is_some_and(Fence::is_over) && budget.view().cap.is_some() {
            budget.complete(cost, 0, self.parts.clock.now_ms());
            self.kick(budget);
            return Err(Short::NoAnswer);
        }
        Ok(())
    }

    async fn reserve_held(&self, budget: &Arc<Budget>, cost: u64) -> Result<(), Short> {
        if budget.try_reserve(cost) {
            if budget.wants_settle() {
                self.push(budget);
            }
            return Ok(());
        }
        let now_ms = || self.parts.clock.now_ms();
        if budget.is_loaded() && budget.is_paused(cost, now_ms()) {
            return Err(Short::Spent);
        }
        budget.reserve(cost, self.parts.wait, now_ms, || self.kick(budget)).await
    }

    /// Settles on the beat and whenever a budget is short, until cancelled.
    pub async fn run_settler(self: Arc<Self>, queue: Queue, cancel: CancellationToken) {
        let Queue(mut queue) = queue;
        let mut beat = tokio::time::interval(self.parts.batch);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut beats: u64 = 0;
        let mut short = Vec::with_capacity(ASKS_AT_MOST);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                received = queue.recv_many(&mut short, ASKS_AT_MOST) => {
                    if received == 0 { break }
                    drop(self.settle(&std::mem::take(&mut short)).await);
                }
                _ = beat.tick() => {
                    beats += 1;
                    self.beat(beats).await;
                }
            }
        }
    }

    /// On drain: says of every account that this node holds no more than it has used. False if the ledger did not
    /// take note of all.
    pub async fn give_everything_back(&self) -> bool {
        let holders: Vec<_> = self
            .budgets
            .iter()
            .filter(|entry| entry.is_loaded() && entry.holds_unspent())
            .map(|entry| Arc::clone(entry.value()))
            .collect();
        for budget in &holders {
            budget.recall();
        }
        self.settle(&holders).await.is_empty()
    }

    /// Beat of batches and settles.
    #[must_use]
    pub fn batch(&self) -> Duration {
        self.parts.batch
    }

    async fn beat(&self, beats: u64) {
        let active = std::mem::take(&mut *self.active.lock());
        let mut due: Vec<_> = active.iter().filter_map(|a| self.budgets.get(a).map(|b| Arc::clone(&b))).collect();
        if beats.is_multiple_of(SWEEP_BEATS) {
            let now_ms = self.parts.clock.now_ms();
            self.forget_resting(now_ms);
            due.extend(self.idle_holders(now_ms).filter(|b| !active.contains(b.account())));
        }
        drop(self.settle(&due).await);
    }

    /// Budgets leave memory when no tenant there points to them and the records hold all they counted.
    fn forget_resting(&self, now_ms: i64) {
        let since_ms = (now_ms - FORGET_AFTER_MS).min(self.shipped_ms.load(Relaxed));
        self.budgets.retain(|_, budget| {
            let stays = Arc::strong_count(budget) > 1 || !budget.is_at_rest(since_ms);
            if !stays {
                self.last_ctr.fetch_max(budget.last_ctr(), AcqRel);
            }
            stays
        });
    }

    fn idle_holders(&self, now_ms: i64) -> impl Iterator<Item = Arc<Budget>> {
        let idle: Vec<_> = self
            .budgets
            .iter()
            .filter(|entry| entry.is_loaded() && entry.holds_unspent() && entry.is_idle(now_ms))
            .map(|entry| Arc::clone(entry.value()))
            .collect();
        idle.into_iter()
    }

    /// Settles; answers the accounts of which the ledger took no note.
    pub(super) async fn settle(&self, budgets: &[Arc<Budget>]) -> Vec<Account> {
        let mut missed = Vec::new();
        for some in budgets.chunks(ASKS_AT_MOST) {
            let loaded = self.load(some).await;
            if loaded.len() < some.len() {
                missed.extend(some.iter().filter(|budget| !budget.is_loaded()).map(|budget| budget.account().clone()));
            }
            if !loaded.is_empty() {
                missed.extend(self.settle_loaded(&loaded).await);
            }
        }
        missed
    }

    /// Reads base totals where they are missing; those that cannot be read are told that there is no answer.
    async fn load(&self, budgets: &[Arc<Budget>]) -> Vec<Arc<Budget>> {
        let mut loaded = Vec::with_capacity(budgets.len());
        for budget in budgets {
            if !budget.is_loaded() {
                match self.parts.records.totals(self.parts.journal.node(), budget.account()).await {
                    Ok(totals) => budget.load(totals.own, totals.all),
                    Err(error) => {
                        tracing::warn!(%error, account = ?budget.account(), "cannot read an account's totals");
                        budget.cannot_settle();
                        continue;
                    }
                }
            }
            loaded.push(Arc::clone(budget));
        }
        loaded
    }

    /// Says so once a second at most: while the ledger is away, every request that is short asks for a settle.
    fn complain(&self, error: &LedgerError, accounts: usize, now_ms: i64) {
        let last_ms = self.complained_ms.load(Relaxed);
        if now_ms.saturating_sub(last_ms).abs() >= COMPLAINTS_MS {
            self.complained_ms.store(now_ms, Relaxed);
            tracing::warn!(%error, accounts, "no answer from the ledger");
        }
    }

    async fn settle_loaded(&self, budgets: &[Arc<Budget>]) -> Vec<Account> {
        let _turn = self.turn.lock().await;
        let (now_ms, sent) = (self.parts.clock.now_ms(), Fence::now());
        let asks: Vec<Ask> = budgets.iter().map(|budget| budget.ask(now_ms)).collect();
        let answers = self.parts.ledger.settle(self.parts.journal.node(), &asks).await;
        count_settle(&answers);
        match answers {
            Ok(answers) => {
                let now_ms = self.parts.clock.now_ms();
                for ((budget, ask), answer) in budgets.iter().zip(&asks).zip(&answers) {
                    budget.answer(ask, answer, now_ms);
                }
                self.note_answered(&answers, sent);
                let missed = asks.into_iter().zip(&answers).filter(|(_, answer)| !is_noted(answer));
                self.say_again(missed.map(|(ask, _)| ask.account).collect())
            }
            Err(error) => {
                self.complain(&error, asks.len(), now_ms);
                for budget in budgets {
                    budget.no_answer();
                }
                self.say_again(asks.into_iter().map(|ask| ask.account).collect())
            }
        }
    }
}

fn count_settle(answers: &Result<Vec<Answer>, LedgerError>) {
    let result = match answers {
        Ok(_) => "ok",
        Err(LedgerError::Unavailable(_)) => "unavailable",
        Err(LedgerError::Unknown(_)) => "unknown",
    };
    metrics::counter!("tollgate_ledger_settles_total", "result" => result).increment(1);
    metrics::gauge!("tollgate_ledger_up").set(u32::from(answers.is_ok()));
}

/// Carries the journal into the records: reads what is on the disk, folds it, flushes it, trims.
pub struct Shipper {
    node: Arc<Node>,
    /// Per worker: last sequence number read and folded.
    read: HashMap<u16, u64>,
    /// Per worker: last sequence number whose units the budgets know to be durable; never goes back.
    noted: HashMap<u16, u64>,
    unflushed: VecDeque<Batch>,
}

impl Shipper {
    /// A shipper that begins where the records say that each journal was flushed to.
    ///
    /// # Errors
    /// When the records cannot be read: a starting node waits for them.
    pub async fn new(node: Arc<Node>) -> Result<Self, RecordsError> {
        let mut read = HashMap::new();
        for worker in node.parts.journal.workers() {
            let flushed = node.parts.records.flushed_seq(node.parts.journal.node(), worker).await?;
            read.insert(worker, flushed);
        }
        Ok(Self { node, noted: read.clone(), read, unflushed: VecDeque::new() })
    }

    /// Ships everything that is durable now.
    ///
    /// # Errors
    /// [`ShipError`]: nothing is lost, the next call goes on.
    pub async fn ship(&mut self) -> Result<(), ShipError> {
        let started_ms = self.node.parts.clock.now_ms();
        // Of a clock that was set back, "before" says nothing until this call has ended.
        self.node.shipped_ms.fetch_min(started_ms, Relaxed);
        loop {
            let more = self.read_new()?;
            self.flush().await?;
            if !more {
                self.node.shipped_ms.store(started_ms, Relaxed);
                return self.make_room();
            }
        }
    }

    /// On a full disk, what the records hold need not lie here too, however young it is.
    fn make_room(&self) -> Result<(), ShipError> {
        let journal = &self.node.parts.journal;
        if journal.health() != Health::Full {
            return Ok(());
        }
        for (worker, flushed_seq) in &self.read {
            journal.trim(*worker, *flushed_seq, i64::MAX)?;
        }
        Ok(())
    }

    /// Records of this node's journal that are not in the records' database yet.
    #[must_use]
    pub fn pending(&self) -> u64 {
        let journal = &self.node.parts.journal;
        let flushed = |worker| {
            let waiting = self.unflushed.iter().find(|batch| batch.worker == worker).map(|batch| batch.from - 1);
            waiting.or_else(|| self.read.get(&worker).copied()).unwrap_or(0)
        };
        let workers = journal.workers().into_iter();
        workers.map(|worker| journal.written(worker).saturating_sub(flushed(worker))).sum()
    }

    /// Reads and folds new durable records; true if there may be more.
    fn read_new(&mut self) -> Result<bool, ShipError> {
        let mut more = false;
        for worker in self.node.parts.journal.workers() {
            if self.unflushed.len() >= BATCHES_AT_MOST {
                break;
            }
            more |= self.read_worker(worker)?;
        }
        Ok(more)
    }

    fn read_worker(&mut self, worker: u16) -> Result<bool, ShipError> {
        let parts = &self.node.parts;
        let durable = parts.journal.durable(worker);
        let read = self.read.entry(worker).or_insert(0);
        if durable <= *read {
            return Ok(false);
        }
        let records = parts.journal.reader(worker).read(*read + 1, durable, READ_AT_MOST)?;
        let Some(last) = records.last() else {
            return Err(ShipError::Missing { worker, seq: *read + 1 });
        };
        *read = last.seq;
        let more = last.seq < durable;
        self.note_durable(worker, &records);
        let parts = &self.node.parts;
        self.unflushed.push_back(batch::fold(parts.journal.node(), worker, &records, parts.journal.names())?);
        Ok(more)
    }

    fn note_durable(&mut self, worker: u16, records: &[Record]) {
        let noted = self.noted.entry(worker).or_insert(0);
        let mut sums: HashMap<_, u64> = HashMap::new();
        for record in records.iter().filter(|record| record.seq > *noted) {
            *sums.entry((record.tenant, record.period, record.meter)).or_default() += record.units;
        }
        *noted = records.last().map_or(*noted, |last| last.seq.max(*noted));
        let now_ms = self.node.parts.clock.now_ms();
        let mut active = self.node.active.lock();
        for ((tenant, period, meter), units) in sums {
            let Some(meter) = self.node.parts.journal.names().get(meter) else { continue };
            let account = Account { tenant, period, meter };
            if let Some(budget) = self.node.budgets.get(&account) {
                budget.note_durable(units, now_ms);
                active.insert(account);
            }
        }
    }

    async fn flush(&mut self) -> Result<(), ShipError> {
        if self.unflushed.is_empty() {
            return Ok(());
        }
        let now = self.node.parts.clock.now();
        let flushed = self.node.parts.records.flush(self.unflushed.make_contiguous(), now).await?;
        let mut done = HashMap::new();
        for (batch, flushed) in self.unflushed.drain(..).zip(flushed) {
            match flushed {
                Flushed::Applied => done.insert(batch.worker, batch.to),
                // An earlier commit whose answer was lost had it already, or SQL is behind: go on from what SQL says.
                Flushed::Skipped { flushed_seq } => done.insert(batch.worker, flushed_seq),
            };
        }
        crash_point("trim.before");
        let now_ms = self.node.parts.clock.now_ms();
        for (worker, flushed_seq) in done {
            if self.read.get(&worker).is_some_and(|read| *read != flushed_seq) {
                tracing::warn!(worker, flushed_seq, "reading the journal again from what the records hold");
                self.reread(worker, flushed_seq);
            }
            self.node.parts.journal.trim(worker, flushed_seq, now_ms)?;
        }
        Ok(())
    }

    fn reread(&mut self, worker: u16, from: u64) {
        self.read.insert(worker, from);
    }
}

/// Shipping stopped; the next attempt goes on from what the records hold.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The records did not take it, or did not say.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The journal could not be read or trimmed.
    #[error("the journal cannot be read: {0}")]
    Journal(#[from] std::io::Error),
    /// The records cannot be added up.
    #[error("the journal cannot be folded: {0}")]
    Fold(#[from] batch::FoldError),
    /// Records that must be there are not.
    #[error("the journal of worker {worker} lacks record {seq}, which the ledger has not counted")]
    Missing {
        /// Whose.
        worker: u16,
        /// The first one missing.
        seq: u64,
    },
}
