//! The settle script against the rules in Rust, over random histories: the same answers and the same state.

use std::collections::BTreeMap;

use redis::Value;
use tollgate::ledger::redis::Bucket;
use tollgate::ledger::rules::{AccountState, Hold, Turn, settle_account};
use tollgate::ledger::{Answer, Ask};
use tollgate::units::NodeId;

use super::{Fixture, account, ask, node, redis};
use crate::random::Random;

const NODES: usize = 3;
const STEPS: u64 = 2_500;

#[tokio::test]
async fn the_script_does_what_the_rules_say() {
    let mut random = Random::seeded("script_and_rules");
    let fixture = redis(NODES).await;
    let mut model = Model::default();
    for step in 1..=STEPS {
        let (n, ask) = random_ask(&mut random, step);
        let expected = model.settle(&fixture, n, &ask);
        let answered = fixture.settle(n, std::slice::from_ref(&ask)).await.remove(0);
        assert_eq!(answered, expected, "step {step}: {n} says {ask:?}");
        if step % 25 == 0 {
            model.compare(&fixture);
        }
        if random.chance(30) {
            fixture.pass(i64::try_from(random.below(700)).unwrap());
        }
    }
    model.compare(&fixture);
}

#[derive(Default)]
struct Model(BTreeMap<u64, AccountState>);

impl Model {
    fn settle(&mut self, fixture: &Fixture, n: usize, ask: &Ask) -> Answer {
        let state = self.0.entry(ask.account.tenant.0).or_insert_with(|| AccountState::begin([]));
        settle_account(state, &node(n), ask, fixture.clock.now_ms(), u32::try_from(NODES).unwrap())
    }

    fn compare(&self, fixture: &Fixture) {
        for (tenant, state) in &self.0 {
            assert_eq!(&stored(fixture, *tenant), state, "account {tenant}");
        }
    }
}

/// Mostly what a node might say, sometimes nonsense; every message is about one of two accounts.
fn random_ask(random: &mut Random, step: u64) -> (usize, Ask) {
    let range = if random.chance(5) { 400 } else { 60 };
    let used = random.below(range);
    let hold = if random.chance(3) { 1 << 50 } else { used + random.below(30) };
    let need = if random.chance(50) { 0 } else { random.below(40) };
    let want = need + random.below(30);
    let late = if random.chance(15) { random.below(20) } else { 0 };
    let cap = if random.chance(5) { None } else { Some(random.below(250)) };
    let version = if random.chance(3) { step / 100 } else { step / 200 };
    let said = ask(step.saturating_sub(late) + (1 << 53), (used, hold), (need, want), (version, cap));
    (random.index(NODES), Ask { account: account(1 + random.below(2)), ..said })
}

/// The account as the script keeps it.
fn stored(fixture: &Fixture, tenant: u64) -> AccountState {
    let account = account(tenant);
    let key = Bucket::of(account.tenant).account_key(&account);
    let server = fixture.server.as_ref().unwrap();
    let fields: BTreeMap<String, String> = redis_map(server.command(&["HGETALL", &key]));
    let number = |name: &str| fields.get(name).map_or(0, |text| text.parse::<u64>().unwrap());
    let time = |name: &str| fields[name].parse::<i64>().unwrap();
    let holds: BTreeMap<_, _> = fields
        .keys()
        .filter_map(|name| name.strip_prefix("u:"))
        .map(|id| {
            let of = |what: &str| number(&format!("{what}:{id}"));
            (NodeId(id.into()), Hold { used: of("u"), ceiling: of("a"), ctr: of("c") })
        })
        .collect();
    let (used, held) = holds.values().fold((0, 0), |(u, a), hold| (u + hold.used, a + hold.ceiling));
    assert_eq!((number("t"), number("s")), (used, held), "the sums that the script keeps");
    let turn = Some(&fields["tn"]).filter(|name| !name.is_empty());
    AccountState {
        plan_version: number("ver"),
        cap: Some(&fields["cap"]).filter(|text| !text.is_empty()).map(|text| text.parse().unwrap()),
        hungry_until_ms: time("hungry"),
        turn: turn.map(|id| Turn { node: NodeId(id.as_str().into()), lack: number("tl"), until_ms: time("tu") }),
        holds,
    }
}

fn redis_map(value: Value) -> BTreeMap<String, String> {
    ::redis::from_redis_value(value).unwrap()
}
