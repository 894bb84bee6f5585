//! Appending: room is reserved before the origin is contacted, and a reserved record always goes in.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::codec::encode;
use super::keeper::{Bell, Home};
use super::lane::{Lane, Spare};
use super::record::Draft;
use super::{Closed, wait_until};
use crate::testing::crash_point;

/// No segment has room for another record: the disk is full or failing. Nothing was lost; it ends by itself when there
/// is space again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal has no room")]
pub struct Full;

/// The one writer of a worker's journal, on its way to the worker's thread.
#[derive(Debug)]
pub struct Writer {
    pen: Pen,
}

/// The writer on its thread: clones share it, and so do the [`Slot`]s of requests in flight.
#[derive(Clone, Debug)]
pub struct LocalWriter {
    pen: Rc<RefCell<Pen>>,
}

/// Room for the records of one exchange. Dropped without a commit, it gives the room back.
#[derive(Debug)]
#[must_use = "a slot that is dropped records nothing"]
pub struct Slot {
    pen: Rc<RefCell<Pen>>,
    room: u32,
}

struct Pen {
    lane: Arc<Lane>,
    /// Keeps the directory locked as long as anybody can write.
    home: Arc<Home>,
    spare: Option<Spare>,
    next_seq: u64,
    /// Records promised to slots that have not ended yet.
    reserved: u64,
}

impl Writer {
    pub(super) fn new(lane: Arc<Lane>, home: Arc<Home>) -> Self {
        let next_seq = lane.written() + 1;
        Self { pen: Pen { lane, home, spare: None, next_seq, reserved: 0 } }
    }

    /// Binds the writer to this thread, so that slots can outlive the call that made them.
    #[must_use]
    pub fn local(self) -> LocalWriter {
        LocalWriter { pen: Rc::new(RefCell::new(self.pen)) }
    }

    /// Reserves and commits at once, for callers that hold no slots (usage counted elsewhere). The last record's `seq`.
    ///
    /// # Errors
    /// [`Full`], with nothing written.
    pub fn append(&mut self, drafts: &[Draft]) -> Result<u64, Full> {
        let room = u32::try_from(drafts.len()).map_err(|_| Full)?;
        self.pen.reserve(room)?;
        Ok(self.pen.commit(room, drafts))
    }

    /// Resolves when record `seq` is on the disk itself; asks for a sync at once. Callers set the deadline.
    pub fn durable(&self, seq: u64) -> impl Future<Output = Result<(), Closed>> + use<> {
        self.pen.durable(seq)
    }
}

impl LocalWriter {
    /// Promises room for `records` records on allocated disk: the commit cannot fail. A few nanoseconds, no system call.
    ///
    /// # Errors
    /// [`Full`] when no segment is ready: refuse the request before the origin has worked.
    #[inline]
    pub fn reserve(&self, records: u32) -> Result<Slot, Full> {
        self.pen.borrow_mut().reserve(records)?;
        Ok(Slot { pen: Rc::clone(&self.pen), room: records })
    }

    /// Resolves when record `seq` is on the disk itself; asks for a sync at once. Callers set the deadline.
    pub fn durable(&self, seq: u64) -> impl Future<Output = Result<(), Closed>> + use<> {
        self.pen.borrow().durable(seq)
    }
}

impl Slot {
    /// Writes the records in the order given; what was reserved and not used is given back. The last record's `seq`.
    ///
    /// When it returns, SIGKILL cannot take them any more. A power cut can, until they are durable.
    ///
    /// # Panics
    /// With more drafts than were reserved: a defect of the caller.
    #[inline]
    pub fn commit(mut self, drafts: &[Draft]) -> u64 {
        let room = std::mem::take(&mut self.room);
        self.pen.borrow_mut().commit(room, drafts)
    }
}

impl Drop for Slot {
    #[inline]
    fn drop(&mut self) {
        if self.room > 0 {
            self.pen.borrow_mut().reserved -= u64::from(self.room);
        }
    }
}

impl Pen {
    #[inline]
    fn reserve(&mut self, records: u32) -> Result<(), Full> {
        let reserved = self.reserved + u64::from(records);
        if self.next_seq - 1 + reserved > self.lane.limit() {
            return Err(self.refuse(reserved));
        }
        self.reserved = reserved;
        Ok(())
    }

    #[cold]
    fn refuse(&self, records: u64) -> Full {
        if self.lane.refuse(records) {
            self.home.bell.ring();
        }
        Full
    }

    #[inline]
    fn commit(&mut self, room: u32, drafts: &[Draft]) -> u64 {
        assert!(drafts.len() <= usize::try_from(room).unwrap_or(usize::MAX), "room is reserved for every record");
        crash_point("journal.before_append");
        for draft in drafts {
            self.append(draft);
        }
        self.reserved -= u64::from(room);
        crash_point("journal.after_append");
        self.next_seq - 1
    }

    #[inline]
    fn append(&mut self, draft: &Draft) {
        let seq = self.next_seq;
        let spare = match &mut self.spare {
            Some(spare) if !spare.cursor.is_full() => spare,
            full @ (Some(_) | None) => full.insert(next_segment(&self.lane, &self.home.bell)),
        };
        spare.cursor.push(&encode(&draft.at(seq), spare.salt));
        self.next_seq = seq + 1;
        self.lane.set_written(seq);
    }

    fn durable(&self, seq: u64) -> impl Future<Output = Result<(), Closed>> + use<> {
        if self.lane.durable() < seq {
            self.home.bell.ring_for_sync();
        }
        wait_until(self.lane.watch(), seq)
    }
}

/// Once per segment: a lock nobody holds for long, and a wake-up for the keeper to make the next.
#[cold]
fn next_segment(lane: &Lane, bell: &Bell) -> Spare {
    let spare = lane.take_spare().expect("reserve counts only segments that are in the queue");
    bell.ring();
    spare
}

impl fmt::Debug for Pen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lane, home: _, spare: _, next_seq, reserved } = self;
        f.debug_struct("Pen")
            .field("worker", &lane.worker)
            .field("next_seq", next_seq)
            .field("reserved", reserved)
            .finish_non_exhaustive()
    }
}
