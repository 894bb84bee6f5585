//! One worker's journal, as its writer, the keeper and everybody else share it: how far it is written, how far it is
//! synced, how much room is ready, and the files.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::codec::{Content, Header, Origin};
use super::error::{At, OpenError};
use super::map::{Cursor, Map};
use super::recover::Survey;
use super::segment::{self, Fresh, Segment};
use super::stock::Rate;
use crate::testing::crash_point;
use crate::units::NodeId;

/// However much is promised to exchanges in flight, so many segments are the most that wait ahead of a writer.
const MOST_PROMISED_SEGMENTS: u64 = 64;

/// One worker's journal.
pub(super) struct Lane {
    pub(super) worker: u16,
    dir: PathBuf,
    node: NodeId,
    segment_records: u32,
    has_writer: AtomicBool,
    /// Last record that is complete in the page cache.
    written: AtomicU64,
    /// Last record that segments are ready for; 0 while the disk fails.
    limit: AtomicU64,
    /// A reservation was refused and no room has come since …
    refused: AtomicBool,
    /// … and this many records were promised or asked for then.
    short_of: AtomicU64,
    durable: watch::Sender<Durable>,
    /// Ready segments, in order; their number is bounded by what `stock` asks for. Locked once per segment by the writer.
    spares: Mutex<VecDeque<Spare>>,
    files: Mutex<Files>,
}

/// How far a worker's journal is on the disk itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Durable {
    pub(super) seq: u64,
    /// Nobody syncs any more: the journal was closed.
    pub(super) ended: bool,
}

/// A segment for the writer to go on in.
pub(super) struct Spare {
    pub(super) cursor: Cursor,
    pub(super) salt: u32,
}

struct Files {
    /// Everything on disk, in order, from the oldest kept segment to the last spare.
    known: VecDeque<Segment>,
    /// Mapped, and not yet written and synced to the end.
    live: VecDeque<Live>,
    /// Found at opening, to be mapped when a writer comes; with their filled slots.
    found: Vec<(Segment, u32)>,
    /// Where the next segment begins.
    next_first: u64,
    /// Where the unbroken run of records begins.
    run_first: Option<u64>,
    /// The next segment's place in the run.
    origin: Origin,
    /// A sync failed: what it should have carried must be written again.
    suspect: bool,
    rate: Rate,
}

/// A mapped segment, kept so until it is written and synced to the end; so it is never unmapped by the writer's thread.
struct Live {
    segment: Segment,
    file: File,
    map: Arc<Map>,
}

impl Live {
    fn first_seq(&self) -> u64 {
        self.segment.header.first_seq
    }

    fn last_seq(&self) -> u64 {
        self.segment.header.last_seq()
    }
}

/// Where a journal lies and what its segments are like.
pub(super) struct Place<'a> {
    pub(super) dir: PathBuf,
    pub(super) node: &'a NodeId,
    pub(super) worker: u16,
    pub(super) segment_records: u32,
}

impl Lane {
    /// The journal that `survey` found (and repaired) at `place`, or a new one.
    pub(super) fn new(place: Place<'_>, survey: Option<Survey>) -> Self {
        let last_seq = survey.as_ref().map_or(0, |survey| survey.last_seq);
        let run_first = survey.as_ref().and_then(Survey::first_seq);
        let (done, found) = survey.map(Survey::into_parts).unwrap_or_default();
        let files = Files {
            known: done.into(),
            live: VecDeque::new(),
            found,
            next_first: last_seq + 1,
            run_first,
            origin: Origin::Continues,
            suspect: false,
            rate: Rate::new(Instant::now(), last_seq),
        };
        Self {
            worker: place.worker,
            dir: place.dir,
            node: place.node.clone(),
            segment_records: place.segment_records,
            has_writer: AtomicBool::new(false),
            written: AtomicU64::new(last_seq),
            limit: AtomicU64::new(last_seq),
            refused: AtomicBool::new(false),
            short_of: AtomicU64::new(0),
            durable: watch::Sender::new(Durable { seq: last_seq, ended: false }),
            spares: Mutex::default(),
            files: Mutex::new(files),
        }
    }

    /// Gets the journal ready for its one writer, which goes on after the last record or after `flushed_seq`.
    pub(super) fn claim(&self, flushed_seq: u64) -> Result<(), OpenError> {
        let mut files = self.files();
        if let Some(first_seq) = files.run_first.filter(|first| flushed_seq + 1 < *first) {
            return Err(OpenError::Missing { worker: self.worker, flushed_seq, first_seq });
        }
        if self.has_writer.swap(true, Ordering::AcqRel) {
            return Err(OpenError::Taken(self.worker));
        }
        // After an error it stays claimed: the files are in an unknown state, and opening again sorts them out.
        self.prepare(&mut files, flushed_seq).at(&self.dir)
    }

    fn prepare(&self, files: &mut Files, flushed_seq: u64) -> io::Result<()> {
        if flushed_seq > self.written() {
            self.jump(files, flushed_seq)?;
        }
        for (segment, filled) in std::mem::take(&mut files.found) {
            let file = segment.writable()?;
            let (map, cursor) = Map::open(&file, segment.header.records, filled)?;
            self.add(files, Fresh { segment, file, map, cursor });
        }
        self.open_room(files);
        Ok(())
    }

    /// The ledger knows more records than this disk: an older copy of it. Their numbers must not be given out again.
    fn jump(&self, files: &mut Files, flushed_seq: u64) -> io::Result<()> {
        tracing::warn!(
            worker = self.worker,
            last_seq = self.written(),
            flushed_seq,
            "the ledger has counted records that this disk does not hold; going on behind them"
        );
        for (segment, filled) in std::mem::take(&mut files.found) {
            if filled > 0 {
                files.known.push_back(segment);
                continue;
            }
            std::fs::remove_file(&segment.path)?;
            segment::sync_dir(&self.dir)?;
        }
        files.next_first = flushed_seq + 1;
        files.run_first = Some(flushed_seq + 1);
        files.origin = Origin::Jumps;
        self.written.store(flushed_seq, Ordering::Release);
        self.durable.send_replace(Durable { seq: flushed_seq, ended: false });
        Ok(())
    }

    fn add(&self, files: &mut Files, fresh: Fresh) {
        files.next_first = fresh.segment.header.last_seq() + 1;
        files.origin = Origin::Continues;
        files.run_first.get_or_insert(fresh.segment.header.first_seq);
        files.known.push_back(fresh.segment.clone());
        let spare = Spare { cursor: fresh.cursor, salt: fresh.segment.salt };
        files.live.push_back(Live { segment: fresh.segment, file: fresh.file, map: fresh.map });
        self.spares().push_back(spare);
    }

    /// Tells the writer how far it may go. After the segments are in `spares`.
    fn open_room(&self, files: &Files) {
        let limit = if files.suspect { 0 } else { files.next_first - 1 };
        self.limit.store(limit, Ordering::Release);
        if limit > self.written() {
            self.refused.store(false, Ordering::Release);
        }
    }

    /// Makes segments until there is enough room ahead of the writer. What was made before an error stays.
    pub(super) fn stock(&self, now: Instant) -> io::Result<()> {
        if !self.has_writer.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut files = self.files();
        files.rate.observe(now, self.written());
        while files.next_first - 1 - self.written() < self.room_wanted(&files.rate) {
            let fresh = segment::create(&self.dir, self.next_header(&files)?)?;
            self.add(&mut files, fresh);
            self.open_room(&files);
        }
        self.short_of.store(0, Ordering::Release);
        self.open_room(&files);
        Ok(())
    }

    /// For the recent rate; more where many exchanges hold room at the same time.
    fn room_wanted(&self, rate: &Rate) -> u64 {
        let segment = u64::from(self.segment_records);
        let promised = self.short_of.load(Ordering::Acquire).saturating_add(segment);
        rate.room_wanted(self.segment_records).max(promised.min(segment * MOST_PROMISED_SEGMENTS))
    }

    fn next_header(&self, files: &Files) -> io::Result<Header> {
        let nonce = getrandom::u32().map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Header {
            node: self.node.clone(),
            worker: self.worker,
            records: self.segment_records,
            first_seq: files.next_first,
            origin: files.origin,
            nonce,
        })
    }

    /// Carries every record written so far to the disk itself. Callers that come meanwhile share the next one.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut files = self.files();
        let (written, durable) = (self.written(), self.durable());
        if written == durable {
            return Ok(());
        }
        crash_point("journal.before_sync");
        if let Err(error) = files.carry(durable + 1, written) {
            files.suspect = true;
            self.open_room(&files);
            return Err(error);
        }
        crash_point("journal.after_sync");
        files.suspect = false;
        self.open_room(&files);
        self.durable.send_modify(|durable| durable.seq = written);
        Ok(())
    }

    /// Deletes the oldest segments that the ledger has counted wholly, while they are too old or too many.
    pub(super) fn trim(&self, flushed_seq: u64, keep: Keep) -> io::Result<u64> {
        let mut files = self.files();
        // The segment with the last record stays: it is where the numbering goes on.
        let until = flushed_seq.min(self.written().saturating_sub(1)).min(self.durable());
        let mut kept: u64 = files.known.iter().map(Segment::bytes).sum();
        let mut deleted = 0;
        while let Some(oldest) = files.known.front()
            && oldest.header.last_seq() <= until
            && (kept > keep.bytes || is_older(oldest, keep.not_before_ms)?)
        {
            crash_point("trim.before");
            std::fs::remove_file(&oldest.path)?;
            // One by one, so that a power cut cannot take a younger segment and leave an older one.
            segment::sync_dir(&self.dir)?;
            crash_point("trim.after_one");
            kept -= oldest.bytes();
            deleted += 1;
            files.known.pop_front();
            files.run_first = files.known.front().map(|segment| segment.header.first_seq).max(files.run_first);
        }
        Ok(deleted)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable.borrow().seq
    }

    pub(super) fn watch(&self) -> watch::Receiver<Durable> {
        self.durable.subscribe()
    }

    /// Nobody will sync any more: whoever waits hears so.
    pub(super) fn end(&self) {
        self.durable.send_modify(|durable| durable.ended = true);
    }

    pub(super) fn is_refusing(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn set_written(&self, seq: u64) {
        self.written.store(seq, Ordering::Release);
    }

    /// Notes that room for `records` was wanted in all; whether it is the first refusal since there was room.
    pub(super) fn refuse(&self, records: u64) -> bool {
        self.short_of.store(records, Ordering::Release);
        !self.refused.swap(true, Ordering::AcqRel)
    }

    pub(super) fn take_spare(&self) -> Option<Spare> {
        self.spares().pop_front()
    }

    fn spares(&self) -> MutexGuard<'_, VecDeque<Spare>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    /// Syncs the segments that hold any of the records `from..=to`, and lets go of those that are done.
    fn carry(&mut self, from: u64, to: u64) -> io::Result<()> {
        let touched = || self.live.iter().filter(|live| live.first_seq() <= to && live.last_seq() >= from);
        for live in touched() {
            if self.suspect {
                live.write_again(from, to)?;
            }
            live.file.sync_data()?;
        }
        for live in touched() {
            live.map.mark(to.min(live.last_seq()));
        }
        // The writer is done with a segment when it has written behind it.
        self.live.retain(|live| live.last_seq() >= to);
        Ok(())
    }
}

impl Live {
    /// Writes the records `from..=to` over themselves: they are complete, so the writer touches none of these bytes.
    fn write_again(&self, from: u64, to: u64) -> io::Result<()> {
        let slot = |seq: u64| u32::try_from(seq - self.first_seq()).map_err(io::Error::other);
        let (from, to) = (from.max(self.first_seq()), to.min(self.last_seq()));
        segment::rewrite(&self.file, slot(from)?, slot(to)? + 1)
    }
}

/// What trimming leaves although it has been counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// Segments whose last record was admitted at this time or later, Unix milliseconds …
    pub(super) not_before_ms: i64,
    /// … but not more than so many bytes.
    pub(super) bytes: u64,
}

/// Whether the segment's last record was admitted before `not_before_ms`.
fn is_older(segment: &Segment, not_before_ms: i64) -> io::Result<bool> {
    let last = segment.slots(segment.header.records - 1, 1)?.next()?;
    Ok(match last {
        Some((_, _, Content::Record(record))) => record.at_ms < not_before_ms,
        // Numbering jumped over its rest; what it holds was counted before the jump.
        Some((_, _, Content::Empty | Content::Bad)) | None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::codec::encode;
    use crate::journal::record::{Draft, Outcome};
    use crate::units::{KeyNum, NameId, PeriodId, TenantNum};

    fn lane(dir: &Path) -> Lane {
        let node = NodeId("node_0123456789abcdef".into());
        let lane = Lane::new(Place { dir: dir.to_owned(), node: &node, worker: 0, segment_records: 16 }, None);
        lane.claim(0).expect("claimed");
        lane.stock(Instant::now()).expect("stocked");
        lane
    }

    fn write(lane: &Lane, count: u64) -> Spare {
        let draft = Draft {
            at_ms: 0,
            tenant: TenantNum(1),
            key: KeyNum::NONE,
            period: PeriodId(0),
            units: 1,
            meter: NameId(1),
            route: NameId(1),
            status: 200,
            outcome: Outcome::Completed,
            requests: 1,
        };
        let mut spare = lane.take_spare().expect("ready");
        for seq in 1..=count {
            if spare.cursor.is_full() {
                spare = lane.take_spare().expect("ready");
            }
            spare.cursor.push(&encode(&draft.at(seq), spare.salt));
            lane.set_written(seq);
        }
        spare
    }

    #[test]
    fn after_a_failed_sync_there_is_no_room_until_everything_was_written_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lane = lane(dir.path());
        write(&lane, 20);
        {
            let mut files = lane.files();
            files.suspect = true;
            lane.open_room(&files);
        }
        lane.stock(Instant::now()).expect("stocked");
        assert_eq!((lane.limit(), lane.durable()), (0, 0));
        lane.sync().expect("synced");
        assert_eq!((lane.durable(), lane.limit()), (20, 64));
    }

    #[test]
    fn promises_widen_the_room() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lane = lane(dir.path());
        assert_eq!(lane.limit(), 32);
        assert!(lane.refuse(40));
        assert!(!lane.refuse(41));
        lane.stock(Instant::now()).expect("stocked");
        assert!(!lane.is_refusing());
        assert_eq!(lane.limit(), 64);
    }

    #[test]
    fn mapped_segments_are_let_go_when_they_are_synced_to_the_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lane = lane(dir.path());
        write(&lane, 16);
        lane.sync().expect("synced");
        assert_eq!(lane.files().live.len(), 2, "the writer may still hold the full one");
        let mut next = lane.take_spare().expect("ready");
        next.cursor.push(&[1; 64]);
        lane.set_written(17);
        lane.sync().expect("synced");
        assert_eq!(lane.files().live.len(), 1);
    }

    #[test]
    fn a_segment_is_never_made_over_another() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let lane = lane(dir.path());
        lane.files().next_first = 1;
        lane.short_of.store(100, Ordering::Release);
        assert_eq!(lane.stock(Instant::now()).expect_err("refused").kind(), io::ErrorKind::AlreadyExists);
    }
}
