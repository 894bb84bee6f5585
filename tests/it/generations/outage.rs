//! Redis away, silent, unfit: held budget serves, nobody waits long, and it comes back by itself.

use super::*;
use tollgate::ledger::redis::{PassError, Unfit};

const CAP: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_redis_costs_one_wait_and_comes_back_by_itself() {
    let site = Site { patience: Duration::from_millis(100), ..Site::start().await };
    let peer = site.peer("a").await.run();
    let budget = peer.budget(CAP);
    assert_eq!(peer.get_one(&budget, PATIENCE).await, Ok(()));
    site.server.pause();
    let held = peer.spend(&budget, CAP).await;
    assert!(held > 0, "held budget serves");
    let started = Instant::now();
    for _ in 0..200 {
        assert_eq!(peer.node.reserve(&budget, 1).await, Err(Short::NoAnswer));
    }
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(1), "200 refusals in {waited:?}: nobody waits for a time-out of its own");
    println!("200 refusals while Redis is paused: {waited:?}");
    site.server.go_on();
    assert_eq!(peer.get_one(&budget, PATIENCE).await, Ok(()));
    peer.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_is_found_again_on_the_same_address() {
    let mut site = Site::start().await;
    let peer = site.peer("a").await.run();
    let budget = peer.budget(CAP);
    assert_eq!(peer.get_one(&budget, PATIENCE).await, Ok(()));
    site.server.kill();
    peer.spend(&budget, CAP).await;
    let started = Instant::now();
    for _ in 0..200 {
        assert_eq!(peer.node.reserve(&budget, 1).await, Err(Short::NoAnswer));
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    site.server.start_again();
    assert_eq!(peer.get_one(&budget, PATIENCE).await, Ok(()));
    peer.kill().await;
}

/// A Redis that is away at the start is waited for beside the traffic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_before_its_redis() {
    let mut site = Site::start().await;
    site.server.kill();
    let peer = site.peer("a").await;
    assert_eq!(peer.redis.connect().await, Ok(false));
    let peer = peer.run();
    let budget = peer.budget(CAP);
    assert_eq!(peer.node.reserve(&budget, 1).await, Err(Short::NoAnswer));
    site.server.start_again();
    assert_eq!(peer.get_one(&budget, PATIENCE).await, Ok(()));
    peer.kill().await;
}

/// Grants go on for accounts that Redis knows; new ones need a base, which only the records have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_records_known_accounts_go_on() {
    let site = Site::start().await;
    let peer = site.peer("a").await.run();
    let budget = peer.budget(CAP);
    assert_eq!(peer.get_one(&budget, PATIENCE).await, Ok(()));
    site.records.close().await;
    assert!(peer.spend(&budget, 500).await == 500, "more than the first grant");
    peer.kill().await;
}

#[tokio::test]
async fn a_redis_that_evicts_is_refused() {
    let site = Site::with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let peer = site.peer("a").await;
    let refused = peer.redis.connect().await.unwrap_err();
    assert_eq!(refused, Unfit::Evicts("allkeys-lru".to_owned()));
    peer.kill().await;
}

/// Numbers of tenants and generations are the records' own.
#[tokio::test]
async fn two_installations_do_not_share_a_ledger() {
    let (ours, theirs) = (Site::start().await, Site::start().await);
    let mut first = ours.peer("a").await;
    first.pass().await;
    let url = ours.server.url().parse().unwrap();
    let redis = Arc::new(Redis::new(url, theirs.records.clone(), theirs.clock.clone()));
    let mut second = theirs.peer_at("a", redis).await;
    let refused = second.rebuild.as_mut().unwrap().pass().await;
    assert!(matches!(refused, Err(PassError::Foreign(owner)) if owner == ours.records.installation()));
    assert_eq!(second.node.reserve(&second.budget(CAP), 1).await, Err(Short::NoAnswer));
    assert_eq!(first.node.reserve(&first.budget(CAP), 1).await, Ok(()));
    first.kill().await;
    second.kill().await;
}

#[tokio::test]
async fn an_acl_user_with_the_documented_rights_is_enough() {
    let site = Site::start().await;
    let rights = "+info +eval +evalsha +time +expire +del +hget +hmget +hgetall +hset +hexists +set";
    let mut words = vec!["ACL", "SETUSER", "toll", "on", ">p@ss", "resetkeys", "~{tg:*", "-@all"];
    words.extend(rights.split(' '));
    site.server.command(&words);
    let url = format!("redis://toll:p%40ss@127.0.0.1:{}", site.server.port());
    let redis = Redis::new(url.parse().unwrap(), site.records.clone(), site.clock.clone());
    assert_eq!(redis.connect().await, Ok(true));
    let peer = site.peer("a").await;
    let mut rebuild =
        Rebuild::new(Arc::new(redis), Arc::clone(&peer.node), peer.id.clone(), site.records.clone(), Absent::Wait);
    rebuild.pass().await.unwrap();
    let open = site.server.command(&["HGET", "{tg:0}:m", "open"]);
    assert_eq!(redis::from_redis_value::<u8>(open).unwrap(), 1);
    peer.kill().await;
}
