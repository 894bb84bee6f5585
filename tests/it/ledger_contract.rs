//! What every ledger keeps, whatever it is made of: each rule of the protocol that a single settle can show, and a
//! model of nodes against it under lost, late, doubled and reordered messages, crashes and changes of plan.
#![expect(clippy::panic, reason = "a test says so where an answer cannot be")]

mod model;
mod script;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tollgate::clock::Clock;
use tollgate::journal::{self, Batch, Journal, Outcome, Row};
use tollgate::ledger::embedded::Embedded;
use tollgate::ledger::redis::{Absent, Rebuild, Redis};
use tollgate::ledger::{Answer, Ask, Ledger, Node, Parts};
use tollgate::records::Records;
use tollgate::units::{Account, KeyNum, NodeId, PeriodId, TenantNum};

use crate::random::Random;
use crate::support::RedisServer;
use model::random_histories_keep_the_cap_and_lose_none_of_it;

/// A ledger to be tested, new and empty, with what it stands on.
struct Fixture {
    ledger: Arc<dyn Ledger>,
    records: Records,
    clock: Clock,
    _folder: tempfile::TempDir,
    server: Option<RedisServer>,
}

async fn embedded(nodes: usize) -> Fixture {
    let (folder, records, clock) = records(nodes).await;
    let ledger = Arc::new(Embedded::new(records.clone(), clock.clone()));
    Fixture { ledger, records, clock, _folder: folder, server: None }
}

async fn redis(nodes: usize) -> Fixture {
    let (folder, records, clock) = records(nodes).await;
    let server = RedisServer::start();
    let redis = Redis::new(server.url().parse().expect("a URL"), records.clone(), clock.clone());
    let redis = Arc::new(redis.with_patience(Duration::from_secs(10)));
    let journal = Journal::open(&journal_config(folder.path().join("journal"))).expect("a new journal opens");
    let (holds_nothing, _queue) = Node::new(Parts {
        ledger: Arc::clone(&redis) as Arc<dyn Ledger>,
        records: records.clone(),
        journal: Arc::new(journal),
        clock: clock.clone(),
        batch: Duration::from_millis(250),
        wait: Duration::from_millis(60),
        fence: true,
    });
    for n in 0..nodes {
        let mut rebuild =
            Rebuild::new(Arc::clone(&redis), Arc::clone(&holds_nothing), node(n), records.clone(), Absent::Wait);
        rebuild.pass().await.expect("a generation begins");
    }
    Fixture { ledger: redis, records, clock, _folder: folder, server: Some(server) }
}

fn journal_config(path: std::path::PathBuf) -> journal::Config {
    let sync = journal::Sync::Every(Duration::from_millis(50));
    journal::Config { path, sync, keep: Duration::from_secs(60), keep_bytes: 1 << 20, segment_records: 1024 }
}

async fn records(nodes: usize) -> (tempfile::TempDir, Records, Clock) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = crate::support::postgres::database_for(folder.path());
    let records = Records::open(&url).await.expect("a new database opens");
    let clock = Clock::manual(Timestamp::from_second(1_795_000_000).expect("a time of this century"));
    for n in 0..nodes {
        records.register_node(&node(n), 1, clock.now()).await.expect("a node registers");
    }
    (folder, records, clock)
}

impl Fixture {
    async fn settle(&self, n: usize, asks: &[Ask]) -> Vec<Answer> {
        self.ledger.settle(&node(n), asks).await.expect("the ledger answers")
    }

    /// A settle about one account: node, ctr, (used, hold), (need, want), cap; on plan version 1.
    async fn one(&self, n: usize, ctr: u64, numbers: (u64, u64), asked: (u64, u64), cap: u64) -> Settled {
        settled(&self.settle(n, &[ask(ctr, numbers, asked, (1, Some(cap)))]).await.remove(0))
    }

    fn pass(&self, ms: i64) {
        let later = Timestamp::from_millisecond(self.clock.now_ms() + ms).expect("a time of this century");
        assert!(self.clock.set(later));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settled {
    ceiling: u64,
    used: u64,
    recall: bool,
    exhausted: bool,
}

fn settled(answer: &Answer) -> Settled {
    match *answer {
        Answer::Settled { ceiling, used, recall, exhausted, .. } => Settled { ceiling, used, recall, exhausted },
        Answer::Old => panic!("a new message is never old"),
        Answer::Closed { noted } => panic!("a ledger that is not being rebuilt answers (noted: {noted})"),
    }
}

fn node(n: usize) -> NodeId {
    NodeId(format!("node-{n}").into())
}

fn account(n: u64) -> Account {
    Account { tenant: TenantNum(n), period: PeriodId(1_794_000_000), meter: "api_units".into() }
}

fn ask(ctr: u64, (used, hold): (u64, u64), (need, want): (u64, u64), plan: (u64, Option<u64>)) -> Ask {
    Ask { account: account(1), ctr, used, hold, need, want, plan_version: plan.0, cap: plan.1 }
}

/// Every rule, for a ledger made by `$make`.
macro_rules! contract {
    ($name:ident, $make:path, $($rule:ident($nodes:literal)),* $(,)?) => {
        mod $name {
            $(#[tokio::test]
            async fn $rule() {
                super::$rule($make($nodes).await).await;
            })*
        }
    };
    ($name:ident, $make:path) => {
        contract!(
            $name, $make,
            answers_come_in_the_order_of_the_asks(1),
            an_account_may_be_asked_about_twice_in_one_settle(1),
            a_repeated_or_late_message_changes_nothing(2),
            a_restarted_node_is_newer_and_gives_back_by_saying_what_it_holds(2),
            a_silent_nodes_ceiling_stays_charged_for_ever(2),
            a_grant_covers_the_need_or_leaves_the_node_hungry(2),
            what_was_flushed_before_the_first_settle_counts(2),
            the_highest_plan_version_wins(2),
            after_a_downgrade_nothing_is_granted_above_the_cap(2),
            accounts_and_periods_do_not_touch_each_other(1),
            without_a_cap_the_ceiling_is_endless(2),
            a_thousand_accounts_in_one_settle(1),
            settles_at_once_never_pass_the_cap(4),
            costs_above_one_reach_the_last_unit_on_every_node(4),
            random_histories_keep_the_cap_and_lose_none_of_it(3),
        );
    };
}

contract!(embedded_in_records, super::embedded);
contract!(redis_server, super::redis);

async fn answers_come_in_the_order_of_the_asks(fixture: Fixture) {
    let caps = [30, 10, 20];
    let asks: Vec<_> = (1..)
        .zip(caps)
        .map(|(n, cap)| Ask { account: account(n), ..ask(7, (0, 0), (1, 100), (1, Some(cap))) })
        .collect();
    let ceilings: Vec<_> = fixture.settle(0, &asks).await.into_iter().map(|answer| settled(&answer).ceiling).collect();
    assert_eq!(ceilings, caps);
    assert_eq!(fixture.settle(0, &[]).await, []);
}

async fn an_account_may_be_asked_about_twice_in_one_settle(fixture: Fixture) {
    let twice = [ask(1, (0, 0), (5, 5), (1, Some(100))), ask(2, (5, 5), (5, 5), (1, Some(100)))];
    let answers = fixture.settle(0, &twice).await;
    assert_eq!(answers.into_iter().map(|answer| settled(&answer).ceiling).collect::<Vec<_>>(), [5, 10]);
}

async fn a_repeated_or_late_message_changes_nothing(fixture: Fixture) {
    let first = ask(1, (0, 0), (10, 10), (1, Some(20)));
    assert_eq!(fixture.one(0, 1, (0, 0), (10, 10), 20).await.ceiling, 10);
    assert_eq!(fixture.one(0, 2, (10, 10), (0, 0), 20).await.ceiling, 10);
    let late = [first.clone(), ask(2, (0, 20), (10, 10), (9, Some(1000)))];
    assert_eq!(fixture.settle(0, &late).await, [Answer::Old, Answer::Old]);
    let other = fixture.one(1, 1, (0, 0), (11, 11), 20).await;
    assert_eq!((other.ceiling, other.used), (10, 10), "ten were left, of the old cap");
}

async fn a_restarted_node_is_newer_and_gives_back_by_saying_what_it_holds(fixture: Fixture) {
    let boot = |boot: u64, n: u64| (boot << 40) | n;
    assert_eq!(fixture.one(0, boot(1, 900), (0, 0), (20, 20), 20).await.ceiling, 20);
    assert_eq!(fixture.one(1, boot(1, 1), (0, 0), (1, 1), 20).await.ceiling, 0);
    assert_eq!(fixture.one(0, boot(2, 1), (3, 3), (0, 0), 20).await.ceiling, 3);
    let from_before = ask(boot(1, 901), (0, 20), (0, 0), (1, Some(20)));
    assert_eq!(fixture.settle(0, &[from_before]).await, [Answer::Old]);
    assert_eq!(fixture.one(1, boot(1, 2), (0, 0), (17, 17), 20).await.ceiling, 17);
}

async fn a_silent_nodes_ceiling_stays_charged_for_ever(fixture: Fixture) {
    fixture.one(0, 1, (0, 0), (15, 15), 20).await;
    fixture.pass(365 * 24 * 3_600_000);
    assert_eq!(fixture.one(1, 1, (0, 0), (20, 20), 20).await.ceiling, 5);
}

async fn a_grant_covers_the_need_or_leaves_the_node_hungry(fixture: Fixture) {
    assert_eq!(fixture.one(0, 1, (0, 0), (1, 1000), 100).await.ceiling, 25, "a quarter: two nodes are alive");
    assert_eq!(fixture.one(0, 2, (0, 25), (60, 60), 100).await.ceiling, 85);
    let short = fixture.one(1, 1, (0, 0), (30, 30), 100).await;
    assert_eq!(short, Settled { ceiling: 15, used: 0, recall: false, exhausted: false });
    assert!(fixture.one(0, 3, (40, 85), (0, 0), 100).await.recall);
    assert_eq!(fixture.one(0, 4, (40, 40), (0, 0), 100).await.ceiling, 40);
    assert_eq!(fixture.one(1, 2, (0, 15), (15, 15), 100).await.ceiling, 30);
    fixture.pass(1_001);
    assert!(!fixture.one(0, 5, (40, 40), (0, 0), 100).await.recall);
    assert_eq!(fixture.one(0, 6, (70, 70), (0, 0), 100).await.ceiling, 70);
    assert!(fixture.one(1, 3, (30, 30), (1, 1), 100).await.exhausted);
}

async fn what_was_flushed_before_the_first_settle_counts(fixture: Fixture) {
    let row = Row {
        tenant: TenantNum(1),
        period: account(1).period,
        meter: account(1).meter,
        route: "GET /".into(),
        hour_s: 0,
        status: 200,
        outcome: Outcome::Completed,
        key: KeyNum::NONE,
        units: 30,
        requests: 1,
    };
    for n in 0..2 {
        let batch = Batch { node: node(n), worker: 0, from: 1, to: 1, rows: vec![row.clone()] };
        fixture.records.flush(&[batch], fixture.clock.now()).await.expect("the flush is applied");
    }
    let first = fixture.one(0, 1, (30, 30), (100, 100), 100).await;
    assert_eq!((first.ceiling, first.used), (70, 60));
}

async fn the_highest_plan_version_wins(fixture: Fixture) {
    let settle = async |n, ctr, plan| {
        let answer = fixture.settle(n, &[ask(ctr, (0, 0), (10, 10), plan)]).await.remove(0);
        let Answer::Settled { plan_version, ceiling, .. } = answer else { panic!("a new message is never old") };
        (plan_version, ceiling)
    };
    assert_eq!(settle(0, 1, (5, Some(4))).await, (5, 4));
    assert_eq!(settle(1, 1, (4, Some(100))).await, (5, 0), "an older plan does not raise the cap");
    assert_eq!(settle(1, 2, (6, Some(9))).await, (6, 5));
    assert_eq!(settle(1, 3, (5, Some(4))).await, (6, 5), "nor lower it");
}

async fn after_a_downgrade_nothing_is_granted_above_the_cap(fixture: Fixture) {
    assert_eq!(fixture.one(0, 1, (0, 0), (60, 60), 100).await.ceiling, 60);
    let lower = |ctr, numbers, asked| ask(ctr, numbers, asked, (2, Some(20)));
    let other = settled(&fixture.settle(1, &[lower(1, (0, 0), (1, 1))]).await.remove(0));
    assert_eq!(other.ceiling, 0);
    let holder = settled(&fixture.settle(0, &[lower(2, (15, 60), (5, 5))]).await.remove(0));
    assert_eq!(holder.ceiling, 60, "what it holds is its own to lower");
    let holder = settled(&fixture.settle(0, &[lower(3, (15, 15), (0, 0))]).await.remove(0));
    assert_eq!(holder.ceiling, 15);
    let other = settled(&fixture.settle(1, &[lower(2, (0, 0), (5, 5))]).await.remove(0));
    assert_eq!((other.ceiling, other.exhausted), (5, false));
}

async fn accounts_and_periods_do_not_touch_each_other(fixture: Fixture) {
    let base = ask(1, (0, 0), (10, 10), (1, Some(10)));
    let others = [
        base.clone(),
        Ask { account: account(2), ..base.clone() },
        Ask { account: Account { period: PeriodId(1_796_000_000), ..account(1) }, ..base.clone() },
        Ask { account: Account { meter: "tokens".into(), ..account(1) }, ..base },
    ];
    for answer in fixture.settle(0, &others).await {
        assert_eq!(settled(&answer).ceiling, 10);
    }
}

async fn without_a_cap_the_ceiling_is_endless(fixture: Fixture) {
    let free = |ctr, used, hold| ask(ctr, (used, hold), (5, 500), (1, None));
    let first = settled(&fixture.settle(0, &[free(1, 7, 7)]).await.remove(0));
    assert_eq!(first, Settled { ceiling: u64::MAX, used: 7, recall: false, exhausted: false });
    let again = settled(&fixture.settle(0, &[free(2, 9, u64::MAX)]).await.remove(0));
    assert_eq!((again.ceiling, again.used), (u64::MAX, 9));
    let capped = settled(&fixture.settle(1, &[ask(1, (0, 0), (50, 50), (2, Some(40)))]).await.remove(0));
    assert_eq!((capped.ceiling, capped.used), (31, 9), "what is used counts from the first unit");
    let unaware = settled(&fixture.settle(0, &[free(3, 12, u64::MAX)]).await.remove(0));
    assert!(unaware.recall || unaware.ceiling > 40, "it holds what it thinks it holds, until it has heard");
    let aware = settled(&fixture.settle(0, &[ask(4, (12, 12), (0, 0), (2, Some(40)))]).await.remove(0));
    assert_eq!(aware.ceiling, 12);
}

async fn a_thousand_accounts_in_one_settle(fixture: Fixture) {
    let asks = |ctr: u64, hold: u64| -> Vec<_> {
        (1..=1000).map(|n| Ask { account: account(n), ..ask(ctr, (0, hold), (1, 10), (1, Some(n + 10))) }).collect()
    };
    for answer in fixture.settle(0, &asks(1, 0)).await {
        assert_eq!(settled(&answer).ceiling, 10);
    }
    let ceilings = fixture.settle(0, &asks(2, 10)).await.into_iter().map(|answer| settled(&answer).ceiling);
    assert!(ceilings.zip(1..).all(|(ceiling, n)| ceiling == 20.min(n + 10)));
}

async fn settles_at_once_never_pass_the_cap(fixture: Fixture) {
    let fixture = &fixture;
    let mut held = [0; 4];
    for ctr in 1..=20 {
        let settles = (0..4).map(|n| fixture.one(n, ctr, (held[n], held[n]), (3, 9), 100));
        let answers = futures_util::future::join_all(settles).await;
        held = [0, 1, 2, 3].map(|n: usize| answers[n].ceiling);
        assert!(held.iter().sum::<u64>() <= 100, "{held:?}");
    }
    assert_eq!(held.iter().sum::<u64>(), 100);
}

/// Clients on every node keep asking for their own cost; all nodes answer recalls. Nothing that some client could
/// still pay may be left, even with all nodes in step.
async fn costs_above_one_reach_the_last_unit_on_every_node(fixture: Fixture) {
    let mut random = Random::seeded("costs_above_one");
    for round in 1..=12 {
        let cap = 20 + random.below(60);
        let costs: Vec<_> = (0..4).map(|_| 1 + random.below(7)).collect();
        let mut nodes = [SimpleNode::default(); 4];
        for _ in 0..120 {
            for (n, cost) in costs.iter().enumerate() {
                let ask = Ask { account: account(1000 + round), ..nodes[n].ask(*cost, cap) };
                nodes[n].hear(settled(&fixture.settle(n, &[ask]).await.remove(0)), *cost);
            }
            fixture.pass(60);
        }
        let spent: u64 = nodes.iter().map(|node| node.spent).sum();
        let cheapest = costs.iter().min().expect("there are clients");
        assert!(spent <= cap, "{spent} of {cap}");
        assert!(cap - spent < *cheapest, "costs {costs:?}: {spent} of {cap} spent, {nodes:?}");
    }
}

/// A node that does nothing but serve one client.
#[derive(Clone, Copy, Debug, Default)]
struct SimpleNode {
    ctr: u64,
    spent: u64,
    ceiling: u64,
    recall: bool,
}

impl SimpleNode {
    fn ask(&mut self, cost: u64, cap: u64) -> Ask {
        self.ctr += 1;
        if self.recall {
            self.ceiling = self.spent;
        }
        let need = cost.saturating_sub(self.ceiling - self.spent);
        ask(self.ctr, (self.spent, self.ceiling), (need, need + 2 * cost), (1, Some(cap)))
    }

    /// One request per answer, as a client does that waits for each.
    fn hear(&mut self, answer: Settled, cost: u64) {
        (self.ceiling, self.recall) = (answer.ceiling, answer.recall);
        if self.spent + cost <= self.ceiling {
            self.spent += cost;
        }
    }
}
