//! Budgets under threads: against the ledger's own rules, with lost and late answers, recalls and changes of plan;
//! never more admitted than the cap, and at the end every unit of it can be spent.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tollgate::clock::Clock;
use tollgate::journal::{self, Batch, Journal, Outcome, Row};
use tollgate::ledger::embedded::Embedded;
use tollgate::ledger::rules::{AccountState, settle_account};
use tollgate::ledger::{Answer, Ask, Budget, Ledger, LedgerError, Node, Parts, Shipper, Short};
use tollgate::meter::{Reserved, reserve_all};
use tollgate::pricing::MeterIndex;
use tollgate::records::Records;
use tollgate::units::{Account, KeyNum, NameId, NodeId, PeriodId, TenantNum};

use crate::random::Random;

const NODES: usize = 3;

fn account(meter: &str) -> Account {
    Account { tenant: TenantNum(1), period: PeriodId(1_794_000_000), meter: meter.into() }
}

fn node(n: usize) -> NodeId {
    NodeId(format!("node-{n}").into())
}

/// Nodes ([`NODES`] of them), each with its budget of one account, around a ledger that follows the rules.
struct Table {
    nodes: Vec<Seat>,
    ledger: Mutex<AccountState>,
    /// Units that some node has admitted and not given back: never above what the budgets think.
    admitted: AtomicU64,
    /// The highest cap so far.
    highest: AtomicU64,
    started: Instant,
    faults: AtomicBool,
    stop: AtomicBool,
}

struct Seat {
    budget: Budget,
    bell: tokio::sync::Notify,
    completed: AtomicU64,
}

impl Table {
    fn new(cap: u64) -> Self {
        let seat = |n: usize| Seat {
            budget: Budget::new(account("api_units"), (n as u64) << 40, 1, Some(cap)),
            bell: tokio::sync::Notify::new(),
            completed: AtomicU64::new(0),
        };
        let table = Self {
            nodes: (0..NODES).map(seat).collect(),
            ledger: Mutex::new(AccountState::begin([])),
            admitted: AtomicU64::new(0),
            highest: AtomicU64::new(cap),
            started: Instant::now(),
            faults: AtomicBool::new(true),
            stop: AtomicBool::new(false),
        };
        table.nodes.iter().for_each(|seat| seat.budget.load(0, 0));
        table
    }

    /// Time flies: pauses and hunger pass quickly.
    fn now_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_micros() / 50).unwrap()
    }

    /// One settle of node `n`; where faults are on, a message or its answer may be lost, or come after the next one.
    fn settle(&self, n: usize, random: &mut Random, late: &mut Option<(Ask, Answer)>) {
        let budget = &self.nodes[n].budget;
        let ask = budget.ask(self.now_ms());
        let faulty = self.faults.load(SeqCst);
        if faulty && random.below(10) == 0 {
            return budget.no_answer();
        }
        let answer = settle_account(&mut self.ledger.lock().unwrap(), &node(n), &ask, self.now_ms(), 3);
        if let Some((ask, answer)) = late.take() {
            budget.answer(&ask, &answer, self.now_ms());
        }
        match if faulty { random.below(10) } else { 9 } {
            0 => budget.no_answer(),
            1 => *late = Some((ask, answer)),
            _ => budget.answer(&ask, &answer, self.now_ms()),
        }
    }

    /// Settles whenever asked and on a beat, as a node's settler does.
    async fn run_settler(self: Arc<Self>, n: usize, seed: String) {
        let mut random = Random::seeded(&seed);
        let mut late = None;
        while !self.stop.load(SeqCst) {
            let beat = Duration::from_micros(300);
            drop(tokio::time::timeout(beat, self.nodes[n].bell.notified()).await);
            if self.faults.load(SeqCst) && random.below(8) == 0 {
                self.nodes[n].budget.recall();
            }
            self.settle(n, &mut random, &mut late);
        }
    }

    async fn reserve(&self, n: usize, cost: u64) -> Result<(), Short> {
        let seat = &self.nodes[n];
        let kick = || seat.bell.notify_one();
        seat.budget.reserve(cost, Duration::from_millis(20), || self.now_ms(), kick).await
    }

    /// One request: reserved, and ended at its cost or for free.
    async fn request(&self, n: usize, cost: u64, real: u64) -> Result<(), Short> {
        let seat = &self.nodes[n];
        if !seat.budget.try_reserve(cost) {
            self.reserve(n, cost).await?;
        }
        let admitted = self.admitted.fetch_add(cost, SeqCst) + cost;
        let highest = self.highest.load(SeqCst);
        assert!(admitted <= highest, "{admitted} of {highest} admitted");
        if cost > 1 {
            tokio::task::yield_now().await;
        }
        self.admitted.fetch_sub(cost - real, SeqCst);
        seat.completed.fetch_add(real, SeqCst);
        seat.budget.complete(cost, real, self.now_ms());
        seat.budget.note_durable(real, self.now_ms());
        Ok(())
    }

    async fn run_client(self: Arc<Self>, n: usize, seed: String) {
        let mut random = Random::seeded(&seed);
        while self.faults.load(SeqCst) {
            let cost = 1 + random.below(5);
            let real = if random.below(3) == 0 { 0 } else { cost };
            if self.request(n, cost, real).await.is_err() {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn change_plan(&self, version: u64, cap: u64) {
        self.highest.fetch_max(cap, SeqCst);
        for seat in &self.nodes {
            seat.budget.set_plan(version, Some(cap));
            tokio::task::yield_now().await;
        }
    }

    fn completed(&self) -> u64 {
        self.nodes.iter().map(|seat| seat.completed.load(SeqCst)).sum()
    }
}

#[test]
fn never_more_is_admitted_than_the_cap_and_all_of_it_can_be_spent() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    for round in 0..8 {
        runtime.block_on(play(round));
    }
}

async fn play(round: u64) {
    let mut random = Random::seeded(&format!("budget {round}"));
    let table = Arc::new(Table::new(200 + random.below(2_000)));
    let mut settlers = Vec::new();
    let mut clients = Vec::new();
    for n in 0..NODES {
        settlers.push(tokio::spawn(Arc::clone(&table).run_settler(n, format!("settler {round} {n}"))));
        for c in 0..3 {
            clients.push(tokio::spawn(Arc::clone(&table).run_client(n, format!("client {round} {n} {c}"))));
        }
    }
    let mut cap = 0;
    for version in 2..10 {
        tokio::time::sleep(Duration::from_millis(15)).await;
        cap = 200 + random.below(4_000);
        table.change_plan(version, cap).await;
    }
    table.faults.store(false, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    // What is used may lie above the last cap, which was lower than one before.
    cap = cap.max(table.completed()) + 7;
    table.change_plan(10, cap).await;
    let end = Instant::now() + Duration::from_secs(20);
    let mut turn = 0;
    while table.completed() < cap {
        assert!(Instant::now() < end, "round {round}: {} of {cap} can be spent", table.completed());
        turn += 1;
        if table.request(turn % NODES, 1, 1).await.is_err() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
    for n in 0..NODES {
        assert!(table.request(n, 1, 1).await.is_err(), "not one more");
    }
    table.stop.store(true, SeqCst);
    for settler in settlers {
        settler.await.unwrap();
    }
    for seat in &table.nodes {
        seat.budget.recall();
        let ask = seat.budget.ask(table.now_ms());
        let completed = seat.completed.load(SeqCst);
        assert_eq!((ask.used, ask.hold), (completed, completed), "at rest a node holds what it has used");
        assert_eq!((ask.need, ask.want), (0, 0), "nobody waits");
    }
}

/// Two threads over the same budgets, one after the other, in step.
fn race(budgets: &[Budget], one: impl Fn(&Budget) + Sync, other: impl Fn(&Budget) + Sync) {
    let at = [AtomicU64::new(0), AtomicU64::new(0)];
    let run = |me: usize, act: &(dyn Fn(&Budget) + Sync)| {
        for (n, budget) in (1..).zip(budgets) {
            at[me].store(n, SeqCst);
            while at[1 - me].load(SeqCst) < n {
                std::hint::spin_loop();
            }
            act(budget);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| run(0, &one));
        run(1, &other);
    });
}

fn granted(asked: &Ask, ceiling: u64) -> Answer {
    let (ctr, plan_version) = (asked.ctr, asked.plan_version);
    Answer::Settled { ctr, ceiling, used: asked.used, plan_version, recall: false, exhausted: false }
}

#[test]
fn an_answer_to_the_old_plan_does_not_lift_a_new_cap() {
    const RACES: usize = 20_000;
    let fresh = |_| {
        let budget = Budget::new(account("api_units"), 0, 1, None);
        budget.load(0, 0);
        budget
    };
    let budgets: Vec<_> = (0..RACES).map(fresh).collect();
    let asks: Vec<_> = budgets.iter().map(|budget| budget.ask(0)).collect();
    let next = AtomicU64::new(0);
    let answer = |budget: &Budget| {
        let ask = &asks[usize::try_from(next.fetch_add(1, SeqCst)).unwrap()];
        budget.answer(ask, &granted(ask, u64::MAX), 0);
    };
    race(&budgets, answer, |budget| budget.set_plan(2, Some(10)));
    for budget in &budgets {
        assert!(!budget.try_reserve(1_000), "the cap is 10, and nothing was granted of it");
    }
}

#[test]
fn a_plan_that_comes_while_totals_are_loaded_counts() {
    let budgets: Vec<_> = (0..20_000).map(|_| Budget::new(account("api_units"), 0, 1, None)).collect();
    race(&budgets, |budget| budget.load(5, 5), |budget| budget.set_plan(2, Some(10)));
    for budget in &budgets {
        assert!(!budget.try_reserve(1_000), "the cap is 10, and nothing was granted of it");
    }
}

#[test]
fn a_ceiling_that_was_given_back_does_not_come_back_by_itself() {
    let fresh = |_| {
        let budget = Budget::new(account("api_units"), 0, 1, Some(1_000));
        budget.load(10, 10);
        let ask = budget.ask(0);
        budget.answer(&ask, &granted(&ask, 100), 0);
        budget
    };
    let budgets: Vec<_> = (0..20_000).map(fresh).collect();
    let rises = AtomicU64::new(0);
    let give_back = |budget: &Budget| {
        budget.recall();
        let first = budget.ask(0).hold;
        let second = budget.ask(0).hold;
        rises.fetch_add(u64::from(second > first), SeqCst);
    };
    let reserve = |budget: &Budget| {
        budget.try_reserve(5);
    };
    race(&budgets, give_back, reserve);
    assert_eq!(rises.load(SeqCst), 0, "what was said to be held is the most that is held until the answer");
}

#[tokio::test]
async fn the_first_who_waits_is_needed_and_the_rest_is_wanted() {
    let budget = Budget::new(account("api_units"), 0, 1, Some(100));
    budget.load(0, 0);
    let waiting = |cost| budget.reserve(cost, Duration::from_secs(5), || 0, || ());
    let mut all = std::pin::pin!(futures_util::future::join3(waiting(5), waiting(70), waiting(2)));
    assert!(futures_util::poll!(&mut all).is_pending());
    let ask = budget.ask(0);
    assert_eq!(ask.need, 5, "of all together nobody could say whether it can be had");
    assert!(ask.want >= 77, "{}", ask.want);
    // Three more than the first needs: the last one fits in too, the second waits on.
    budget.answer(&ask, &granted(&ask, 8), 0);
    assert!(futures_util::poll!(&mut all).is_pending());
    let ask = budget.ask(0);
    assert_eq!((ask.hold, ask.need), (8, 69));
    budget.answer(&ask, &granted(&ask, 8), 0);
    assert_eq!(all.await, (Ok(()), Err(Short::Spent), Ok(())));
    assert!(budget.is_paused(70, 50), "refused again without asking");
    assert!(!budget.is_paused(69, 50), "a cheaper one may still fit");
    assert!(!budget.is_paused(70, 100));
    assert!(!budget.is_paused(70, -3_600_000), "a clock that was set back does not make the pause an hour long");
}

#[tokio::test]
async fn an_upgrade_that_crosses_a_refusal_is_not_refused() {
    let budget = Budget::new(account("api_units"), 0, 1, Some(10));
    budget.load(10, 10);
    let mut waiting = std::pin::pin!(budget.reserve(1, Duration::from_secs(5), || 0, || ()));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    let ask = budget.ask(0);
    budget.set_plan(2, Some(1_000));
    let (ctr, plan_version) = (ask.ctr, 1);
    let refused = Answer::Settled { ctr, ceiling: 10, used: 10, plan_version, recall: false, exhausted: true };
    budget.answer(&ask, &refused, 0);
    assert!(futures_util::poll!(&mut waiting).is_pending(), "it asks again, under the new plan");
    let ask = budget.ask(0);
    assert_eq!(ask.cap, Some(1_000));
    budget.answer(&ask, &granted(&ask, 11), 0);
    assert_eq!(waiting.await, Ok(()));
}

#[test]
fn a_budget_that_could_not_be_loaded_may_be_queued_again() {
    let budget = Budget::new(account("api_units"), 0, 1, Some(10));
    assert!(budget.enqueue());
    assert!(!budget.enqueue(), "once is enough");
    budget.cannot_settle();
    assert!(budget.enqueue(), "the next request asks again");
}

/// A ledger that can be told to fall silent, and counts.
struct Watched {
    inner: Embedded,
    settles: AtomicU64,
    /// Settles that are still to fail.
    failures: AtomicU64,
    silent_about: Option<&'static str>,
}

impl Ledger for Watched {
    fn settle<'a>(&'a self, node: &'a NodeId, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Answer>, LedgerError>> {
        self.settles.fetch_add(1, SeqCst);
        if self.failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Box::pin(async { Err(LedgerError::Unavailable("switched off".into())) });
        }
        if asks.iter().any(|ask| self.silent_about == Some(&*ask.account.meter)) {
            return Box::pin(std::future::pending());
        }
        self.inner.settle(node, asks)
    }
}

/// A node at work over a real journal and real records.
struct Bench {
    node: Arc<Node>,
    ledger: Arc<Watched>,
    records: Records,
    journal: Arc<Journal>,
    clock: Clock,
    cancel: tokio_util::sync::CancellationToken,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new(silent_about: Option<&'static str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(&format!("sqlite:{}/t.db", folder.path().display())).await.unwrap();
        let clock = Clock::manual(Timestamp::from_second(1_795_000_000).unwrap());
        let config = journal::Config {
            path: folder.path().join("journal"),
            sync: journal::Sync::Every(Duration::from_millis(2)),
            keep: Duration::ZERO,
            keep_bytes: u64::MAX,
            segment_records: 256,
        };
        let journal = Arc::new(Journal::open(&config).unwrap());
        records.register_node(journal.node(), journal.boot(), clock.now()).await.unwrap();
        let inner = Embedded::new(records.clone(), clock.clone());
        let ledger = Arc::new(Watched { inner, settles: AtomicU64::new(0), failures: AtomicU64::new(0), silent_about });
        let (node, queue) = Node::new(Parts {
            ledger: Arc::<Watched>::clone(&ledger),
            records: records.clone(),
            journal: Arc::clone(&journal),
            clock: clock.clone(),
            batch: Duration::from_millis(5),
            wait: Duration::from_secs(5),
            fence: false,
        });
        let cancel = tokio_util::sync::CancellationToken::new();
        tokio::spawn(Arc::clone(&node).run_settler(queue, cancel.clone()));
        Self { node, ledger, records, journal, clock, cancel, _folder: folder }
    }

    fn pass(&self, ms: i64) {
        assert!(self.clock.set(Timestamp::from_millisecond(self.clock.now_ms() + ms).unwrap()));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_was_forgotten_and_comes_back_is_not_taken_for_an_old_message() {
    let bench = Bench::new(None).await;
    let of = || bench.node.budget(&account("api_units"), 1, Some(1_000_000));
    let budget = of();
    for _ in 0..40 {
        bench.node.reserve(&budget, 100).await.unwrap();
        budget.complete(100, 100, bench.clock.now_ms());
        budget.note_durable(100, bench.clock.now_ms());
        bench.node.kick(&budget);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    assert!(bench.ledger.settles.load(SeqCst) >= 20, "settled often");
    flush(&bench, 4_000).await;
    drop(budget);
    bench.pass(11 * 60_000);
    Shipper::new(Arc::clone(&bench.node)).await.unwrap().ship().await.unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while bench.node.budgets_held() > 0 {
        assert!(Instant::now() < end, "an account at rest leaves memory");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = bench.ledger.settles.load(SeqCst);
    let budget = of();
    bench.node.reserve(&budget, 100).await.unwrap();
    assert_eq!(bench.ledger.settles.load(SeqCst) - before, 1, "its first settle counts");
    assert_eq!(budget.view().used, 4_000);
}

/// The account's use reaches the records, as the shipper would bring it.
async fn flush(bench: &Bench, units: u64) {
    let account = account("api_units");
    let row = Row {
        tenant: account.tenant,
        period: account.period,
        meter: account.meter,
        route: "GET /".into(),
        hour_s: 0,
        status: 200,
        outcome: Outcome::Completed,
        key: KeyNum::NONE,
        units,
        requests: 1,
    };
    let batch = Batch { node: bench.journal.node().clone(), worker: 0, from: 1, to: 1, rows: vec![row] };
    bench.records.flush(&[batch], bench.clock.now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_the_second_meter_is_waited_for_gives_the_first_one_back() {
    let bench = Bench::new(Some("second")).await;
    let budget = |meter| bench.node.budget(&account(meter), 1, Some(100));
    let (first, second) = (budget("first"), budget("second"));
    bench.node.reserve(&first, 1).await.unwrap();
    first.complete(1, 1, bench.clock.now_ms());
    let wanted = [&first, &second].map(|budget| Reserved {
        budget: Arc::clone(budget),
        index: MeterIndex(0),
        meter: NameId(1),
        units: 7,
    });
    let reserving = reserve_all(&bench.node, &wanted, None, bench.clock.now_ms());
    assert!(tokio::time::timeout(Duration::from_millis(50), reserving).await.is_err(), "it waits");
    assert_eq!(first.committed(), 1, "only what was used");
    assert_eq!(second.committed(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_used_is_said_although_the_settle_failed_and_nobody_comes_back() {
    let bench = Bench::new(None).await;
    let budget = bench.node.budget(&account("api_units"), 1, Some(1_000));
    bench.node.reserve(&budget, 10).await.unwrap();
    budget.complete(10, 10, bench.clock.now_ms());
    budget.note_durable(10, bench.clock.now_ms());
    bench.ledger.failures.store(3, SeqCst);
    bench.node.kick(&budget);
    let end = Instant::now() + Duration::from_secs(5);
    while bench.ledger.failures.load(SeqCst) > 0 {
        assert!(Instant::now() < end, "it is tried again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_longer_than_memory_is_in_the_records_before_its_budget_is_forgotten() {
    let bench = Bench::new(None).await;
    let admitted_ms = bench.clock.now_ms();
    let budget = bench.node.budget(&account("api_units"), 1, Some(1_000));
    bench.node.reserve(&budget, 10).await.unwrap();
    bench.pass(20 * 60_000);
    let mut shipper = Shipper::new(Arc::clone(&bench.node)).await.unwrap();
    shipper.ship().await.unwrap();
    bench.pass(1);
    // It ends; its record is seen, and not flushed yet. The two may come in either order.
    for noted_first in [true, false] {
        if noted_first {
            budget.note_durable(5, bench.clock.now_ms());
        }
        budget.complete(5, 5, admitted_ms);
        if !noted_first {
            budget.note_durable(5, bench.clock.now_ms());
        }
    }
    drop(budget);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.node.budgets_held(), 1, "SQL does not have it: totals read again would lack it");
}
