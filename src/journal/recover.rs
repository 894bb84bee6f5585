//! Opening one worker's journal after whatever ended the last run: find the valid prefix, judge what lies behind it.
//!
//! A killed process leaves the page cache intact and writes its records in order: at most the last record is torn, and
//! nothing follows it. A power cut may drop any page written since the last sync, so there may be holes above the
//! segments' marks, with whole records behind them. The two are told apart by the kernel's boot id, kept in the journal's
//! directory: under the same one a hole is damage, and damage is never skipped. Records up to a mark must be whole in any case.
//!
//! Nothing above the last sync was ever told to the ledger, so the rest behind a power cut's hole can be dropped; it is
//! counted and logged.

use std::io;
use std::path::Path;

use super::codec::{Content, Origin};
use super::error::{At, OpenError};
use super::segment::{self, Access, Segment, offset_of};
use crate::units::NodeId;

/// Whether the kernel that took the last records is still running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageCache {
    /// It is: whatever was stored is there, in order.
    Intact,
    /// It is not, or nobody knows: only synced records are certain.
    MaybeLost,
}

/// One worker's journal, judged but not yet changed.
#[derive(Debug)]
pub(super) struct Survey {
    /// All segments, in order.
    pub(super) segments: Vec<Segment>,
    /// The last record of the valid prefix; 0 if there never was one.
    pub(super) last_seq: u64,
    /// Whole records behind a hole, which are given up.
    pub(super) dropped: u64,
    /// Bytes behind the prefix that are not zero.
    pub(super) garbage: u64,
    /// Where the prefix lies; `None` without any segment.
    prefix: Option<Prefix>,
}

/// The valid prefix of the last unbroken run of segments.
#[derive(Clone, Copy, Debug)]
struct Prefix {
    /// Index of the run's first segment.
    start: usize,
    /// Index of the segment that it ends in.
    index: usize,
    /// Filled slots of that segment.
    filled: u32,
}

/// Reads one worker's journal in `dir` and finds the valid prefix.
pub(super) fn survey(
    dir: &Path,
    node: &NodeId,
    worker: u16,
    access: Access,
    cache: PageCache,
) -> Result<Survey, OpenError> {
    let segments = segment::list(dir, node, worker, access)?;
    let Some(start) = last_run(&segments) else {
        return Ok(Survey { segments, last_seq: 0, dropped: 0, garbage: 0, prefix: None });
    };
    let prefix = prefix(&segments, start).at(dir)?;
    let last_seq = segments[prefix.index].header.first_seq + u64::from(prefix.filled) - 1;
    let (dropped, garbage) = behind(&segments[prefix.index..], prefix.filled).at(dir)?;
    let survey = Survey { segments, last_seq, dropped, garbage, prefix: Some(prefix) };
    survey.judge(prefix, cache)?;
    Ok(survey)
}

/// Where the last unbroken run of segments begins: what lies before a jump was counted long ago.
fn last_run(segments: &[Segment]) -> Option<usize> {
    let jump = segments.iter().rposition(|segment| segment.header.origin == Origin::Jumps);
    jump.or(if segments.is_empty() { None } else { Some(0) })
}

/// Where the valid prefix ends.
fn prefix(segments: &[Segment], start: usize) -> io::Result<Prefix> {
    let mut end = Prefix { start, index: start, filled: 0 };
    for (index, segment) in segments.iter().enumerate().skip(start) {
        let filled = filled(segment)?;
        if filled > 0 {
            end = Prefix { start, index, filled };
        }
        if filled < segment.header.records {
            break;
        }
    }
    Ok(end)
}

/// Slots with whole records, from the first on. A segment whose mark says "all synced" is not read again.
fn filled(segment: &Segment) -> io::Result<u32> {
    if segment.mark == segment.header.last_seq() && segment.has_all_bytes()? {
        return Ok(segment.header.records);
    }
    let mut slots = segment.slots(0, u32::MAX)?;
    while let Some((index, _, content)) = slots.next()? {
        if !matches!(content, Content::Record(_)) {
            return Ok(index);
        }
    }
    Ok(segment.header.records)
}

/// What lies behind the first `filled` slots: whole records, and bytes that are not zero.
fn behind(segments: &[Segment], filled: u32) -> io::Result<(u64, u64)> {
    let (mut records, mut bytes) = (0, 0);
    for (index, segment) in segments.iter().enumerate() {
        let mut slots = segment.slots(if index == 0 { filled } else { 0 }, u32::MAX)?;
        while let Some((_, slot, content)) = slots.next()? {
            records += u64::from(matches!(content, Content::Record(_)));
            bytes += slot.iter().map(|byte| u64::from(*byte != 0)).sum::<u64>();
        }
    }
    Ok((records, bytes))
}

impl Survey {
    /// Refuses damage that the end of the last run cannot explain.
    fn judge(&self, prefix: Prefix, cache: PageCache) -> Result<(), OpenError> {
        let marked = self.segments[prefix.start..].iter().map(|segment| segment.mark).max().unwrap_or(0);
        let next = self.last_seq + 1;
        if self.last_seq < marked {
            return Err(self.corrupt(prefix, format!("record {next} is not whole, but {marked} had been synced")));
        }
        if self.dropped > 0 && cache == PageCache::Intact {
            let detail = format!(
                "record {next} is not whole, but {} records behind it are. If this disk was detached while the machine was \
                 running, delete the file `kernel` in the journal's directory: the records before the hole are then kept",
                self.dropped
            );
            return Err(self.corrupt(prefix, detail));
        }
        Ok(())
    }

    fn corrupt(&self, prefix: Prefix, detail: String) -> OpenError {
        let full = prefix.filled == self.segments[prefix.index].header.records;
        let next = self.segments.get(prefix.index + 1).filter(|_| full);
        let (segment, slot) = match next {
            Some(next) => (next, 0),
            None => (&self.segments[prefix.index], prefix.filled),
        };
        OpenError::Corrupt { path: segment.path.clone(), offset: offset_of(slot), detail }
    }

    /// Makes the disk say what the survey found: nothing behind the prefix, and the prefix really on the disk.
    ///
    /// A crash in here changes nothing: the next survey finds the same prefix.
    pub(super) fn repair(mut self, dir: &Path) -> Result<Self, OpenError> {
        let Some(prefix) = self.prefix else { return Ok(self) };
        self.report(dir);
        self.drop_following(dir, prefix)?;
        let last = &self.segments[prefix.index];
        clear_behind(last, prefix.filled).at(&last.path)?;
        for segment in &self.segments[prefix.start..=prefix.index] {
            settle(segment, self.last_seq).at(&segment.path)?;
        }
        Ok(self)
    }

    fn report(&self, dir: &Path) {
        if self.garbage > 0 {
            tracing::warn!(
                journal = %dir.display(),
                last_seq = self.last_seq,
                bytes = self.garbage,
                records = self.dropped,
                "cleared what an unfinished write or a power cut left behind the last whole record"
            );
        }
    }

    /// Segments behind a hole that hold anything go, last first, so that what stays is always one run. Empty ones are spares.
    fn drop_following(&mut self, dir: &Path, prefix: Prefix) -> Result<(), OpenError> {
        let following = prefix.index + 1;
        if behind(&self.segments[following..], 0).at(dir)?.1 == 0 {
            return Ok(());
        }
        for segment in self.segments.drain(following..).rev() {
            std::fs::remove_file(&segment.path).at(&segment.path)?;
            segment::sync_dir(dir).at(dir)?;
        }
        Ok(())
    }

    /// The segments that are done with, and those to write in: the one with room behind the last record, and spares.
    pub(super) fn into_parts(self) -> (Vec<Segment>, Vec<(Segment, u32)>) {
        let Some(prefix) = self.prefix else { return (self.segments, Vec::new()) };
        let mut done = self.segments;
        let mut open: Vec<_> = done.split_off(prefix.index).into_iter().map(|segment| (segment, 0)).collect();
        open[0].1 = prefix.filled;
        if open[0].1 == open[0].0.header.records {
            done.push(open.remove(0).0);
        }
        (done, open)
    }

    /// The first record of the unbroken run that ends with `last_seq`; `None` without any segment.
    pub(super) fn first_seq(&self) -> Option<u64> {
        self.prefix.map(|prefix| self.segments[prefix.start].header.first_seq)
    }
}

/// Zeros from the last whole record to the end, also where the file had become too short.
fn clear_behind(segment: &Segment, filled: u32) -> io::Result<()> {
    if segment.has_all_bytes()? && behind(std::slice::from_ref(segment), filled)?.1 == 0 {
        return Ok(());
    }
    let file = segment.writable()?;
    segment::zero(&file, offset_of(filled), segment.bytes())?;
    file.sync_all()
}

/// Carries the segment's records that may not have been synced to the disk, and notes that they are.
fn settle(segment: &Segment, last_seq: u64) -> io::Result<()> {
    let last = last_seq.min(segment.header.last_seq());
    if last < segment.header.first_seq || segment.mark >= last {
        return Ok(());
    }
    let file = segment.writable()?;
    let filled = u32::try_from(last + 1 - segment.header.first_seq).map_err(io::Error::other)?;
    segment::rewrite(&file, 0, filled)?;
    file.sync_data()?;
    segment::write_mark(&file, last)
}
