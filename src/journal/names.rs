//! Names of meters and routes as small numbers, so that a record has a fixed size.
//!
//! One line per name in an append-only file: its checksum and the name; its number is the line's. A name is on the disk
//! before its number is given out, so every number in a record can be read for ever.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::error::{At, OpenError};
use crate::units::NameId;

/// The names of one node. Reading takes no lock; a new name costs one sync of the disk.
#[derive(Debug)]
pub struct Names {
    /// By number, from 1.
    texts: ArcSwap<Vec<Arc<str>>>,
    file: Mutex<Ledge>,
}

/// The growing end of the file.
#[derive(Debug)]
struct Ledge {
    file: File,
    /// Bytes of whole, synced lines.
    length: u64,
    numbers: HashMap<Arc<str>, NameId>,
}

impl Names {
    /// Opens the file at `path`, or makes it. A torn last line is cut off: its number was never given out.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).at(path)?;
        let names = Self::load(path, file)?;
        names.cut_torn_line().at(path)?;
        Ok(names)
    }

    /// Opens the file at `path` to read names only; interning a new one fails.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, OpenError> {
        Self::load(path, File::open(path).at(path)?)
    }

    fn load(path: &Path, file: File) -> Result<Self, OpenError> {
        let bytes = std::fs::read(path).at(path)?;
        let (texts, length) = parse(&bytes).map_err(|line| OpenError::Unreadable {
            path: path.to_owned(),
            detail: format!("line {line} is not as it was written"),
        })?;
        let numbers = texts.iter().zip(1..).map(|(text, number)| (Arc::clone(text), NameId(number))).collect();
        let length = u64::try_from(length).map_err(io::Error::other).at(path)?;
        Ok(Self { texts: ArcSwap::from_pointee(texts), file: Mutex::new(Ledge { file, length, numbers }) })
    }

    fn cut_torn_line(&self) -> io::Result<()> {
        let ledge = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if ledge.file.metadata()?.len() > ledge.length {
            ledge.file.set_len(ledge.length)?;
        }
        ledge.file.sync_all()
    }

    /// The name of `id`; `None` for a number this node never gave out.
    #[must_use]
    pub fn get(&self, id: NameId) -> Option<Arc<str>> {
        let index = usize::try_from(id.0).ok()?.checked_sub(1)?;
        self.texts.load().get(index).cloned()
    }

    /// The number of `text`, the same for ever; a new one is on the disk before it is returned. Blocks on the disk.
    ///
    /// # Errors
    /// What the disk says, with nothing changed; `InvalidInput` for an empty name, or one with a line break.
    pub fn intern(&self, text: &str) -> io::Result<NameId> {
        let ids = self.intern_all(&[text])?;
        Ok(ids[0])
    }

    /// The numbers of many names in their order, with one sync for all that are new.
    ///
    /// # Errors
    /// As [`Names::intern`]; none of them has been added then.
    pub fn intern_all(&self, texts: &[&str]) -> io::Result<Vec<NameId>> {
        if let Some(text) = texts.iter().find(|text| text.is_empty() || text.contains(['\n', '\r'])) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} cannot be a name")));
        }
        let mut ledge = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        self.add_missing(&mut ledge, texts)?;
        Ok(texts.iter().map(|text| ledge.numbers[*text]).collect())
    }

    fn add_missing(&self, ledge: &mut Ledge, texts: &[&str]) -> io::Result<()> {
        let mut fresh: Vec<Arc<str>> = Vec::new();
        for text in texts {
            if !ledge.numbers.contains_key(*text) && !fresh.iter().any(|known| **known == **text) {
                fresh.push((*text).into());
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        ledge.append(&fresh)?;
        let mut all = Vec::clone(&self.texts.load());
        for text in fresh {
            all.push(Arc::clone(&text));
            ledge.numbers.insert(text, NameId(u32::try_from(all.len()).map_err(io::Error::other)?));
        }
        self.texts.store(Arc::new(all));
        Ok(())
    }
}

impl Ledge {
    /// Writes at the end of the last whole line, over whatever a failed attempt left there.
    fn append(&mut self, texts: &[Arc<str>]) -> io::Result<()> {
        let lines: String = texts.iter().map(|text| line(text)).collect();
        self.file.set_len(self.length)?;
        self.file.write_all_at(lines.as_bytes(), self.length)?;
        self.file.sync_all()?;
        self.length += u64::try_from(lines.len()).map_err(io::Error::other)?;
        Ok(())
    }
}

fn line(text: &str) -> String {
    format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes()))
}

/// The names in `bytes` and the length of the whole lines; the number of the first line that is wrong, if it is not the last.
fn parse(bytes: &[u8]) -> Result<(Vec<Arc<str>>, usize), usize> {
    let (mut texts, mut length) = (Vec::new(), 0);
    for bytes_of_line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match parse_line(bytes_of_line) {
            Some(text) => texts.push(text.into()),
            None if length + bytes_of_line.len() == bytes.len() => break,
            None => return Err(texts.len() + 1),
        }
        length += bytes_of_line.len();
    }
    Ok((texts, length))
}

fn parse_line(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.get(9..)?;
    (line(text).as_bytes() == bytes).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn place() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("names");
        (dir, path)
    }

    #[test]
    fn numbers_stay_the_same_across_restarts() {
        let (_dir, path) = place();
        let names = Names::open(&path).expect("opened");
        let (a, b) = (names.intern("GET /signals").expect("a"), names.intern("api_units").expect("b"));
        assert_ne!(a, b);
        assert_eq!(names.intern("GET /signals").expect("again"), a);
        let again = Names::open(&path).expect("opened again");
        assert_eq!(again.get(a).as_deref(), Some("GET /signals"));
        assert_eq!(again.intern("api_units").expect("known"), b);
        assert_eq!(again.get(NameId(3)), None);
        assert_eq!(again.get(NameId(0)), None);
    }

    #[test]
    fn many_names_come_back_in_their_order() {
        let (_dir, path) = place();
        let names = Names::open(&path).expect("opened");
        let ids = names.intern_all(&["b", "a", "b", "c"]).expect("interned");
        assert_eq!(ids, [NameId(1), NameId(2), NameId(1), NameId(3)]);
        assert_eq!(names.intern_all(&[]).expect("none"), []);
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_its_number_used_again() {
        let (_dir, path) = place();
        Names::open(&path).expect("opened").intern("whole").expect("interned");
        let mut file = OpenOptions::new().append(true).open(&path).expect("open");
        file.write_all(b"0badc0de to").expect("written");
        let names = Names::open(&path).expect("opened again");
        assert_eq!(names.intern("next").expect("interned"), NameId(2));
        assert_eq!(Names::open(&path).expect("third time").get(NameId(2)).as_deref(), Some("next"));
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_an_error_with_its_number() {
        let (_dir, path) = place();
        Names::open(&path).expect("opened").intern_all(&["one", "two", "three"]).expect("interned");
        let text = std::fs::read_to_string(&path).expect("read").replace("two", "tow");
        std::fs::write(&path, text).expect("written");
        let error = Names::open(&path).expect_err("damaged").to_string();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn names_that_would_break_a_line_are_refused() {
        let (_dir, path) = place();
        let names = Names::open(&path).expect("opened");
        for bad in ["", "a\nb", "a\r"] {
            assert_eq!(names.intern(bad).expect_err("refused").kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(std::fs::read(&path).expect("read"), b"");
    }
}
