//! A node that has not heard from the ledger for ten minutes stops spending what it was granted: others may have
//! declared it lost and granted the same units anew.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// `node lost` refuses for a minute longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// When the ledger last answered.
#[derive(Debug)]
pub(super) struct Fence {
    /// Milliseconds since boot at which the last answered settle was sent.
    answered_ms: AtomicU64,
}

impl Fence {
    pub(super) fn new() -> Self {
        let fence = Self { answered_ms: AtomicU64::new(0) };
        fence.answered(Self::now());
        fence
    }

    /// Since the machine booted; it goes on while the machine sleeps, and nobody can set it.
    pub(super) fn now() -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0))
    }

    /// A settle that was sent at `sent` was answered.
    pub(super) fn answered(&self, sent: Duration) {
        self.answered_ms.store(u64::try_from(sent.as_millis()).unwrap_or(u64::MAX), Release);
    }

    /// Whether the last answer is too long ago.
    pub(super) fn is_over(&self) -> bool {
        self.is_over_at(Self::now())
    }

    fn is_over_at(&self, now: Duration) -> bool {
        now.saturating_sub(Duration::from_millis(self.answered_ms.load(Acquire))) > PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_ten_minutes_after_the_last_answer() {
        let fence = Fence::new();
        let start = Duration::from_secs(5_000);
        fence.answered(start);
        assert!(!fence.is_over_at(start + PATIENCE));
        assert!(fence.is_over_at(start + PATIENCE + Duration::from_millis(1)));
        fence.answered(start + Duration::from_secs(60));
        assert!(!fence.is_over_at(start + PATIENCE + Duration::from_secs(60)));
    }
}
