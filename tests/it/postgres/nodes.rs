//! Several nodes on one server at once, each with its own connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use jiff::Timestamp;
use tollgate::clock::Clock;
use tollgate::journal::{Batch, Outcome, Row};
use tollgate::ledger::embedded::Embedded;
use tollgate::ledger::{Answer, Ask, Ledger};
use tollgate::records::{Answer as Told, Created, Flushed, NewKey, NewTenant, Records, RecordsError, TenantPatch};
use tollgate::units::{Account, KeyNum, NodeId, PeriodId, TenantNum};

use crate::random::Random;
use crate::support::postgres::{self, Postgres};

const NODES: usize = 4;

/// Several nodes' own connections to one database.
struct Cluster {
    nodes: Vec<Records>,
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = postgres::shared().url(folder.path().file_name().unwrap().to_str().unwrap());
        // All at once: one makes the tables, the others find them made.
        let opened = join_all((0..NODES).map(|_| Records::open(&url))).await;
        let nodes: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
        assert!(nodes.iter().all(|node| node.installation() == nodes[0].installation()));
        Self { nodes }
    }

    async fn tenants(&self, count: u64, customer: bool) -> Vec<TenantNum> {
        let mut tenants = Vec::new();
        for n in 0..count {
            let id = format!("t{}-{n}", u8::from(customer));
            let customer = customer.then(|| format!("cus_{n}"));
            let Created::New(tenant) = self.nodes[0].create_tenant(new_tenant(&id, customer), at(0)).await.unwrap()
            else {
                panic!("not new")
            };
            tenants.push(tenant.num);
        }
        tenants
    }

    async fn used(&self, tenant: TenantNum) -> u64 {
        self.nodes[0].totals(&node(0), &account(tenant)).await.unwrap().all
    }
}

fn new_tenant(id: &str, customer: Option<String>) -> NewTenant {
    let (id, name, plan) = (id.to_owned(), id.to_owned(), "pro".to_owned());
    NewTenant { id, name, plan, email: None, stripe_customer_id: customer }
}

fn new_key(tenant: &str, n: u8) -> NewKey {
    NewKey {
        tenant: tenant.to_owned(),
        id: format!("key_{n}"),
        name: "k".to_owned(),
        prefix: "tg".to_owned(),
        sha256: [n; 32],
        scopes: Vec::new(),
        expires_at: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).unwrap()
}

fn node(n: usize) -> NodeId {
    NodeId(format!("node-{n}").into())
}

fn account(tenant: TenantNum) -> Account {
    Account { tenant, period: PeriodId(1_795_000_000), meter: "api_units".into() }
}

/// Record `seq` of `node`: one unit of each of `tenants`, in the order given.
fn batch(of: &NodeId, seq: u64, tenants: &[TenantNum]) -> Batch {
    let row = |tenant: &TenantNum| Row {
        tenant: *tenant,
        period: account(*tenant).period,
        meter: account(*tenant).meter,
        route: "GET /".into(),
        hour_s: 1_795_000_000 / 3600 * 3600,
        status: 200,
        outcome: Outcome::Completed,
        key: KeyNum::NONE,
        units: 1,
        requests: 1,
    };
    Batch { node: of.clone(), worker: 0, from: seq, to: seq, rows: tenants.iter().map(row).collect() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushers_of_the_same_batches_count_them_once() {
    let cluster = Cluster::start().await;
    let tenants = cluster.tenants(20, true).await;
    let mut random = Random::seeded("flushers_of_the_same_batches_count_them_once");
    for round in 1..=25_u64 {
        // Four journals' next batches; each flusher has them in an order of its own, and rows too.
        let flushed = cluster.nodes.iter().map(|records| {
            let mut batches: Vec<_> = (0..NODES).map(|n| batch(&node(n), round, &tenants)).collect();
            random.shuffle(&mut batches);
            for batch in &mut batches {
                random.shuffle(&mut batch.rows);
            }
            async move { records.flush(&batches, at(1)).await.unwrap() }
        });
        let answers = join_all(flushed).await.concat();
        assert_eq!(answers.iter().filter(|answer| **answer == Flushed::Applied).count(), NODES, "round {round}");
    }
    for tenant in tenants {
        assert_eq!(cluster.used(tenant).await, 25 * u64::try_from(NODES).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_sealers_under_flushes_each_unit_finds_one_report() {
    let cluster = Cluster::start().await;
    let tenants = cluster.tenants(3, true).await;
    let mut sealed = 0;
    for seq in 1..=30 {
        let batches = [batch(&node(0), seq, &tenants)];
        let flush = cluster.nodes[0].flush(&batches, at(1));
        let seals = cluster.nodes.iter().flat_map(|records| {
            tenants
                .iter()
                .map(move |tenant| async move { records.seal(&account(*tenant), at(2), at(2)).await.unwrap() })
        });
        let (flushed, reports) = tokio::join!(flush, join_all(seals));
        flushed.unwrap();
        sealed += reports.iter().flatten().map(|report| report.value).sum::<u64>();
    }
    for tenant in &tenants {
        let last = cluster.nodes[1].seal(&account(*tenant), at(3), at(3)).await.unwrap();
        sealed += last.map_or(0, |report| report.value);
    }
    assert_eq!(sealed, 30 * 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settles_of_new_accounts_from_every_node_never_pass_the_cap() {
    const CAP: u64 = 1_000;
    let cluster = Cluster::start().await;
    let clock = Clock::manual(at(0));
    for (n, records) in cluster.nodes.iter().enumerate() {
        records.register_node(&node(n), 1, at(0)).await.unwrap();
    }
    let ledgers: Vec<_> =
        cluster.nodes.iter().map(|records| Arc::new(Embedded::new(records.clone(), clock.clone()))).collect();
    for round in 1..=20 {
        // Nobody has settled these before: there is no row to lock.
        let tenants: Vec<_> = (0..5).map(|n| TenantNum(round * 10 + n)).collect();
        let settles = ledgers.iter().enumerate().map(|(n, ledger)| {
            let mut asks: Vec<_> = tenants.iter().map(|tenant| ask(*tenant, CAP)).collect();
            asks.rotate_left(n);
            async move {
                let answers = ledger.settle(&node(n), &asks).await.unwrap();
                asks.into_iter().map(|ask| ask.account.tenant).zip(answers).collect::<Vec<_>>()
            }
        });
        let mut held: BTreeMap<TenantNum, u64> = BTreeMap::new();
        for (tenant, answer) in join_all(settles).await.concat() {
            let Answer::Settled { ceiling, .. } = answer else { panic!("a new message is never old") };
            *held.entry(tenant).or_default() += ceiling;
        }
        assert!(held.values().all(|held| *held <= CAP), "round {round}: {held:?}");
        assert!(held.values().all(|held| *held >= 900), "round {round}: most of it is granted: {held:?}");
    }
}

fn ask(tenant: TenantNum, cap: u64) -> Ask {
    Ask {
        account: account(tenant),
        ctr: 1 << 40 | 1,
        used: 0,
        hold: 0,
        need: 300,
        want: 600,
        plan_version: 1,
        cap: Some(cap),
    }
}

#[tokio::test]
async fn claims_part_the_work_and_end_with_time() {
    let cluster = Cluster::start().await;
    let tenants = cluster.tenants(10, true).await;
    let [one, two] = [&cluster.nodes[0], &cluster.nodes[1]];
    one.register_node(&node(0), 1, at(0)).await.unwrap();
    two.register_node(&node(1), 1, at(0)).await.unwrap();
    one.flush(&[batch(&node(0), 1, &tenants)], at(1)).await.unwrap();
    let (first, second) = tokio::join!(one.due_accounts(at(2), 6), two.due_accounts(at(2), 6));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first.iter().all(|due| !second.contains(due)), "{first:?} {second:?}");
    let rest = one.due_accounts(at(3), 10).await.unwrap().len() + two.due_accounts(at(3), 10).await.unwrap().len();
    assert_eq!(rest, 10, "what is claimed stays, what was free is claimed");
    for due in one.due_accounts(at(4), 10).await.unwrap() {
        one.seal(&due.account, at(4), at(4)).await.unwrap().unwrap();
    }
    let ours = one.open_reports(at(5), 20).await.unwrap();
    assert_eq!(two.open_reports(at(5), 20).await.unwrap(), [], "another node sends them");
    one.first_try(&ours[0], at(6)).await.unwrap().unwrap();
    assert_eq!(one.open_reports(at(7), 20).await.unwrap().len(), ours.len(), "a retry is the same node's");
    // The first node dies: after two minutes the second takes over all of it.
    assert_eq!(two.open_reports(at(5 + 121), 20).await.unwrap().len(), ours.len());
    assert_eq!(two.due_accounts(at(5 + 121), 20).await.unwrap().len(), 10 - ours.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_reports_of_one_customer_two_nodes_try_one() {
    let cluster = Cluster::start().await;
    let tenants = cluster.tenants(1, true).await;
    let other = PeriodId(1_797_592_000);
    for round in 1..=15_u64 {
        let mut reports = Vec::new();
        for (n, period) in [account(tenants[0]).period, other].into_iter().enumerate() {
            let mut batch = batch(&node(n), round, &tenants);
            batch.rows[0].period = period;
            cluster.nodes[n].flush(&[batch], at(1)).await.unwrap();
            let account = Account { period, ..account(tenants[0]) };
            reports.push(cluster.nodes[n].seal(&account, at(2), at(2)).await.unwrap().unwrap());
        }
        let tries = cluster.nodes.iter().zip(&reports).map(|(records, report)| records.first_try(report, at(3)));
        let outcomes: Vec<_> = join_all(tries).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(outcomes.iter().flatten().count(), 1, "round {round}");
        for report in reports {
            cluster.nodes[0].answered(&report, Told::Delivered, at(4)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_that_arrives_during_a_flush_finds_its_usage_due() {
    let cluster = Cluster::start().await;
    let tenants = cluster.tenants(25, false).await;
    for (seq, tenant) in (1..).zip(tenants) {
        let id = format!("t0-{}", seq - 1);
        let patch = TenantPatch { stripe_customer_id: Some(Some(format!("cus_{seq}"))), ..TenantPatch::default() };
        let flushed = batch(&node(0), seq, &[tenant]);
        let (flushed, changed) = tokio::join!(
            cluster.nodes[0].flush(std::slice::from_ref(&flushed), at(1)),
            cluster.nodes[1].update_tenant(&id, patch, at(1))
        );
        flushed.unwrap();
        changed.unwrap().unwrap();
    }
    assert_eq!(cluster.nodes[0].due_accounts(at(9), 100).await.unwrap().len(), 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_make_at_once_is_made_once() {
    let cluster = Cluster::start().await;
    for round in 0..10_u8 {
        let id = format!("acme-{round}");
        let made = join_all(cluster.nodes.iter().map(|r| r.create_tenant(new_tenant(&id, None), at(0)))).await;
        assert_eq!(new_ones(made), 1, "tenant, round {round}");
        let made = join_all(cluster.nodes.iter().map(|r| r.create_key(new_key(&id, round), at(0)))).await;
        assert_eq!(new_ones(made), 1, "key, round {round}");
        let sha256 = format!("version {round}");
        let versions = join_all(cluster.nodes.iter().map(|r| r.config_version(&sha256, at(0)))).await;
        assert!(versions.iter().all(|version| *version.as_ref().unwrap() == u64::from(round) + 1), "{versions:?}");
        let lives = node(9);
        let boots = cluster.nodes.iter().zip(1_u32..).map(|(r, boot)| r.register_node(&lives, boot, at(0)));
        let newest = join_all(boots).await.pop().unwrap();
        let again = round == 0 || newest.is_ok();
        assert!(again, "the newest life of a node is always registered: {newest:?}");
        let old = cluster.nodes[0].register_node(&node(9), 1, at(0)).await;
        assert!(matches!(old, Err(RecordsError::Invalid(_))), "{old:?}");
    }
}

fn new_ones<T>(made: Vec<Result<Created<T>, RecordsError>>) -> usize {
    made.into_iter().filter(|made| matches!(made.as_ref().unwrap(), Created::New(_))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_a_tenant_at_once_are_all_made() {
    let cluster = Cluster::start().await;
    cluster.tenants(1, false).await;
    for round in 0..10 {
        let patches = [
            TenantPatch { name: Some(format!("name {round}")), ..TenantPatch::default() },
            TenantPatch { email: Some(Some(format!("{round}@test.test"))), ..TenantPatch::default() },
            TenantPatch { plan: Some(format!("plan {round}")), ..TenantPatch::default() },
        ];
        let changes = cluster.nodes.iter().zip(patches).map(|(r, patch)| r.update_tenant("t0-0", patch, at(round)));
        join_all(changes).await.into_iter().for_each(|changed| assert!(changed.unwrap().is_some()));
        let tenant = cluster.nodes[0].tenant("t0-0").await.unwrap().unwrap();
        let told = (tenant.name, tenant.email.unwrap(), tenant.plan, tenant.plan_version);
        let version = u64::try_from(round).unwrap() + 2;
        assert_eq!(told, (format!("name {round}"), format!("{round}@test.test"), format!("plan {round}"), version));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_outlives_its_tenant() {
    let cluster = Cluster::start().await;
    for n in 0..15_u8 {
        let id = format!("t{n}");
        cluster.nodes[0].create_tenant(new_tenant(&id, None), at(0)).await.unwrap();
        let (made, imported) = (new_key(&id, 2 * n), [new_key(&id, 2 * n + 1)]);
        let (made, imported, deleted) = tokio::join!(
            cluster.nodes[0].create_key(made, at(1)),
            cluster.nodes[1].import_keys(&imported, at(1)),
            cluster.nodes[2].delete_tenant(&id, at(1))
        );
        made.unwrap();
        imported.unwrap();
        deleted.unwrap().unwrap();
        for hash in [[2 * n; 32], [2 * n + 1; 32]] {
            let found = cluster.nodes[3].key_by_hash(&hash).await.unwrap();
            assert!(found.is_none_or(|(key, _)| key.revoked_at.is_some()), "round {n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_or_dies_is_unavailable_and_then_there_again() {
    let mut server = Postgres::start();
    let records = Records::open(&server.url("hangs")).await.unwrap();
    records.create_tenant(new_tenant("acme", None), at(0)).await.unwrap();
    server.kill();
    assert!(matches!(records.tenant("acme").await, Err(RecordsError::Unavailable(_))));
    let refused = records.create_tenant(new_tenant("other", None), at(0)).await;
    assert!(matches!(refused, Err(RecordsError::Unavailable(_))), "{refused:?}");
    server.go_on();
    // No connection of before is left; nobody notices.
    for n in 0..8 {
        records.create_tenant(new_tenant(&format!("t{n}"), None), at(0)).await.unwrap();
        assert!(records.tenant("acme").await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uses_of_the_same_keys_noted_in_any_order_are_all_noted() {
    const KEYS: u8 = 100;
    let cluster = Cluster::start().await;
    cluster.nodes[0].create_tenant(new_tenant("acme", None), at(0)).await.unwrap();
    let keys: Vec<_> = (0..KEYS).map(|n| new_key("acme", n)).collect();
    assert_eq!(cluster.nodes[0].import_keys(&keys, at(0)).await.unwrap(), u64::from(KEYS));
    let mut nums = Vec::new();
    for n in 0..KEYS {
        nums.push(cluster.nodes[0].key_by_hash(&[n; 32]).await.unwrap().unwrap().0.num);
    }
    let mut random = Random::seeded("uses_of_the_same_keys_noted_in_any_order_are_all_noted");
    for round in 1..=20 {
        let touches = cluster.nodes.iter().map(|records| {
            random.shuffle(&mut nums);
            let used: Vec<_> = nums.iter().map(|num| (*num, at(round))).collect();
            async move { records.touch_keys(&used).await }
        });
        join_all(touches.collect::<Vec<_>>()).await.into_iter().for_each(Result::unwrap);
    }
    for n in 0..KEYS {
        let (key, _) = cluster.nodes[0].key_by_hash(&[n; 32]).await.unwrap().unwrap();
        assert_eq!(key.last_used_at, Some(at(20)));
    }
}
