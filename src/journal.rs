//! Records of finished exchanges on this node's disk: what SIGKILL cannot take, and batches of them for the ledger.
//!
//! ```text
//! directory/            one node's alone
//!   lock                flocked while a process works here; names it
//!   id  boot  kernel    the node, how often it started, under which run of the machine's kernel
//!   names               meters and routes by number
//!   worker-0000/        one journal per worker, so that no two threads ever write the same file
//!     00000000000000000001.seg      named after its first record: a header, then records of 64 bytes
//!     00000000000000065537.seg
//! ```
//!
//! A worker reserves room ([`LocalWriter::reserve`]) before it contacts the origin, and commits records into a shared mapping
//! before the last byte of a response is handed on ([`Slot::commit`]): from there on a killed process loses nothing. A
//! thread of the journal's own (`keeper.rs`) syncs them to the disk itself and makes segments ahead, allocated and zeroed,
//! so that a full disk refuses work early instead of failing late. What a crash may leave is judged in `recover.rs`.

pub mod batch;
mod codec;
mod error;
mod foreign;
mod identity;
mod keeper;
mod lane;
mod map;
mod names;
mod reader;
pub mod record;
mod recover;
mod segment;
mod stock;
mod writer;

#[cfg(test)]
mod tests;

pub use batch::{Batch, FoldError, Row};
pub use error::OpenError;
pub use foreign::Foreign;
pub use names::Names;
pub use reader::Reader;
pub use record::{Draft, Outcome, Record};
pub use writer::{Full, LocalWriter, Slot, Writer};

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use error::At;
use identity::History;
use keeper::{Bell, Home, Trouble};
use lane::{Durable, Keep, Lane, Place};
use segment::Access;

use crate::units::NodeId;

/// Where the journal lies and how hard it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory, one node's alone (`flock`ed); losing it makes a new node.
    pub path: PathBuf,
    /// When records reach the disk itself.
    pub sync: Sync,
    /// Flushed segments are kept at least so long, while the disk has room …
    pub keep: Duration,
    /// … but never more than so many bytes of them.
    pub keep_bytes: u64,
    /// Records per segment file (64 bytes each), preallocated.
    pub segment_records: u32,
}

/// When records reach the disk itself; they survive SIGKILL either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// `fdatasync` at this interval: a power cut loses at most so much.
    Every(Duration),
    /// The last byte of a response waits for `fdatasync`.
    Strict,
}

impl Sync {
    /// How often the keeper syncs unasked.
    fn interval(self) -> Duration {
        match self {
            Self::Every(interval) => interval.max(Duration::from_millis(1)),
            Self::Strict => Duration::from_millis(50),
        }
    }
}

/// Whether the journal can take records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Ok,
    /// There is no room and no space for more: metered work is refused until there is.
    Full,
    /// The disk answers with errors: records cannot be synced or segments not made. Tried again by itself.
    Failing,
}

/// The journal was closed before the record was known to be on the disk itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal was closed")]
pub struct Closed;

/// This node's journal. Dropping it syncs once more and ends its thread; the directory stays locked until the last
/// writer is gone too.
pub struct Journal {
    home: Arc<Home>,
    keep: Duration,
    keep_bytes: u64,
    keeper: Option<JoinHandle<()>>,
}

const MOST_SEGMENT_RECORDS: u32 = 16 * 1024 * 1024;

impl Journal {
    /// Opens the journal at `config.path`, or makes it: takes the lock, checks and repairs what the last run left, syncs
    /// it, and counts this start. Blocks on the disk, and needs a few bytes of it.
    ///
    /// # Errors
    /// Everything that a person should look at before records are added; see [`OpenError`].
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        if config.segment_records == 0 || config.segment_records > MOST_SEGMENT_RECORDS {
            return Err(OpenError::SegmentSize(config.segment_records));
        }
        let home = Arc::new(open_home(config)?);
        let interval = config.sync.interval();
        let thread = {
            let home = Arc::clone(&home);
            std::thread::Builder::new().name("journal".to_owned()).spawn(move || keeper::keep(&home, interval))
        };
        let keeper = thread.at(&config.path)?;
        home.bell.answer_with(keeper.thread().clone());
        Ok(Self { home, keep: config.keep, keep_bytes: config.keep_bytes, keeper: Some(keeper) })
    }

    /// Opens another node's journal to read it, or a copy of one; see [`Foreign`].
    ///
    /// # Errors
    /// As [`Journal::open`], and for a directory that is not a journal.
    pub fn open_foreign(path: &Path) -> Result<Foreign, OpenError> {
        Foreign::open(path)
    }

    /// This node.
    pub fn node(&self) -> &NodeId {
        &self.home.node
    }

    /// How often this journal was opened, this time included; on the disk before [`Journal::open`] returned.
    pub fn boot(&self) -> u32 {
        self.home.boot
    }

    /// Meters' and routes' names.
    pub fn names(&self) -> &Names {
        &self.home.names
    }

    /// Every worker that has a journal here, also those that have no writer any more.
    pub fn workers(&self) -> Vec<u16> {
        self.home.lanes().iter().map(|lane| lane.worker).collect()
    }

    /// The writer of a worker's journal, once per worker and process; a new worker gets a directory. It goes on after
    /// the last record, and never below `flushed_seq`, what the ledger has counted of this journal. Blocks on the disk;
    /// a full disk is no error here, but refuses at the first reservation.
    ///
    /// # Errors
    /// [`OpenError::Taken`], [`OpenError::Missing`] if uncounted records are gone, or what the disk said.
    pub fn writer(&self, worker: u16, flushed_seq: u64) -> Result<Writer, OpenError> {
        let lane = self.lane_or_new(worker)?;
        lane.claim(flushed_seq)?;
        match lane.stock(Instant::now()) {
            Ok(()) => {}
            Err(error) if keeper::is_no_space(&error) => self.home.bell.ring(),
            Err(source) => return Err(OpenError::Io { path: lane.dir().to_owned(), source }),
        }
        Ok(Writer::new(lane, Arc::clone(&self.home)))
    }

    fn lane_or_new(&self, worker: u16) -> Result<Arc<Lane>, OpenError> {
        let mut lanes = self.home.lanes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&worker) {
            return Ok(Arc::clone(lane));
        }
        let dir = identity::worker_dir(&self.home.dir, worker);
        std::fs::create_dir(&dir).at(&dir)?;
        segment::sync_dir(&self.home.dir).at(&self.home.dir)?;
        let place = Place { dir, node: &self.home.node, worker, segment_records: self.home.segment_records };
        let lane = Arc::new(Lane::new(place, None));
        lanes.insert(worker, Arc::clone(&lane));
        Ok(lane)
    }

    /// Reads a worker's records from its files; needs no writer. A worker without a journal has no records.
    pub fn reader(&self, worker: u16) -> Reader {
        Reader::new(identity::worker_dir(&self.home.dir, worker), self.home.node.clone(), worker)
    }

    /// The last record of `worker` that is on the disk itself; 0 if there is none.
    pub fn durable(&self, worker: u16) -> u64 {
        self.lane(worker).map_or(0, |lane| lane.durable())
    }

    /// The last record of `worker` that SIGKILL cannot take any more; 0 if there is none.
    pub fn written(&self, worker: u16) -> u64 {
        self.lane(worker).map_or(0, |lane| lane.written())
    }

    /// Brings every record written so far to the disk itself. Blocks on the disk.
    ///
    /// # Errors
    /// What the disk said; the records are tried again with the next sync.
    pub fn sync(&self) -> io::Result<()> {
        self.home.sync()
    }

    /// Resolves when record `seq` of `worker` is on the disk itself; asks for a sync at once, shared with everybody
    /// who asks meanwhile. Works on any runtime. Callers set the deadline.
    ///
    /// # Errors
    /// [`Closed`] when nobody will sync it any more, or there is no such worker.
    pub async fn wait_durable(&self, worker: u16, seq: u64) -> Result<(), Closed> {
        let lane = self.lane(worker).ok_or(Closed)?;
        if lane.durable() < seq {
            self.home.bell.ring_for_sync();
        }
        wait_until(lane.watch(), seq).await
    }

    /// Deletes the oldest segments of `worker` of which every record is counted (`<= flushed_seq`, read back from SQL), while
    /// their records are older than `keep`, or segments take more than this worker's share of `keep_bytes`. Never the
    /// segment with the last record. How many were deleted. Blocks on the disk.
    ///
    /// # Errors
    /// What the disk said; some may have been deleted.
    pub fn trim(&self, worker: u16, flushed_seq: u64, now_ms: i64) -> io::Result<u64> {
        let Some(lane) = self.lane(worker) else { return Ok(0) };
        let workers = u64::try_from(self.home.lanes().len().max(1)).map_err(io::Error::other)?;
        let keep_ms = i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX);
        let keep = Keep { not_before_ms: now_ms.saturating_sub(keep_ms), bytes: self.keep_bytes / workers };
        lane.trim(flushed_seq, keep)
    }

    /// Whether the journal can take records.
    pub fn health(&self) -> Health {
        self.home.health()
    }

    fn lane(&self, worker: u16) -> Option<Arc<Lane>> {
        self.home.lanes.read().unwrap_or_else(PoisonError::into_inner).get(&worker).map(Arc::clone)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.home.bell.ring_to_stop();
        if self.keeper.take().is_some_and(|keeper| keeper.join().is_err()) {
            tracing::error!(journal = %self.home.dir.display(), "the journal's thread had panicked");
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("dir", &self.home.dir).field("node", &self.home.node).finish_non_exhaustive()
    }
}

/// Resolves when `seq` is durable, or nobody will make it so any more.
async fn wait_until(mut durable: watch::Receiver<Durable>, seq: u64) -> Result<(), Closed> {
    let now = durable.wait_for(|durable| durable.seq >= seq || durable.ended).await.map_err(|_| Closed)?;
    if now.seq >= seq { Ok(()) } else { Err(Closed) }
}

fn open_home(config: &Config) -> Result<Home, OpenError> {
    let dir = config.path.clone();
    make_dir(&dir)?;
    // Before the lock leaves its file in somebody else's directory.
    identity::workers(&dir)?;
    let lock = identity::lock(&dir)?;
    let workers = identity::workers(&dir)?;
    let history = if workers.is_empty() { History::New } else { History::Old };
    let node = identity::node(&dir, history)?;
    let names = Names::open(&dir.join(identity::NAMES))?;
    let cache = identity::page_cache(&dir)?;
    let mut lanes = BTreeMap::new();
    for (worker, path) in workers {
        let survey = recover::survey(&path, &node, worker, Access::Own, cache)?.repair(&path)?;
        let place = Place { dir: path, node: &node, worker, segment_records: config.segment_records };
        lanes.insert(worker, Arc::new(Lane::new(place, Some(survey))));
    }
    identity::note_kernel(&dir)?;
    // Last, and it syncs the directory: everything made above is in it.
    let boot = identity::count_boot(&dir, history)?;
    Ok(Home {
        dir,
        _lock: lock,
        node,
        boot,
        segment_records: config.segment_records,
        names,
        lanes: RwLock::new(lanes),
        bell: Bell::default(),
        trouble: Mutex::new(Trouble::default()),
    })
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(dir).at(dir)?;
    match dir.canonicalize().at(dir)?.parent() {
        Some(parent) => segment::sync_dir(parent).at(parent),
        None => Ok(()),
    }
}
