//! Reading a worker's records back from its files, with or without a writer at work on them.

use std::io;
use std::path::PathBuf;

use super::codec::Content;
use super::record::Record;
use super::segment::{self, Segment};
use crate::units::NodeId;

/// A worker's records, read from its segments. Holds one segment's header, and no lock.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    node: NodeId,
    worker: u16,
    current: Option<Segment>,
}

impl Reader {
    pub(super) fn new(dir: PathBuf, node: NodeId, worker: u16) -> Self {
        Self { dir, node, worker, current: None }
    }

    /// The records `from..=to` in order, at most `max` of them; fewer where the journal ends. Blocks on the disk.
    ///
    /// With a writer at work, `to` is a sequence number known to be written.
    ///
    /// # Errors
    /// `NotFound` if record `from` has been trimmed, `InvalidData` with file and record if one is damaged, or what the
    /// disk said. A gap is never passed over.
    pub fn read(&mut self, from: u64, to: u64, max: usize) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut next = from.max(1);
        while records.len() < max && next <= to && self.find(next)? {
            let room = u64::try_from(max - records.len()).unwrap_or(u64::MAX);
            let wanted = room.min(to - next + 1);
            let before = records.len();
            self.read_segment(next, wanted, &mut records)?;
            if records.len() == before {
                break;
            }
            next = records.last().map_or(next, |record| record.seq + 1);
        }
        Ok(records)
    }

    /// Makes the segment with record `seq` the current one; `false` if the journal does not reach so far.
    fn find(&mut self, seq: u64) -> io::Result<bool> {
        if self.current.as_ref().is_some_and(|segment| segment.slot_of(seq).is_some()) {
            return Ok(true);
        }
        let starts = segment::starts(&self.dir)?;
        let behind = starts.partition_point(|(first_seq, _)| *first_seq <= seq);
        let Some((_, path)) = behind.checked_sub(1).map(|index| &starts[index]) else {
            return if starts.is_empty() { Ok(false) } else { Err(self.gone(seq)) };
        };
        let segment = segment::open(path.clone(), &self.node, self.worker).map_err(io::Error::other)?;
        let found = segment.slot_of(seq).is_some();
        if !found && behind < starts.len() {
            return Err(self.gone(seq));
        }
        self.current = Some(segment).filter(|_| found);
        Ok(found)
    }

    fn read_segment(&self, from: u64, wanted: u64, records: &mut Vec<Record>) -> io::Result<()> {
        let Some((segment, slot)) = self.current.as_ref().and_then(|segment| Some((segment, segment.slot_of(from)?)))
        else {
            return Ok(());
        };
        let mut slots = segment.slots(slot, u32::try_from(wanted).unwrap_or(u32::MAX))?;
        while let Some((slot, _, content)) = slots.next()? {
            match content {
                Content::Record(record) => records.push(record),
                Content::Empty => break,
                Content::Bad => return Err(damaged(segment, slot)),
            }
        }
        Ok(())
    }

    fn gone(&self, seq: u64) -> io::Error {
        let message = format!("record {seq} of worker {} is not in {} any more", self.worker, self.dir.display());
        io::Error::new(io::ErrorKind::NotFound, message)
    }
}

fn damaged(segment: &Segment, slot: u32) -> io::Error {
    let seq = segment.header.first_seq + u64::from(slot);
    let message = format!("{}: record {seq} at byte {} is damaged", segment.path.display(), segment::offset_of(slot));
    io::Error::new(io::ErrorKind::InvalidData, message)
}
