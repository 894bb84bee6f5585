//! The one place with `unsafe`: a segment file mapped shared, one cursor that writes records, one mark beside them.
//!
//! What makes it sound, for every block below:
//! - The mapping covers `HEADER + slots * SLOT` bytes, checked against the file's length when it is made. Nobody shortens
//!   the file while it is mapped: the journal's directory is locked, and only whole, unmapped or fully synced files
//!   are deleted (deleting a mapped file leaves its pages).
//! - The blocks are allocated and zeroed before the file gets its name, so a store cannot meet a full disk.
//! - Memory is touched only through raw pointers, never through references, so the kernel and other readers of the
//!   file may look at it at any time. Records are written by the single [`Cursor`]; the mark is atomic.
#![expect(unsafe_code, reason = "records must be in the page cache before a response ends, without a system call")]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use memmap2::{MmapOptions, MmapRaw};

use super::codec::{SLOT, Slot};

/// Bytes before the first record: one slot of identity, one slot with the mark.
pub(super) const HEADER: usize = 2 * SLOT;
/// Where the mark lies: the number, then its complement.
pub(super) const MARK: usize = SLOT;

/// A mapped segment. Dropping the last handle unmaps it; the file stays.
pub(super) struct Map {
    raw: MmapRaw,
    slots: usize,
}

/// The one writer of a mapped segment: fills its slots in order.
pub(super) struct Cursor {
    map: Arc<Map>,
    next: usize,
}

impl Map {
    /// Maps `file`, which has room for `slots` records, of which the first `filled` are there already.
    ///
    /// The only way to a [`Cursor`], and each mapping makes one. Callers map a file once at a time.
    pub(super) fn open(file: &File, slots: u32, filled: u32) -> io::Result<(Arc<Self>, Cursor)> {
        let (slots, filled) = (to_usize(slots)?, to_usize(filled)?);
        let bytes = HEADER + slots * SLOT;
        if file.metadata()?.len() < u64::try_from(bytes).map_err(io::Error::other)? || filled > slots {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the segment is shorter than its header says"));
        }
        let raw = MmapOptions::new().len(bytes).populate().map_raw(file)?;
        let map = Arc::new(Self { raw, slots });
        let cursor = Cursor { map: Arc::clone(&map), next: filled };
        Ok((map, cursor))
    }

    /// Notes in the file that records up to `seq` are known to be on the disk itself. Reaches the disk with a later sync.
    pub(super) fn mark(&self, seq: u64) {
        self.word(MARK).store(seq, Ordering::Release);
        self.word(MARK + 8).store(!seq, Ordering::Release);
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: both callers pass an offset inside the header (`HEADER` bytes are mapped for as long as `self` lives),
        // a multiple of 8 from a page-aligned base, and these bytes are only ever accessed as atomics.
        unsafe { AtomicU64::from_ptr(self.raw.as_mut_ptr().add(at).cast()) }
    }
}

impl Cursor {
    /// Whether every slot is filled.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.next == self.map.slots
    }

    /// Puts `slot` into the next free place.
    ///
    /// # Panics
    /// When the segment is full: a defect of the caller, stopped before it writes outside the mapping.
    #[inline]
    pub(super) fn push(&mut self, slot: &Slot) {
        assert!(self.next < self.map.slots, "the caller moves on when a segment is full");
        // The record before this one is complete before any byte of this one is stored, on every machine:
        // whatever instant a SIGKILL picks, only the last record can be torn.
        fence(Ordering::Release);
        // SAFETY: `next < slots`, so the 64 bytes lie inside the mapping, which `self.map` keeps alive. This cursor is the
        // only writer of record bytes (`&mut self`, not `Clone`, one per mapping); source and target cannot overlap.
        unsafe {
            let place = self.map.raw.as_mut_ptr().add(HEADER + self.next * SLOT);
            std::ptr::copy_nonoverlapping(slot.as_ptr(), place, SLOT);
        }
        self.next += 1;
    }
}

fn to_usize(count: u32) -> io::Result<usize> {
    usize::try_from(count).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn file_of(bytes: usize) -> File {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(u64::try_from(bytes).expect("small")).expect("room");
        file
    }

    #[test]
    fn what_is_pushed_is_in_the_file_at_once() {
        let file = file_of(HEADER + 2 * SLOT);
        let (_map, mut cursor) = Map::open(&file, 2, 0).expect("mapped");
        cursor.push(&[1; SLOT]);
        cursor.push(&[2; SLOT]);
        assert!(cursor.is_full());
        let mut slot = [0; SLOT];
        file.read_exact_at(&mut slot, 128 + 64).expect("read");
        assert_eq!(slot, [2; SLOT]);
    }

    #[test]
    fn the_mark_lies_beside_the_records() {
        let file = file_of(HEADER + SLOT);
        let (map, _cursor) = Map::open(&file, 1, 0).expect("mapped");
        map.mark(77);
        let mut word = [0; 8];
        file.read_exact_at(&mut word, 64).expect("read");
        assert_eq!(u64::from_le_bytes(word), 77);
    }

    #[test]
    #[should_panic(expected = "moves on when a segment is full")]
    fn a_full_segment_is_never_written_past_its_end() {
        let (_map, mut cursor) = Map::open(&file_of(HEADER + SLOT), 1, 1).expect("mapped");
        cursor.push(&[1; SLOT]);
    }

    #[test]
    fn a_short_file_is_refused() {
        assert!(Map::open(&file_of(HEADER), 1, 0).is_err());
    }
}
