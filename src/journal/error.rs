//! Why a journal could not be opened, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// The journal cannot be used as it lies there. Nothing was changed that was not said in the log.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The configured segment size is outside `1..=16777216` records.
    #[error("segments of {0} records are not possible: 1 to 16777216 are allowed")]
    SegmentSize(u32),
    /// Another process works with this directory.
    #[error("{path} is in use by {holder}; every node needs a journal directory of its own", path = .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that says so in the lock file.
        holder: String,
    },
    /// Something that no journal puts here: probably the wrong directory.
    #[error("{path} does not belong to a journal; choose another directory or move it away", path = .path.display())]
    Foreign {
        /// The first such entry.
        path: PathBuf,
    },
    /// One of the small files (`id`, `boot`, `names`) is missing or not as it was written.
    #[error("{path}: {detail}; restore it, or move the whole directory away to begin as a new node", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Written by another version of Tollgate.
    #[error("{path} has format {version}, this version of Tollgate reads format 1", path = .path.display())]
    Version {
        /// The segment.
        path: PathBuf,
        /// Its format.
        version: u16,
    },
    /// Records are damaged that neither a killed process nor a power cut can damage. Needs a person: usage may be lost.
    #[error(
        "{path} is damaged at byte {offset}: {detail}; restore the file, or keep a copy of the directory and move it away",
        path = .path.display()
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// What was found and what was expected.
        detail: String,
    },
    /// Records that the ledger has not counted are not on this disk any more.
    #[error(
        "worker {worker}'s journal begins at record {first_seq}, but the ledger has counted only up to {flushed_seq}: \
         restore the missing segments, or move the directory away to begin as a new node"
    )]
    Missing {
        /// Whose journal.
        worker: u16,
        /// The ledger's last.
        flushed_seq: u64,
        /// The disk's first.
        first_seq: u64,
    },
    /// A second writer for one worker: a defect of the caller.
    #[error("worker {0}'s journal has a writer already")]
    Taken(u16),
}

/// Names the file in an I/O error.
pub(super) trait At<T> {
    /// The same, said about `path`.
    fn at(self, path: &Path) -> Result<T, OpenError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, OpenError> {
        self.map_err(|source| OpenError::Io { path: path.to_owned(), source })
    }
}
