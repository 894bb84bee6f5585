//! Segment files: how they are named, made, listed and read. A segment is one header and a fixed number of slots.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::codec::{Content, Header, HeaderError, Origin, SLOT, Slot, decode};
use super::error::{At, OpenError};
use super::map::{Cursor, HEADER, MARK, Map};
use crate::units::NodeId;

/// Slots read or zeroed at a time: 64 KiB.
const CHUNK_SLOTS: usize = 1024;

/// A segment as it lies on disk. Holds no file handle: there may be thousands of them.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) header: Header,
    /// Of its records' checksums.
    pub(super) salt: u32,
    /// Records up to this one are known to be on the disk itself; 0 if nothing is known. May lag behind.
    pub(super) mark: u64,
}

/// A segment that has just been made: mapped, empty, ready to be written.
pub(super) struct Fresh {
    pub(super) segment: Segment,
    pub(super) file: File,
    pub(super) map: Arc<Map>,
    pub(super) cursor: Cursor,
}

/// Offset of a segment's slot, in bytes.
pub(super) fn offset_of(slot: u32) -> u64 {
    let header = u64::try_from(HEADER).unwrap_or(u64::MAX);
    let size = u64::try_from(SLOT).unwrap_or(u64::MAX);
    header + u64::from(slot) * size
}

/// Makes the directory's own entries durable, after files in it were made, renamed or deleted.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The file name of the segment that begins at `first_seq`.
fn file_name(first_seq: u64) -> String {
    format!("{first_seq:020}.seg")
}

/// Makes a segment in `dir`: blocks allocated and zeroed, header synced, and only then given its name.
///
/// A full disk is an error here (and leaves nothing behind), never a fault on a later store. Zeros are really written,
/// not only promised by `fallocate`: file systems that copy on write keep no such promise, and syncs of blocks that
/// were written before touch no metadata.
pub(super) fn create(dir: &Path, header: Header) -> io::Result<Fresh> {
    let name = file_name(header.first_seq);
    let (temporary, path) = (dir.join(format!("{name}.tmp")), dir.join(name));
    // The directory is locked and only the keeper makes segments, so asking first is enough.
    if path.exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there already", path.display())));
    }
    let made = fill(&temporary, &header).and_then(|made| {
        std::fs::rename(&temporary, &path)?;
        sync_dir(dir)?;
        Ok(made)
    });
    let (file, salt) = made.inspect_err(|_| discard(&temporary))?;
    let (map, cursor) = Map::open(&file, header.records, 0)?;
    Ok(Fresh { segment: Segment { path, header, salt, mark: 0 }, file, map, cursor })
}

fn fill(path: &Path, header: &Header) -> io::Result<(File, u32)> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, offset_of(header.records)) {
        // Some file systems cannot promise room ahead; the zeros below take it.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    zero(&file, 0, offset_of(header.records))?;
    let (slot, salt) = header.encode();
    file.write_all_at(&slot, 0)?;
    file.sync_all()?;
    Ok((file, salt))
}

/// Writes zeros from byte `from` up to byte `to`.
pub(super) fn zero(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; CHUNK_SLOTS * SLOT];
    while from < to {
        let left = usize::try_from(to - from).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(&zeros[..left], from)?;
        from += u64::try_from(left).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Best effort: what stays is removed when the journal is opened next.
fn discard(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "an unfinished segment could not be removed");
    }
}

/// How the caller means to use what it lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Unfinished files are removed, segments can be repaired.
    Own,
    /// Nothing is touched.
    ReadOnly,
}

/// Every segment in `dir`, in the order of their records.
pub(super) fn list(dir: &Path, node: &NodeId, worker: u16, access: Access) -> Result<Vec<Segment>, OpenError> {
    let mut segments = Vec::new();
    for path in entries(dir).at(dir)? {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("tmp") if access == Access::Own => std::fs::remove_file(&path).at(&path)?,
            Some("tmp") => {}
            Some("seg") => segments.push(open(path, node, worker)?),
            Some(_) | None => return Err(OpenError::Foreign { path }),
        }
    }
    segments.sort_by_key(|segment| segment.header.first_seq);
    in_sequence(&segments)?;
    Ok(segments)
}

/// First record and path of every segment in `dir`, in order, by their names alone; none if there is no such directory.
pub(super) fn starts(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let paths = match entries(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        paths => paths?,
    };
    let mut starts: Vec<_> = paths
        .into_iter()
        .filter_map(|path| Some((path.file_name()?.to_str()?.strip_suffix(".seg")?.parse().ok()?, path)))
        .collect();
    starts.sort_unstable();
    Ok(starts)
}

/// The paths in `dir`.
pub(super) fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

/// Reads the header of the segment at `path` and checks that it belongs here.
pub(super) fn open(path: PathBuf, node: &NodeId, worker: u16) -> Result<Segment, OpenError> {
    let file = File::open(&path).at(&path)?;
    let segment = identify(path, &file)?;
    let header = &segment.header;
    let named = segment.path.file_name().is_some_and(|name| *name == *file_name(header.first_seq));
    if header.node != *node || header.worker != worker || !named {
        return Err(OpenError::Foreign { path: segment.path });
    }
    Ok(segment)
}

fn identify(path: PathBuf, file: &File) -> Result<Segment, OpenError> {
    let mut head = [0; HEADER];
    let read = read_up_to(file, &mut head, 0).at(&path)?;
    let mut slot: Slot = [0; SLOT];
    slot.copy_from_slice(&head[..SLOT]);
    match Header::decode(&slot) {
        Ok((header, salt)) => Ok(Segment { mark: mark_in(&head), path, header, salt }),
        Err(HeaderError::Version(version)) => Err(OpenError::Version { path, version }),
        Err(HeaderError::Magic) if read == head.len() => Err(OpenError::Foreign { path }),
        Err(HeaderError::Magic | HeaderError::Damaged) => {
            Err(OpenError::Corrupt { path, offset: 0, detail: "its header is not as it was written".to_owned() })
        }
    }
}

/// The mark, if number and complement agree; else nothing is known.
fn mark_in(head: &[u8; HEADER]) -> u64 {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&head[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    if word(MARK) == !word(MARK + 8) { word(MARK) } else { 0 }
}

/// Each segment begins where the one before it ends, unless it says that it jumps.
fn in_sequence(segments: &[Segment]) -> Result<(), OpenError> {
    for pair in segments.windows(2) {
        let (expected, next) = (pair[0].header.last_seq().saturating_add(1), &pair[1].header);
        if next.first_seq != expected && next.origin == Origin::Continues {
            return Err(OpenError::Corrupt {
                path: pair[1].path.clone(),
                offset: 0,
                detail: format!(
                    "it begins with record {}, but {expected} is next: a segment is missing",
                    next.first_seq
                ),
            });
        }
    }
    Ok(())
}

impl Segment {
    /// At most `count` of its slots, from `slot` on.
    pub(super) fn slots(&self, slot: u32, count: u32) -> io::Result<Slots> {
        Ok(Slots {
            file: File::open(&self.path)?,
            salt: self.salt,
            first_seq: self.header.first_seq,
            next: slot,
            end: slot.saturating_add(count).min(self.header.records),
            chunk: Vec::new(),
            at: 0,
        })
    }

    /// The slot of record `seq`, if it lies in this segment.
    pub(super) fn slot_of(&self, seq: u64) -> Option<u32> {
        let slot = u32::try_from(seq.checked_sub(self.header.first_seq)?).ok()?;
        (slot < self.header.records).then_some(slot)
    }

    /// Bytes it takes on disk.
    pub(super) fn bytes(&self) -> u64 {
        offset_of(self.header.records)
    }

    /// Whether the file is as long as its header says.
    pub(super) fn has_all_bytes(&self) -> io::Result<bool> {
        Ok(std::fs::metadata(&self.path)?.len() >= self.bytes())
    }

    /// Opens the file for writing.
    pub(super) fn writable(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(&self.path)
    }
}

/// Writes the slots `from..end` over themselves, so that the next sync carries them to the disk even if an earlier sync
/// failed: after an error the kernel takes such pages for clean and would not write them again.
pub(super) fn rewrite(file: &File, from: u32, end: u32) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_SLOTS * SLOT];
    let (mut at, end) = (offset_of(from), offset_of(end));
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
        let got = read_up_to(file, &mut chunk[..want], at)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_all_at(&chunk[..got], at)?;
        at += u64::try_from(got).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Notes in the file that records up to `seq` are on the disk itself; see [`Map::mark`].
pub(super) fn write_mark(file: &File, seq: u64) -> io::Result<()> {
    let mut mark = [0; 16];
    mark[..8].copy_from_slice(&seq.to_le_bytes());
    mark[8..].copy_from_slice(&(!seq).to_le_bytes());
    file.write_all_at(&mark, u64::try_from(MARK).map_err(io::Error::other)?)
}

/// Slots of a segment, read in order; what the file lacks reads as empty.
pub(super) struct Slots {
    file: File,
    salt: u32,
    first_seq: u64,
    next: u32,
    end: u32,
    chunk: Vec<u8>,
    at: usize,
}

impl Slots {
    /// The next slot and what it holds; `None` after the last one.
    pub(super) fn next(&mut self) -> io::Result<Option<(u32, Slot, Content)>> {
        if self.next >= self.end {
            return Ok(None);
        }
        if self.at == self.chunk.len() {
            self.refill()?;
        }
        let mut slot: Slot = [0; SLOT];
        slot.copy_from_slice(&self.chunk[self.at..self.at + SLOT]);
        let index = self.next;
        self.at += SLOT;
        self.next += 1;
        Ok(Some((index, slot, self.judge(index, &slot))))
    }

    fn judge(&self, index: u32, slot: &Slot) -> Content {
        match decode(slot, self.salt) {
            Content::Record(record) if record.seq != self.first_seq + u64::from(index) => Content::Bad,
            content @ (Content::Record(_) | Content::Empty | Content::Bad) => content,
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        let left = usize::try_from(self.end - self.next).map_err(io::Error::other)?;
        self.chunk.clear();
        self.chunk.resize(left.min(CHUNK_SLOTS) * SLOT, 0);
        self.at = 0;
        read_up_to(&self.file, &mut self.chunk, offset_of(self.next)).map(|_| ())
    }
}

/// Fills `buffer` from byte `at` as far as the file reaches; how many bytes that were.
fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let offset = at + u64::try_from(done).map_err(io::Error::other)?;
        match file.read_at(&mut buffer[done..], offset) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
