//! The keeper: one thread per journal that syncs what was written and makes segments ahead.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::Health;
use super::lane::Lane;
use super::names::Names;
use crate::units::NodeId;

/// A full or failing disk is tried again at this pace.
const RETRY: Duration = Duration::from_millis(250);

/// What the journal, its writers and its keeper share.
pub(super) struct Home {
    pub(super) dir: PathBuf,
    /// Locked for as long as anybody holds this.
    pub(super) _lock: File,
    pub(super) node: NodeId,
    pub(super) boot: u32,
    pub(super) segment_records: u32,
    pub(super) names: Names,
    pub(super) lanes: RwLock<BTreeMap<u16, Arc<Lane>>>,
    pub(super) bell: Bell,
    pub(super) trouble: Mutex<Trouble>,
}

/// How the keeper is called.
#[derive(Default)]
pub(super) struct Bell {
    keeper: OnceLock<Thread>,
    wants_sync: AtomicBool,
    stop: AtomicBool,
}

impl Bell {
    /// Looks after the stock of segments now.
    pub(super) fn ring(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.unpark();
        }
    }

    /// Syncs now. Everybody who asks before it begins is served by the same one.
    pub(super) fn ring_for_sync(&self) {
        self.wants_sync.store(true, Ordering::Release);
        self.ring();
    }

    /// Syncs once more and ends.
    pub(super) fn ring_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    pub(super) fn answer_with(&self, keeper: Thread) {
        self.keeper.get_or_init(|| keeper);
    }
}

/// What does not work at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    making: Option<Cause>,
    syncing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    NoSpace,
    Other,
}

impl Home {
    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    pub(super) fn health(&self) -> Health {
        let trouble = *self.trouble();
        let refusing = self.lanes().iter().any(|lane| lane.is_refusing());
        match trouble {
            Trouble { syncing: true, .. } | Trouble { making: Some(Cause::Other), .. } => Health::Failing,
            Trouble { making: Some(Cause::NoSpace) | None, .. } if refusing => Health::Full,
            Trouble { making: Some(Cause::NoSpace) | None, .. } => Health::Ok,
        }
    }

    /// Syncs every lane; the first error, after all have been tried.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut result = Ok(());
        for lane in self.lanes() {
            result = result.and(lane.sync());
        }
        self.note_sync(result.as_ref().err());
        result
    }

    fn note_sync(&self, error: Option<&io::Error>) {
        let mut trouble = self.trouble();
        match error {
            Some(error) if !trouble.syncing => {
                tracing::error!(journal = %self.dir.display(), %error, "the journal cannot be synced; metered work is refused");
            }
            None if trouble.syncing => tracing::info!(journal = %self.dir.display(), "the journal can be synced again"),
            Some(_) | None => {}
        }
        trouble.syncing = error.is_some();
    }

    /// Makes segments where room runs short; the first error, after all lanes have been tried.
    pub(super) fn stock(&self, now: Instant) -> io::Result<()> {
        let mut result = Ok(());
        for lane in self.lanes() {
            result = result.and(lane.stock(now));
        }
        self.note_stock(result.as_ref().err());
        result
    }

    fn note_stock(&self, error: Option<&io::Error>) {
        let mut trouble = self.trouble();
        let cause = error.map(cause_of);
        match error {
            Some(error) if trouble.making != cause => {
                tracing::error!(
                    journal = %self.dir.display(),
                    %error,
                    "no segment can be made; metered work is refused when the ready ones are full"
                );
            }
            None if trouble.making.is_some() => {
                tracing::info!(journal = %self.dir.display(), "the journal has room again");
            }
            Some(_) | None => {}
        }
        trouble.making = cause;
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cause_of(error: &io::Error) -> Cause {
    if is_no_space(error) { Cause::NoSpace } else { Cause::Other }
}

/// Whether there is no room on the disk, or none allowed to us.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Runs until the bell says stop: syncs at least every `interval` and whenever asked, and keeps segments ready.
pub(super) fn keep(home: &Home, interval: Duration) {
    let mut sync_at = Instant::now() + interval;
    let mut retry_at: Option<Instant> = None;
    loop {
        let wake_at = retry_at.map_or(sync_at, |retry_at| retry_at.min(sync_at));
        std::thread::park_timeout(wake_at.saturating_duration_since(Instant::now()));
        let stopping = home.bell.stop.load(Ordering::Acquire);
        if home.bell.wants_sync.swap(false, Ordering::AcqRel) || stopping || Instant::now() >= sync_at {
            sync_at = Instant::now() + if home.sync().is_ok() { interval } else { interval.max(RETRY) };
        }
        if stopping {
            break;
        }
        if retry_at.is_none_or(|retry_at| Instant::now() >= retry_at) {
            retry_at = home.stock(Instant::now()).is_err().then(|| Instant::now() + RETRY);
        }
    }
    home.lanes().iter().for_each(|lane| lane.end());
}
