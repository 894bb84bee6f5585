//! Records of finished exchanges on this node's disk: what SIGKILL cannot take, and batches of them for the ledger.

pub mod batch;
pub mod record;

pub use batch::{Batch, Row};
pub use record::{Outcome, Record};

use std::path::PathBuf;
use std::time::Duration;

/// Where the journal lies and how hard it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory, one node's alone (`flock`ed); losing it makes a new node.
    pub path: PathBuf,
    /// When records reach the disk itself.
    pub sync: Sync,
    /// Flushed segments are kept at least so long …
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
