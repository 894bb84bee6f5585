//! How much room to keep ready ahead of a writer. Pure: `now` is an argument.

use std::time::{Duration, Instant};

/// Seconds of writing, at the recent rate, that ready segments should last: many times what making one takes.
const AHEAD_S: u64 = 2;
/// Whole segments of room at least: the rest of the one being written and a spare behind it.
const LEAST_SEGMENTS: u64 = 2;
/// … and at most, so that a burst cannot take the disk.
const MOST_SEGMENTS: u64 = 8;
/// A rate is measured over at least so long.
const WINDOW: Duration = Duration::from_millis(200);

/// How fast records have been coming.
#[derive(Debug)]
pub(super) struct Rate {
    since: Instant,
    seq: u64,
    per_s: u64,
}

impl Rate {
    /// Nothing has come yet: the last record is `seq`.
    pub(super) fn new(now: Instant, seq: u64) -> Self {
        Self { since: now, seq, per_s: 0 }
    }

    /// Takes note that the last record is `seq` now.
    pub(super) fn observe(&mut self, now: Instant, seq: u64) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < WINDOW {
            return;
        }
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.per_s = seq.saturating_sub(self.seq).saturating_mul(1000) / elapsed_ms;
        self.since = now;
        self.seq = seq;
    }

    /// Records that there should be room for.
    pub(super) fn room_wanted(&self, segment_records: u32) -> u64 {
        let segment = u64::from(segment_records);
        self.per_s.saturating_mul(AHEAD_S).clamp(segment * LEAST_SEGMENTS, segment * MOST_SEGMENTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(records: u64, after: Duration) -> u64 {
        let start = Instant::now();
        let mut rate = Rate::new(start, 1000);
        rate.observe(start + after, 1000 + records);
        rate.room_wanted(100)
    }

    #[test]
    fn room_follows_the_rate_between_its_bounds() {
        let cases = [
            (0, 1000, 200),
            (10, 1000, 200),
            (200, 1000, 400),
            (200, 500, 800),
            (1_000_000, 1000, 800),
            // Too short to tell: the bounds alone.
            (1_000_000, 199, 200),
        ];
        for (records, ms, expected) in cases {
            assert_eq!(wanted(records, Duration::from_millis(ms)), expected, "{records} records in {ms} ms");
        }
    }
}
