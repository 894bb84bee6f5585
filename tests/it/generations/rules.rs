//! The node's side of a settle: what it says, and what of an answer it believes.

use super::*;
use tollgate::ledger::{Answer, Ask};

fn capped(cap: u64) -> Budget {
    let budget = Budget::new(account(), 1 << 40, 1, Some(cap));
    budget.load(0, 0);
    budget
}

fn granted(ask: &Ask, ceiling: u64) -> Answer {
    let (used, plan_version) = (ask.used, ask.plan_version);
    Answer::Settled { ctr: ask.ctr, ceiling, used, plan_version, recall: false, exhausted: false }
}

fn now() -> i64 {
    Clock::System.now_ms()
}

#[test]
fn only_the_answer_to_the_last_settle_raises_the_ceiling() {
    let budget = capped(100);
    let first = budget.ask(now());
    let second = budget.ask(now());
    budget.answer(&first, &granted(&first, 50), now());
    assert!(!budget.try_reserve(1), "the answer came late: the second settle has said that nothing is held");
    budget.answer(&second, &granted(&second, 10), now());
    assert!(budget.try_reserve(10) && !budget.try_reserve(1));
    budget.answer(&second, &granted(&second, 90), now());
    assert!(!budget.try_reserve(1), "one answer to one settle");
}

#[test]
fn a_ceiling_is_lowered_before_that_is_said() {
    let budget = capped(100);
    let ask = budget.ask(now());
    budget.answer(&ask, &granted(&ask, 60), now());
    assert!(budget.try_reserve(5));
    budget.recall();
    let said = budget.ask(now());
    assert_eq!(said.hold, 5);
    assert!(!budget.try_reserve(1), "given back by word is given back in deed");
    budget.no_answer();
    assert!(!budget.try_reserve(1), "also where the word was lost");
}

#[test]
fn only_what_is_on_the_disk_itself_is_said_to_be_used() {
    let budget = capped(100);
    let ask = budget.ask(now());
    budget.answer(&ask, &granted(&ask, 60), now());
    assert!(budget.try_reserve(8));
    budget.complete(8, 8, now());
    assert_eq!(budget.ask(now()).used, 0);
    budget.note_durable(8, now());
    assert_eq!(budget.ask(now()).used, 8);
}

#[test]
fn a_restarted_node_holds_nothing() {
    let budget = Budget::new(account(), 2 << 40, 1, Some(100));
    assert!(!budget.try_reserve(1));
    budget.load(30, 50);
    assert!(!budget.try_reserve(1));
    let ask = budget.ask(now());
    assert_eq!((ask.used, ask.hold, ask.ctr >> 40), (30, 30, 2));
}

#[test]
fn a_ledger_that_is_being_rebuilt_leaves_what_is_held() {
    let budget = capped(100);
    let ask = budget.ask(now());
    budget.answer(&ask, &granted(&ask, 60), now());
    assert!(budget.try_reserve(1));
    budget.complete(1, 1, now());
    let ask = budget.ask(now());
    budget.answer(&ask, &Answer::Closed { noted: true }, now());
    assert!(budget.try_reserve(59) && !budget.try_reserve(1));
}

/// A message of an earlier generation that arrives late changes nothing in this one.
#[tokio::test]
async fn a_message_from_another_generation_changes_nothing() {
    let site = Site::start().await;
    let mut old_life = site.peer("a").await;
    old_life.pass().await;
    let late = capped(100).ask(now());
    let late = Ask { hold: 70, need: 5, want: 5, ..late };
    site.server.flush_all();
    let mut b = site.peer("b").await;
    // The same node, in its next life: it has confirmed the new generation.
    let next_life = Redis::new(site.server.url().parse().unwrap(), site.records.clone(), site.clock.clone());
    let next_life = Arc::new(next_life);
    let (node, id) = (Arc::clone(&old_life.node), old_life.id.clone());
    let mut rebuild = Rebuild::new(Arc::clone(&next_life), node, id.clone(), site.records.clone(), Absent::Wait);
    rebuild.pass().await.unwrap();
    b.pass().await;
    assert_eq!(b.node.reserve(&b.budget(100), 1).await, Ok(()), "the generation is open");
    let answers = old_life.redis.settle(&id, &[late]).await.unwrap();
    assert_eq!(answers, [Answer::Closed { noted: false }]);
    let bucket = tollgate::ledger::redis::Bucket::of(account().tenant);
    let held = site.server.command(&["HGET", &bucket.account_key(&account()), &format!("a:{}", id.0)]);
    assert_eq!(held, redis::Value::Nil);
    old_life.kill().await;
    b.kill().await;
}
