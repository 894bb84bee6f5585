//! Keeps the buckets' generations going: connects, looks at every bucket each second, begins a generation where one has
//! ended, says what this node holds, and opens it when all have.
//!
//! Dying between any two steps leaves a closed bucket, which every other node takes up from where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::generations::{Found, Opening};
use super::{Bucket, Redis, Unfit};
use crate::ledger::Node;
use crate::records::{Holds, NodeState, Records, RecordsError};
use crate::units::{Account, NodeId};

/// Between two surveys …
const SURVEY: Duration = Duration::from_secs(1);
/// … and while a server is silent or a bucket closed.
const SURVEY_SOON: Duration = Duration::from_millis(250);
/// For one question to the records; a pass goes on at the next survey.
const RECORDS_WAIT: Duration = Duration::from_secs(2);
/// Silent surveys in a row until another connection is opened: the old one may lead nowhere.
const SILENT_AT_MOST: u32 = 4;

/// How long a closed bucket waits for a node that does not say what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// For ever: the cap is absolute, and an operator declares the node lost.
    Wait,
    /// So long; then it goes on without it, and the cap may pass by what that node holds.
    After(Duration),
}

/// The one task of this node that looks after the ledger's generations.
pub struct Rebuild {
    redis: Arc<Redis>,
    node: Arc<Node>,
    id: NodeId,
    records: Records,
    absent: Absent,
    /// Since when an opening waits for somebody.
    waiting: BTreeMap<Bucket, (u64, Instant)>,
    silent_surveys: u32,
    /// Whether any server could be reached, last time.
    reached: Option<bool>,
}

/// A pass was not finished; the next survey goes on.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The records did not answer.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// Nor in time.
    #[error("the records did not answer in time")]
    Late(#[from] tokio::time::error::Elapsed),
    /// Tenants, nodes and generations are numbered by the records: two sets of them must not share a ledger.
    #[error("the Redis is the ledger of another installation ({0}): give each its own, or another database of it")]
    Foreign(String),
    /// This Redis must not be a ledger.
    #[error("the Redis cannot be the ledger: {0}")]
    Unfit(#[from] Unfit),
}

impl Rebuild {
    /// Looks after `redis` for `node`, which is called `id`.
    #[must_use]
    pub fn new(redis: Arc<Redis>, node: Arc<Node>, id: NodeId, records: Records, absent: Absent) -> Self {
        Self { redis, node, id, records, absent, waiting: BTreeMap::new(), silent_surveys: 0, reached: None }
    }

    /// Passes for ever: each second, sooner where something is wanted.
    pub async fn run(mut self) {
        let mut trouble = String::new();
        loop {
            let passed = self.pass().await.map_err(|error| error.to_string());
            let error = passed.err().unwrap_or_default();
            // What lasts is said once.
            if error != trouble && !error.is_empty() {
                tracing::warn!(error, "the ledger's generations wait");
            }
            trouble = error;
            let calm = self.waiting.is_empty() && self.redis.link.is_whole() && !self.redis.is_silent();
            let pause = tokio::time::sleep(if calm { SURVEY } else { SURVEY_SOON });
            tokio::select! {
                () = pause => {}
                () = self.redis.work.notified() => {}
            }
        }
    }

    /// One survey, and what follows from it.
    ///
    /// # Errors
    /// [`PassError`]: what is closed stays closed until the next pass.
    pub async fn pass(&mut self) -> Result<(), PassError> {
        if !self.redis.link.is_whole() {
            let reached = self.redis.connect().await?;
            self.note_connection(reached);
            if !reached {
                return Ok(());
            }
        }
        if let Some(owner) = self.redis.owner().await.filter(|owner| owner != self.records.installation()) {
            self.redis.keep_away();
            return Err(PassError::Foreign(owner));
        }
        let found = self.redis.survey(&self.id).await;
        self.judge_silence(&found);
        let nodes = self.nodes().await?;
        let lost = nodes.iter().filter_map(lost_in).max();
        let ended: Vec<_> = found.iter().filter(|(bucket, found)| self.is_over(**bucket, **found, lost)).collect();
        let mut entered = self.begin(ended.into_iter().map(|(bucket, _)| *bucket).collect()).await?;
        for (bucket, found) in &found {
            if let Found::Generation { generation, .. } = *found
                && generation > self.redis.generation(*bucket)
            {
                entered.entry(*bucket).or_insert(generation);
            }
        }
        self.enter(&entered).await;
        let mut unconfirmed: BTreeSet<_> = entered.into_keys().collect();
        unconfirmed.extend(self.where_found(&found, |_, confirmed| !confirmed));
        let confirmed = self.register(&unconfirmed).await?;
        let mut closed: BTreeSet<_> = self.where_found(&found, |open, confirmed| confirmed && !open).collect();
        closed.extend(confirmed);
        self.open(&closed).await?;
        self.waiting.retain(|bucket, _| closed.contains(bucket));
        Ok(())
    }

    /// Logs that the ledger went away or came back, once each.
    fn note_connection(&mut self, reached: bool) {
        if self.reached != Some(reached) {
            let redis = self.redis.link.url();
            if reached {
                tracing::info!(%redis, "the ledger can be reached");
            } else {
                tracing::warn!(%redis, "the ledger cannot be reached");
            }
        }
        self.reached = Some(reached);
    }

    /// A connection over which no answer comes is given up after a while.
    fn judge_silence(&mut self, found: &BTreeMap<Bucket, Found>) {
        let answering: BTreeSet<_> = found
            .iter()
            .filter(|(_, found)| **found != Found::Silent)
            .map(|(bucket, _)| self.redis.link.server_of(*bucket))
            .collect();
        let silent: Vec<_> =
            found.keys().filter(|bucket| !answering.contains(&self.redis.link.server_of(**bucket))).collect();
        self.silent_surveys = if silent.is_empty() { 0 } else { self.silent_surveys + 1 };
        if self.silent_surveys >= SILENT_AT_MOST {
            for bucket in silent {
                self.redis.link.forget(*bucket);
            }
            self.silent_surveys = 0;
        }
        metrics::gauge!("tollgate_ledger_up").set(u32::from(!answering.is_empty()));
    }

    async fn nodes(&self) -> Result<Vec<NodeState>, PassError> {
        let now = self.redis.clock.now();
        let read = async { Ok::<_, RecordsError>((self.records.live_nodes(now).await?, self.records.nodes().await?)) };
        let (alive, nodes) = tokio::time::timeout(RECORDS_WAIT, read).await??;
        self.redis.nodes.store(alive, Relaxed);
        Ok(nodes)
    }

    /// Whether the bucket needs a new generation.
    fn is_over(&self, bucket: Bucket, found: Found, lost: Option<u64>) -> bool {
        let own = self.redis.generation(bucket);
        match found {
            Found::Silent => false,
            Found::Nothing => true,
            Found::Generation { generation, .. } => {
                generation < own
                    || (generation == own && self.redis.has_ended(bucket))
                    || lost.is_some_and(|closed_gen| closed_gen >= generation)
            }
        }
    }

    /// Begins generations; answers those that the buckets are in then.
    async fn begin(&self, buckets: Vec<Bucket>) -> Result<BTreeMap<Bucket, u64>, PassError> {
        let Some(count) = u64::try_from(buckets.len()).ok().filter(|count| *count > 0) else {
            return Ok(BTreeMap::new());
        };
        let first = tokio::time::timeout(RECORDS_WAIT, self.records.next_generations(count)).await??;
        tracing::warn!(buckets = count, first, "the ledger has forgotten: new generations begin");
        let begun = buckets
            .into_iter()
            .zip(first..)
            .map(|(bucket, generation)| async move { Some((bucket, self.redis.begin(bucket, generation).await?)) });
        Ok(join_all(begun).await.into_iter().flatten().collect())
    }

    async fn enter(&self, generations: &BTreeMap<Bucket, u64>) {
        let _turn = self.node.turn().await;
        for (bucket, generation) in generations {
            self.redis.adopt(*bucket, *generation);
        }
        if let Some(newest) = generations.values().max() {
            metrics::gauge!("tollgate_ledger_generation").set(f64_of(*newest));
        }
    }

    /// Buckets in the generation this node is in, picked by what the survey found: open, and confirmed by this node.
    fn where_found<'a>(
        &'a self,
        found: &'a BTreeMap<Bucket, Found>,
        pick: impl Fn(bool, bool) -> bool + 'a,
    ) -> impl Iterator<Item = Bucket> + 'a {
        found.iter().filter_map(move |(bucket, found)| match *found {
            Found::Generation { generation, open, confirmed } if generation == self.redis.generation(*bucket) => {
                pick(open, confirmed).then_some(*bucket)
            }
            Found::Generation { .. } | Found::Silent | Found::Nothing => None,
        })
    }

    /// Says what this node holds in the generations it has entered, and confirms where the ledger took note of all.
    async fn register(&self, buckets: &BTreeSet<Bucket>) -> Result<Vec<Bucket>, PassError> {
        let Some(earliest) = buckets.iter().map(|bucket| self.redis.generation(*bucket)).min() else {
            return Ok(Vec::new());
        };
        let flushed = tokio::time::timeout(RECORDS_WAIT, self.records.flushed_since(&self.id, earliest)).await??;
        // A base that was read before such a flush lacks it.
        let of = |account: &Account| buckets.contains(&Bucket::of(account.tenant));
        let lately = flushed.into_iter().filter(|(account, generation)| {
            of(account) && *generation >= self.redis.generation(Bucket::of(account.tenant))
        });
        let missed = self.node.register(of, lately.map(|(account, _)| account).collect()).await;
        let missed: BTreeSet<_> = missed.iter().map(|account| Bucket::of(account.tenant)).collect();
        let confirmed = buckets
            .difference(&missed)
            .map(|bucket| async { self.redis.confirm(*bucket, &self.id).await.then_some(*bucket) });
        Ok(join_all(confirmed).await.into_iter().flatten().collect())
    }

    /// Opens generations. Which nodes must have confirmed is read after the generation was seen: who registers later
    /// holds nothing yet.
    async fn open(&mut self, buckets: &BTreeSet<Bucket>) -> Result<(), PassError> {
        if buckets.is_empty() {
            return Ok(());
        }
        let nodes = self.nodes().await?;
        let openings = buckets.iter().map(|bucket| {
            let (redis, needed) = (&self.redis, needed(&nodes, self.redis.generation(*bucket)));
            async move {
                let opening = redis.open(*bucket, &needed).await;
                (*bucket, needed, opening)
            }
        });
        for (bucket, needed, opening) in join_all(openings).await {
            match opening {
                Opening::Open => drop(self.waiting.remove(&bucket)),
                Opening::Failed => {}
                Opening::Waits(missing) => self.wait_for(bucket, &nodes, needed, &missing).await,
            }
        }
        Ok(())
    }

    async fn wait_for(&mut self, bucket: Bucket, nodes: &[NodeState], mut needed: Vec<NodeId>, missing: &[NodeId]) {
        let generation = self.redis.generation(bucket);
        // A node that ended in this very generation will not confirm it: the next one does not need it.
        if nodes.iter().any(|node| node.holds != Holds::Maybe && missing.contains(&node.id)) {
            return self.redis.ended(bucket);
        }
        let since = self.waiting.entry(bucket).or_insert((generation, Instant::now()));
        if since.0 != generation {
            *since = (generation, Instant::now());
        }
        let Absent::After(patience) = self.absent else { return };
        if since.1.elapsed() < patience {
            return;
        }
        tracing::error!(?bucket, ?missing, "absent nodes did not say what they hold: granting without them");
        metrics::counter!("tollgate_ledger_absent_total").increment(1);
        needed.retain(|node| !missing.contains(node));
        if self.redis.open(bucket, &needed).await == Opening::Open {
            self.waiting.remove(&bucket);
        }
    }
}

/// The generation a lost node was last in.
fn lost_in(node: &NodeState) -> Option<u64> {
    match node.holds {
        Holds::Lost { closed_gen } => Some(closed_gen),
        Holds::Maybe | Holds::Retired { .. } => None,
    }
}

/// Nodes that may hold budget in `generation`.
fn needed(nodes: &[NodeState], generation: u64) -> Vec<NodeId> {
    let may_hold = |node: &&NodeState| match node.holds {
        Holds::Maybe => true,
        Holds::Retired { closed_gen } | Holds::Lost { closed_gen } => closed_gen >= generation,
    };
    nodes.iter().filter(may_hold).map(|node| node.id.clone()).collect()
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "a gauge is a float")]
fn f64_of(value: u64) -> f64 {
    value as f64
}
