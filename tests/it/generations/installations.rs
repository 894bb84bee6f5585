//! Cluster, Sentinel, TLS: the same ledger, other ways to it.

use super::*;
use crate::support::redis::many::{RedisCluster, RedisSentinel};

const CAP: u64 = 400;

fn ledger_at(site: &Site, url: &str) -> Arc<Redis> {
    Arc::new(Redis::new(url.parse().unwrap(), site.records.clone(), site.clock.clone()))
}

fn of(tenant: u64) -> Account {
    Account { tenant: TenantNum(tenant), ..account() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_used_whole_and_one_primary_down_is_not_all_down() {
    let mut cluster = RedisCluster::start(3);
    let site = Site::start().await;
    let (a, b) =
        (site.peer_at("a", ledger_at(&site, &cluster.url())), site.peer_at("b", ledger_at(&site, &cluster.url())));
    let (a, b) = (a.await.run(), b.await.run());
    // A tenant in each part.
    let key = |tenant| tollgate::ledger::redis::Bucket::of(TenantNum(tenant)).meta_key();
    let tenants = [0, 1, 2].map(|part| (1..1000).find(|tenant| cluster.owner(&key(*tenant)) == part).unwrap());
    for tenant in tenants {
        let (of_a, of_b) = (a.node.budget(&of(tenant), 1, Some(CAP)), b.node.budget(&of(tenant), 1, Some(CAP)));
        assert_eq!(a.get_one(&of_a, PATIENCE).await, Ok(()), "tenant {tenant}");
        assert_eq!(b.get_one(&of_b, PATIENCE).await, Ok(()), "tenant {tenant}");
    }
    cluster.0[1].kill();
    let cut = a.node.budget(&of(tenants[1]), 1, Some(CAP));
    let spent = a.spend(&cut, CAP).await;
    assert!(spent < CAP, "what was not granted cannot be spent");
    for tenant in [tenants[0], tenants[2]] {
        let budget = a.node.budget(&of(tenant), 1, Some(CAP));
        for _ in 0..100 {
            assert_eq!(a.get_one(&budget, PATIENCE).await, Ok(()), "tenant {tenant} is elsewhere");
        }
    }
    let started = Instant::now();
    for _ in 0..50 {
        assert_eq!(a.node.reserve(&cut, 1).await, Err(Short::NoAnswer));
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    cluster.0[1].start_again();
    assert_eq!(a.get_one(&cut, PATIENCE).await, Ok(()), "it came back empty and was rebuilt");
    a.kill().await;
    b.kill().await;
}

/// The replica takes over, perhaps without the last grants: a new generation, and no cap is passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_over_under_sentinel_passes_no_cap() {
    let mut redis = RedisSentinel::start();
    let site = Site::start().await;
    let (a, b) = (site.peer_at("a", ledger_at(&site, &redis.url())), site.peer_at("b", ledger_at(&site, &redis.url())));
    let (a, b) = (a.await.run(), b.await.run());
    let (of_a, of_b) = (a.budget(CAP), b.budget(CAP));
    let mut spent = 0;
    for (peer, budget) in [(&a, &of_a), (&b, &of_b)] {
        assert_eq!(peer.get_one(budget, PATIENCE).await, Ok(()));
        spent += 1;
    }
    redis.master.kill();
    let started = Instant::now();
    let end = started + PATIENCE;
    let mut refused = 0;
    // Until the cap is spent: first what is held, then what the new master grants.
    while spent < CAP && Instant::now() < end {
        for (peer, budget) in [(&a, &of_a), (&b, &of_b)] {
            if peer.node.reserve(budget, 1).await.is_ok() {
                spent += 1;
            } else {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    println!("fail-over: {spent} of {CAP} spent in {:?}, {refused} times refused", started.elapsed());
    assert_eq!(spent, CAP);
    for (peer, budget) in [(&a, &of_a), (&b, &of_b)] {
        assert!(peer.get_one(budget, Duration::from_millis(500)).await.is_err(), "the cap is spent");
    }
    a.kill().await;
    b.kill().await;
}
