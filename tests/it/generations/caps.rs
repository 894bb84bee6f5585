//! No cap is passed, whatever Redis forgets.

use super::*;

const CAP: u64 = 100;

#[tokio::test]
async fn a_new_cluster_grants_once_all_nodes_are_in() {
    let site = Site::start().await;
    let (mut a, mut b) = (site.peer("a").await, site.peer("b").await);
    a.pass().await;
    let budget = a.budget(CAP);
    assert_eq!(a.node.reserve(&budget, 1).await, Err(Short::NoAnswer), "the other node has not said what it holds");
    b.pass().await;
    a.pass().await;
    assert_eq!(a.node.reserve(&budget, 1).await, Ok(()));
    let (of_a, of_b) = (1 + a.spend(&budget, CAP).await, b.spend(&b.budget(CAP), CAP).await);
    assert!(of_a + of_b <= CAP);
}

/// "open waits for all", "a missing key is a closed bucket": what the other node holds is charged before any grant.
#[tokio::test]
async fn an_emptied_redis_grants_nothing_that_another_node_still_holds() {
    let site = Site::start().await;
    let (mut a, mut b) = (site.peer("a").await, site.peer("b").await);
    settle_in(&mut [&mut a, &mut b]).await;
    let (of_a, of_b) = (a.budget(CAP), b.budget(CAP));
    a.node.reserve(&of_a, 1).await.unwrap();
    let held = ceiling(&a);
    assert!(held > 1, "the first grant is more than the first unit");
    site.server.flush_all();
    assert_eq!(b.node.reserve(&of_b, 1).await, Err(Short::NoAnswer), "it has forgotten");
    b.pass().await;
    assert_eq!(b.node.reserve(&of_b, 1).await, Err(Short::NoAnswer), "a has not said what it holds");
    assert_eq!(a.node.reserve(&of_a, 1).await, Ok(()), "what is held stays good");
    a.pass().await;
    b.pass().await;
    let spent_by_b = spend_all(&b, &of_b).await;
    let spent_by_a = 2 + a.spend(&of_a, CAP).await;
    assert!(spent_by_a + spent_by_b <= CAP, "{spent_by_a} + {spent_by_b}");
}

/// "a fresh gen per begin": twice emptied, the node that was there in between confirms again.
#[tokio::test]
async fn emptied_twice_everybody_confirms_twice() {
    let site = Site::start().await;
    let (mut a, mut b) = (site.peer("a").await, site.peer("b").await);
    settle_in(&mut [&mut a, &mut b]).await;
    let (of_a, of_b) = (a.budget(CAP), b.budget(CAP));
    a.node.reserve(&of_a, 1).await.unwrap();
    site.server.flush_all();
    b.pass().await;
    a.pass().await;
    site.server.flush_all();
    b.pass().await;
    assert_eq!(b.node.reserve(&of_b, 1).await, Err(Short::NoAnswer), "a has not confirmed this generation");
    a.pass().await;
    b.pass().await;
    let spent = spend_all(&b, &of_b).await + 1 + a.spend(&of_a, CAP).await;
    assert!(spent <= CAP, "{spent}");
}

/// "`inc` check": a server that comes back with what it had saved has forgotten what it had not saved.
#[tokio::test]
async fn a_restarted_redis_is_not_believed_though_its_keys_are_there() {
    let mut site = Site::with(&["--save", "3600", "1000000"]).await;
    let (mut a, mut b) = (site.peer("a").await, site.peer("b").await);
    settle_in(&mut [&mut a, &mut b]).await;
    site.server.command(&["SAVE"]);
    let (of_a, of_b) = (a.budget(CAP), b.budget(CAP));
    a.node.reserve(&of_a, 1).await.unwrap();
    let held = ceiling(&a);
    site.server.kill();
    site.server.start_again();
    let meta = site.server.command(&["EXISTS", "{tg:0}:m"]);
    assert_eq!(meta, redis::Value::Int(1), "the meta of the generation is back, the grant is not");
    // Its connection broke; the survey finds the keys in order, the settle does not.
    assert_eq!(b.node.reserve(&of_b, 1).await, Err(Short::NoAnswer));
    b.pass().await;
    b.pass().await;
    assert_eq!(b.node.reserve(&of_b, 1).await, Err(Short::NoAnswer), "another process: nothing before a has confirmed");
    settle_in(&mut [&mut b, &mut a]).await;
    let spent_by_b = spend_all(&b, &of_b).await;
    assert!(spent_by_b <= CAP - held, "{spent_by_b} of {CAP}, {held} are held by the other");
    assert!(spent_by_b + 1 + a.spend(&of_a, CAP).await <= CAP);
}

/// "base from SQL": what was used before Redis forgot is not granted again, also where nobody holds anything.
#[tokio::test]
async fn use_that_only_the_records_know_counts_after_a_wipe() {
    let site = Site::start().await;
    let mut a = site.peer("a").await;
    a.pass().await;
    site.flush(&NodeId("gone".into()), 1, 60).await;
    site.server.flush_all();
    a.pass().await;
    assert_eq!(spend_all(&a, &a.budget(CAP)).await, CAP - 60);
}

/// "`flush_gen`": a flush between a base's reading and its use is registered by the node that flushed.
#[tokio::test]
async fn usage_flushed_since_the_generation_began_is_said_again() {
    let site = Site::start().await;
    let (mut a, mut b) = (site.peer("a").await, site.peer("b").await);
    settle_in(&mut [&mut a, &mut b]).await;
    site.server.flush_all();
    b.pass().await;
    // b's first settle in the new generation reads the base now …
    assert_eq!(b.node.reserve(&b.budget(CAP), 1).await, Err(Short::NoAnswer));
    // … and this flush comes after it.
    site.flush(&a.id, 1, 70).await;
    a.pass().await;
    b.pass().await;
    assert_eq!(spend_all(&b, &b.budget(CAP)).await, CAP - 70);
}

/// "never back to an older gen": an old master, still answering, is not believed by who has left it.
#[tokio::test]
async fn an_old_master_is_not_believed() {
    let site = Site::start().await;
    let mut a = site.peer("a").await;
    a.pass().await;
    let old: Vec<_> = (0..256).map(|n| format!("{{tg:{n}}}:m")).map(|key| (hash(&site, &key), key)).collect();
    site.server.flush_all();
    a.pass().await;
    for (fields, key) in &old {
        site.server.command(&["DEL", key]);
        let mut words = vec!["HSET", key];
        words.extend(fields.iter().map(String::as_str));
        site.server.command(&words);
    }
    let budget = a.budget(CAP);
    assert_eq!(a.node.reserve(&budget, 1).await, Err(Short::NoAnswer), "open, same process, but an older generation");
    a.pass().await;
    assert_eq!(a.get_one(&budget, PATIENCE).await, Ok(()), "a newer one has begun");
}

/// "new generation after `lost`", "no expiry of a silent node's ceiling".
#[tokio::test]
async fn a_dead_nodes_ceiling_is_charged_until_it_is_declared_lost() {
    let site = Site::start().await;
    let (mut a, mut b) = (site.peer("a").await, site.peer("b").await);
    settle_in(&mut [&mut a, &mut b]).await;
    a.node.reserve(&a.budget(CAP), 1).await.unwrap();
    let held = ceiling(&a);
    let dead = a.id.clone();
    a.kill().await;
    site.flush(&dead, 1, 1).await;
    let of_b = b.budget(CAP);
    assert_eq!(spend_all(&b, &of_b).await, CAP - held);
    site.records.end_node(&dead, tollgate::records::Ended::Lost).await.unwrap();
    b.pass().await;
    assert_eq!(spend_all(&b, &of_b).await, held - 1, "what it had not used is free, what it had used is not");
}

#[tokio::test]
async fn a_rebuild_waits_for_a_node_that_is_down_or_goes_on_without_it_as_it_is_told() {
    let site = Site::start().await;
    let mut a = site.peer("a").await;
    let (mut waits, mut goes_on) =
        (site.peer("b").await, site.patient_peer("c", Absent::After(Duration::from_millis(300))).await);
    settle_in(&mut [&mut a, &mut waits, &mut goes_on]).await;
    a.kill().await;
    site.server.flush_all();
    for _ in 0..3 {
        waits.pass().await;
        goes_on.pass().await;
    }
    assert_eq!(waits.node.reserve(&waits.budget(CAP), 1).await, Err(Short::NoAnswer));
    tokio::time::sleep(Duration::from_millis(350)).await;
    waits.pass().await;
    assert_eq!(waits.node.reserve(&waits.budget(CAP), 1).await, Err(Short::NoAnswer), "for ever");
    goes_on.pass().await;
    assert_eq!(goes_on.node.reserve(&goes_on.budget(CAP), 1).await, Ok(()));
}

/// A drained node has given everything back: nobody waits for it.
#[tokio::test]
async fn nobody_waits_for_a_retired_node() {
    let site = Site::start().await;
    let (mut a, mut b) = (site.peer("a").await, site.peer("b").await);
    settle_in(&mut [&mut a, &mut b]).await;
    a.node.reserve(&a.budget(CAP), 1).await.unwrap();
    assert!(a.node.give_everything_back().await);
    site.records.end_node(&a.id, tollgate::records::Ended::Retired).await.unwrap();
    site.flush(&a.id, 1, 1).await;
    a.kill().await;
    site.server.flush_all();
    b.pass().await;
    b.pass().await;
    assert_eq!(spend_all(&b, &b.budget(CAP)).await, CAP - 1);
}

/// "`boot` in `ctr`", "ceiling dropped at restart": the first settle of a restarted node frees what it held.
#[tokio::test]
async fn a_restarted_node_gives_back_what_its_first_life_held() {
    let site = Site::start().await;
    let (mut a, mut b) = (site.peer("a").await, site.peer("b").await);
    settle_in(&mut [&mut a, &mut b]).await;
    a.node.reserve(&a.budget(CAP), 1).await.unwrap();
    assert!(ceiling(&a) > 1);
    site.flush(&a.id, 1, 1).await;
    a.kill().await;
    let mut again = site.peer("a").await;
    again.pass().await;
    assert_eq!(spend_all(&b, &b.budget(CAP)).await, CAP - 1);
}

/// Both nodes hammer one account while Redis is emptied again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_spend_the_whole_cap_and_no_more_while_redis_forgets() {
    const CAP: u64 = 3_000;
    let site = Site::start().await;
    let (a, b) = (site.peer("a").await.run(), site.peer("b").await.run());
    let (of_a, of_b) = (a.budget(CAP), b.budget(CAP));
    let wipe = async {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            site.server.flush_all();
        }
    };
    let spend = async |peer: &Peer, budget: &Arc<Budget>| {
        let end = Instant::now() + Duration::from_secs(8);
        let mut spent = 0;
        while Instant::now() < end && spent < CAP {
            match peer.node.reserve(budget, 1).await {
                Ok(()) => spent += 1,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            if spent % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        spent
    };
    let ((), by_a, by_b) = tokio::join!(wipe, spend(&a, &of_a), spend(&b, &of_b));
    assert_eq!(by_a + by_b, CAP, "{by_a} + {by_b}");
    assert!(by_a > 0 && by_b > 0);
    a.kill().await;
    b.kill().await;
}

/// The ceiling that Redis has noted for a node.
fn ceiling(peer: &Peer) -> u64 {
    let budget = peer.budget(CAP);
    // What is held here is at most what is charged there, and after an answered settle the same.
    let mut held = 0;
    while budget.try_reserve(1) {
        held += 1;
    }
    budget.complete(held, 0, peer_now());
    budget.committed() + held
}

fn peer_now() -> i64 {
    Clock::System.now_ms()
}

/// All that one node can get, asking on where it was refused for a moment only.
async fn spend_all(peer: &Peer, budget: &Arc<Budget>) -> u64 {
    let mut spent = 0;
    let mut refused = 0;
    while refused < 4 {
        if peer.node.reserve(budget, 1).await.is_ok() {
            (spent, refused) = (spent + 1, 0);
        } else {
            refused += 1;
            tokio::time::sleep(Duration::from_millis(110)).await;
        }
    }
    spent
}

fn hash(site: &Site, key: &str) -> Vec<String> {
    redis::from_redis_value(site.server.command(&["HGETALL", key])).unwrap()
}
