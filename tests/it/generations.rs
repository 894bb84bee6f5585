//! The Redis ledger when Redis forgets, stops or comes back: nodes in this process, a real `redis-server`, real
//! journals and records. Each rule of the generations that protects a cap has a test that fails without it.

mod caps;
mod installations;
mod outage;
mod rules;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tollgate::clock::Clock;
use tollgate::journal::{self, Batch, Journal, Outcome, Row};
use tollgate::ledger::redis::{Absent, Rebuild, Redis};
use tollgate::ledger::{Budget, Ledger, Node, Parts, Short};
use tollgate::records::Records;
use tollgate::units::{Account, KeyNum, NodeId, PeriodId, TenantNum};

use crate::support::RedisServer;

/// How long anything here may take at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// Records and a Redis, with nodes to come.
struct Site {
    folder: tempfile::TempDir,
    records: Records,
    server: RedisServer,
    clock: Clock,
    /// For the answer to a settle; longer than a node has, where a test steps by hand and its machine may be busy.
    patience: Duration,
}

/// A node without its proxy: budgets, settler, journal; the rebuild is run by hand or beside it.
struct Peer {
    node: Arc<Node>,
    redis: Arc<Redis>,
    id: NodeId,
    rebuild: Option<Rebuild>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Site {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(&crate::support::postgres::database_for(folder.path())).await.unwrap();
        Self { folder, records, server: RedisServer::with(options), clock: Clock::System, patience: PATIENCE }
    }

    /// A node of its own, known to the records, that is not in any generation yet.
    async fn peer(&self, name: &str) -> Peer {
        self.patient_peer(name, Absent::Wait).await
    }

    async fn patient_peer(&self, name: &str, absent: Absent) -> Peer {
        let url = self.server.url().parse().unwrap();
        let redis = Redis::new(url, self.records.clone(), self.clock.clone()).with_patience(self.patience);
        let redis = Arc::new(redis);
        self.peer_of(name, redis, absent).await
    }

    /// A node on another Redis than the site's.
    async fn peer_at(&self, name: &str, redis: Arc<Redis>) -> Peer {
        self.peer_of(name, redis, Absent::Wait).await
    }

    async fn peer_of(&self, name: &str, redis: Arc<Redis>, absent: Absent) -> Peer {
        let journal = Arc::new(Journal::open(&journal_config(self.folder.path().join(name))).unwrap());
        self.records.register_node(journal.node(), journal.boot(), self.clock.now()).await.unwrap();
        let (node, queue) = Node::new(Parts {
            ledger: Arc::clone(&redis) as Arc<dyn Ledger>,
            records: self.records.clone(),
            journal: Arc::clone(&journal),
            clock: self.clock.clone(),
            batch: Duration::from_millis(50),
            wait: self.patience.max(Duration::from_millis(500)),
            fence: true,
        });
        let id = journal.node().clone();
        let rebuild = Rebuild::new(Arc::clone(&redis), Arc::clone(&node), id.clone(), self.records.clone(), absent);
        let stop = CancellationToken::new();
        let settler = tokio::spawn(Arc::clone(&node).run_settler(queue, stop.clone()));
        Peer { node, redis, id, rebuild: Some(rebuild), stop, tasks: vec![settler] }
    }

    /// Counts `units` of an account as flushed by a node; `seq` is its place in the node's journal.
    async fn flush(&self, node: &NodeId, seq: u64, units: u64) {
        let row = Row {
            tenant: account().tenant,
            period: account().period,
            meter: account().meter,
            route: "GET /".into(),
            hour_s: 0,
            status: 200,
            outcome: Outcome::Completed,
            key: KeyNum::NONE,
            units,
            requests: 1,
        };
        let batch = Batch { node: node.clone(), worker: 0, from: seq, to: seq, rows: vec![row] };
        self.records.flush(&[batch], self.clock.now()).await.unwrap();
    }
}

impl Peer {
    /// One pass of the rebuild, by hand.
    async fn pass(&mut self) {
        self.rebuild.as_mut().unwrap().pass().await.unwrap();
    }

    /// Lets the rebuild run by itself.
    fn run(mut self) -> Self {
        let rebuild = self.rebuild.take().unwrap();
        let stop = self.stop.clone();
        self.tasks.push(tokio::spawn(async move {
            stop.run_until_cancelled(rebuild.run()).await;
        }));
        self
    }

    fn budget(&self, cap: u64) -> Arc<Budget> {
        self.node.budget(&account(), 1, Some(cap))
    }

    /// Spends as many single units as it is let, one after the other.
    async fn spend(&self, budget: &Arc<Budget>, at_most: u64) -> u64 {
        let mut spent = 0;
        while spent < at_most && self.node.reserve(budget, 1).await.is_ok() {
            spent += 1;
        }
        spent
    }

    /// Asks until it gets one unit, or until `patience` is over.
    async fn get_one(&self, budget: &Arc<Budget>, patience: Duration) -> Result<(), Short> {
        let end = Instant::now() + patience;
        loop {
            match self.node.reserve(budget, 1).await {
                Err(_) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(20)).await,
                decided => return decided,
            }
        }
    }

    /// It is gone, as after SIGKILL.
    async fn kill(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

fn account() -> Account {
    Account { tenant: TenantNum(1), period: PeriodId(1_794_000_000), meter: "api_units".into() }
}

fn journal_config(path: std::path::PathBuf) -> journal::Config {
    let sync = journal::Sync::Every(Duration::from_millis(50));
    journal::Config { path, sync, keep: Duration::from_secs(60), keep_bytes: 1 << 20, segment_records: 1024 }
}

/// Both make passes until the buckets are open for both.
async fn settle_in(peers: &mut [&mut Peer]) {
    for _ in 0..3 {
        for peer in peers.iter_mut() {
            peer.pass().await;
        }
    }
}
