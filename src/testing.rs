//! Crash points: the places between two steps of journal, settle, seal and report where a test kills the process.

use std::sync::OnceLock;

/// Every named point, in the order a unit passes them.
pub const CRASH_POINTS: &[&str] = &[
    "journal.before_append",
    "journal.after_append",
    "journal.before_sync",
    "journal.after_sync",
    "settle.before",
    "settle.before_commit",
    "settle.after_commit",
    "flush.before",
    "flush.before_commit",
    "flush.after_commit",
    "trim.before",
    "trim.after_one",
    "seal.before",
    "seal.before_commit",
    "seal.after_commit",
    "report.after_first_try",
    "report.after_answer",
    "report.after_delivered",
];

struct Armed {
    name: String,
    /// How many passes to let through first.
    skip: std::sync::atomic::AtomicU64,
}

/// Ends the process with SIGKILL's effect here, if `TOLLGATE_CRASH_AT=name[:passes_to_skip]` names this point.
///
/// Costs one load of a `OnceLock` when not armed. Nothing is flushed or dropped on the way out, as in a real kill.
#[inline]
pub fn crash_point(name: &'static str) {
    debug_assert!(CRASH_POINTS.contains(&name), "{name} is missing from CRASH_POINTS");
    if let Some(armed) = armed() {
        armed.pass(name);
    }
}

#[inline]
fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    ARMED
        .get_or_init(|| {
            let spec = std::env::var("TOLLGATE_CRASH_AT").ok()?;
            let (name, skip) = spec.split_once(':').unwrap_or((&spec, "0"));
            Some(Armed { name: name.to_owned(), skip: skip.parse().unwrap_or(0).into() })
        })
        .as_ref()
}

impl Armed {
    #[cold]
    fn pass(&self, name: &str) {
        use std::sync::atomic::Ordering::{AcqRel, Acquire};
        if self.name == name && self.skip.fetch_update(AcqRel, Acquire, |n| n.checked_sub(1)).is_err() {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .expect("a process may always kill itself");
        }
    }
}
