//! The small files that make a directory this node's: `lock`, `id`, `boot`, `kernel`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::{At, OpenError};
use super::recover::PageCache;
use super::segment::{entries, sync_dir};
use crate::units::NodeId;

const LOCK: &str = "lock";
const ID: &str = "id";
const BOOT: &str = "boot";
const KERNEL: &str = "kernel";
/// The names' file, see `names.rs`.
pub(super) const NAMES: &str = "names";
/// File systems put this one at their root.
const LOST_AND_FOUND: &str = "lost+found";

/// Takes the directory for this process, for as long as the file lives.
pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).at(&path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: dir.to_owned(), holder: holder(&path) }),
        Err(TryLockError::Error(source)) => return Err(OpenError::Io { path, source }),
    }
    // Only for people; a full disk must not stop the node here.
    let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = noted {
        tracing::debug!(path = %path.display(), %error, "the process id could not be noted");
    }
    Ok(file)
}

fn holder(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => format!("process {}", text.trim()),
        Ok(_) | Err(_) => "another process".to_owned(),
    }
}

/// The workers that have a journal in `dir`, with their directories; an error for anything that does not belong there.
pub(super) fn workers(dir: &Path) -> Result<Vec<(u16, PathBuf)>, OpenError> {
    let mut workers = Vec::new();
    for path in entries(dir).at(dir)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        match (name, worker_of(name)) {
            (LOCK | ID | BOOT | KERNEL | NAMES | LOST_AND_FOUND, _) => {}
            (_, Some(worker)) => workers.push((worker, path)),
            (name, None) if name.strip_suffix(".tmp").is_some_and(is_small_file) => {}
            (_, None) => return Err(OpenError::Foreign { path }),
        }
    }
    workers.sort_unstable();
    Ok(workers)
}

/// Files that are replaced as a whole, through a temporary one.
fn is_small_file(name: &str) -> bool {
    [ID, BOOT, KERNEL].contains(&name)
}

/// The directory of a worker's journal.
pub(super) fn worker_dir(dir: &Path, worker: u16) -> PathBuf {
    dir.join(format!("worker-{worker:04}"))
}

fn worker_of(name: &str) -> Option<u16> {
    let worker = name.strip_prefix("worker-")?.parse().ok()?;
    (name == format!("worker-{worker:04}")).then_some(worker)
}

/// The node's id; made at random for a new directory, an error if an old one has lost it.
pub(super) fn node(dir: &Path, history: History) -> Result<NodeId, OpenError> {
    let path = dir.join(ID);
    match (read(&path)?, history) {
        (Some(text), _) if is_node_id(&text) => Ok(NodeId(text.into())),
        (None, History::New) => {
            let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string())).at(&path)?;
            let id = format!("node_{number:016x}");
            replace(dir, ID, &id)?;
            Ok(NodeId(id.into()))
        }
        (text, _) => Err(unreadable(path, text)),
    }
}

/// Whether a directory has been a journal before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum History {
    /// There are no workers in it.
    New,
    /// There are.
    Old,
}

fn is_node_id(text: &str) -> bool {
    text.strip_prefix("node_").is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Counts this start: the new number is on the disk when it returns.
pub(super) fn count_boot(dir: &Path, history: History) -> Result<u32, OpenError> {
    let path = dir.join(BOOT);
    let before = match (read(&path)?, history) {
        (Some(text), _) => text.parse::<u32>().map_err(|_| unreadable(path.clone(), Some(text)))?,
        (None, History::New) => 0,
        (None, History::Old) => return Err(unreadable(path, None)),
    };
    let boot = before.checked_add(1).ok_or_else(|| unreadable(path, Some(before.to_string())))?;
    replace(dir, BOOT, &boot.to_string())?;
    Ok(boot)
}

fn unreadable(path: PathBuf, text: Option<String>) -> OpenError {
    let detail = match text {
        Some(text) => format!("it holds {:?}, which Tollgate never writes", text.chars().take(40).collect::<String>()),
        None => "it is missing, though there are records".to_owned(),
    };
    OpenError::Unreadable { path, detail }
}

/// Whether the kernel that took the last records is still running.
pub(super) fn page_cache(dir: &Path) -> Result<PageCache, OpenError> {
    let known = read(&dir.join(KERNEL))?;
    Ok(if known.is_some() && known == running_kernel() { PageCache::Intact } else { PageCache::MaybeLost })
}

/// Remembers the running kernel, once the records are as this kernel's page cache has them.
pub(super) fn note_kernel(dir: &Path) -> Result<(), OpenError> {
    match running_kernel() {
        Some(id) => replace(dir, KERNEL, &id),
        None => replace(dir, KERNEL, "unknown"),
    }
}

/// A fresh random id at every start of the machine (Linux: Documentation/admin-guide/sysctl/kernel.rst, `random`).
fn running_kernel() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

fn read(path: &Path) -> Result<Option<String>, OpenError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end_matches('\n').to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::Io { path: path.to_owned(), source }),
    }
}

/// Replaces a small file as a whole: after a crash it is the old one or the new one.
fn replace(dir: &Path, name: &str, text: &str) -> Result<(), OpenError> {
    let (temporary, path) = (dir.join(format!("{name}.tmp")), dir.join(name));
    let mut file = File::create(&temporary).at(&temporary)?;
    writeln!(file, "{text}").at(&temporary)?;
    file.sync_all().at(&temporary)?;
    std::fs::rename(&temporary, &path).at(&path)?;
    sync_dir(dir).at(dir)
}
