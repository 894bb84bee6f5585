//! The ledger in Redis: for many nodes. A settle is one script call per bucket; Redis may forget everything at any
//! moment.
//!
//! Redis is believed only inside a generation. A missing key, another process or another replication history ends it,
//! and nothing is granted in the next one until every node that may hold budget has said what it holds
//! ([`Rebuild`]). What is granted is charged to a node until that node lowers it; no clock frees it.
//!
//! Nobody waits for a connection: it is opened in the background, and a bucket whose server was silent once is not
//! asked again until a survey has found it answering.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{Answer, Ask, Ledger, LedgerError};
use crate::clock::Clock;
use crate::records::Records;
use crate::units::NodeId;

mod bucket;
mod check;
mod generations;
mod link;
mod rebuild;
mod script;
mod servers;
mod settle;
mod url;
mod wire;

pub use bucket::Bucket;
pub use check::Unfit;
pub use rebuild::{Absent, PassError, Rebuild};
pub use url::{Kind, SHAPES, Url, UrlError};

use link::Link;
use script::Scripts;

/// A settle waits so long for its answer; then it is unknown whether it was applied.
const PATIENCE: Duration = Duration::from_millis(100);

/// The ledger in Redis.
pub struct Redis {
    link: Link,
    scripts: Scripts,
    records: Records,
    clock: Clock,
    buckets: Vec<State>,
    /// A settle waits so long for its answer.
    patience: Duration,
    /// Nodes alive, as last read from the records.
    nodes: AtomicU32,
    /// A survey is wanted before its time.
    work: Notify,
}

/// What this node knows of a bucket.
#[derive(Debug, Default)]
struct State {
    /// The generation this node is in; never goes back.
    generation: AtomicU64,
    /// A settle found that the bucket's generation has ended.
    lost: AtomicBool,
    /// Its server did not answer.
    silent: AtomicBool,
}

impl Redis {
    /// A ledger at `url` that is not connected yet: a [`Rebuild`] connects it and keeps it so.
    #[must_use]
    pub fn new(url: Url, records: Records, clock: Clock) -> Self {
        let buckets = Bucket::all().map(|_| State { silent: true.into(), ..State::default() }).collect();
        Self {
            link: Link::new(url),
            scripts: Scripts::default(),
            records,
            clock,
            buckets,
            patience: PATIENCE,
            nodes: AtomicU32::new(1),
            work: Notify::new(),
        }
    }

    /// The same, but a settle waits for its answer so long instead of 100 ms.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Connects, and checks that this Redis can be a ledger; false if none of its servers can be reached.
    ///
    /// # Errors
    /// [`Unfit`] with what to change.
    pub async fn connect(&self) -> Result<bool, Unfit> {
        self.link.open().await
    }

    fn state(&self, bucket: Bucket) -> &State {
        &self.buckets[bucket.index()]
    }

    /// The generation this node is in.
    fn generation(&self, bucket: Bucket) -> u64 {
        self.state(bucket).generation.load(Acquire)
    }

    /// Its server did not answer: it is not asked again until a survey has found it answering.
    fn fell_silent(&self, bucket: Bucket) {
        if !self.state(bucket).silent.swap(true, AcqRel) {
            self.work.notify_one();
        }
        let server = self.link.server_of(bucket);
        for other in Bucket::all().filter(|other| self.link.server_of(*other) == server) {
            self.state(other).silent.store(true, Release);
        }
    }

    fn ended(&self, bucket: Bucket) {
        self.state(bucket).lost.store(true, Release);
        self.work.notify_one();
    }
}

impl Ledger for Redis {
    fn settle<'a>(&'a self, node: &'a NodeId, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Answer>, LedgerError>> {
        self.settle_all(node, asks).boxed()
    }
}
