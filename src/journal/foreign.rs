//! Another node's journal, or a copy of one, read without touching it: for `journal ship`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::OpenError;
use super::identity::{self, History};
use super::names::Names;
use super::reader::Reader;
use super::recover::{self, PageCache};
use super::segment::Access;
use crate::units::NodeId;

/// A journal opened to be read only: nothing in its directory is changed, no start is counted, no lock is taken. Reading
/// one whose node is alive is harmless: it shows a prefix of what that node wrote.
#[derive(Debug)]
pub struct Foreign {
    dir: PathBuf,
    node: NodeId,
    names: Names,
    workers: BTreeMap<u16, Extent>,
}

#[derive(Clone, Copy, Debug)]
struct Extent {
    last_seq: u64,
    dropped: u64,
}

impl Foreign {
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        // A directory without workers is not "new" here: there is nothing to make, so a missing id is an error.
        let node = identity::node(dir, History::Old)?;
        let names = Names::open_read_only(&dir.join(identity::NAMES))?;
        let mut workers = BTreeMap::new();
        for (worker, path) in identity::workers(dir)? {
            let survey = recover::survey(&path, &node, worker, Access::ReadOnly, PageCache::MaybeLost)?;
            workers.insert(worker, Extent { last_seq: survey.last_seq, dropped: survey.dropped });
        }
        Ok(Self { dir: dir.to_owned(), node, names, workers })
    }

    /// Whose journal it is.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// That node's names: its numbers are not ours.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Its workers.
    pub fn workers(&self) -> Vec<u16> {
        self.workers.keys().copied().collect()
    }

    /// The last record of the valid prefix of `worker`; 0 if there is none.
    pub fn last(&self, worker: u16) -> u64 {
        self.workers.get(&worker).map_or(0, |extent| extent.last_seq)
    }

    /// Whole records of `worker` behind a hole, which cannot be counted; not 0 only after a power cut, or in a copy made
    /// while the node was writing.
    pub fn dropped(&self, worker: u16) -> u64 {
        self.workers.get(&worker).map_or(0, |extent| extent.dropped)
    }

    /// Reads a worker's records; up to [`Foreign::last`].
    pub fn reader(&self, worker: u16) -> Reader {
        Reader::new(identity::worker_dir(&self.dir, worker), self.node.clone(), worker)
    }
}
