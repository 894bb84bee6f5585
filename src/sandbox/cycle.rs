//! Billing periods: calendar intervals counted from an anchor, in UTC. Pure.
//!
//! Every boundary is counted from the anchor and not from the boundary before it, so that a cycle anchored on the
//! 31st returns to the 31st after a shorter month (Stripe, "Billing cycle").

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::Serialize;

/// The calendar unit of a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Interval {
    Day,
    Week,
    Month,
    Year,
}

impl Interval {
    /// Its words in requests.
    pub(super) const TABLE: &[(&str, Self)] =
        &[("day", Self::Day), ("week", Self::Week), ("month", Self::Month), ("year", Self::Year)];

    /// As requests and answers name it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// About how long it is, never more than its shortest one.
    fn least_s(self) -> i64 {
        match self {
            Self::Day => 86_400,
            Self::Week => 7 * 86_400,
            Self::Month => 28 * 86_400,
            Self::Year => 365 * 86_400,
        }
    }

    fn span(self, n: i64) -> Option<Span> {
        let span = Span::new();
        match self {
            Self::Day => span.try_days(n).ok(),
            Self::Week => span.try_weeks(n).ok(),
            Self::Month => span.try_months(n).ok(),
            Self::Year => span.try_years(n).ok(),
        }
    }
}

/// From the first second to the one after the last, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    pub(super) start: i64,
    pub(super) end: i64,
}

impl Period {
    pub(super) fn seconds(self) -> i64 {
        self.end - self.start
    }
}

/// `count` intervals at a time, counted from `anchor` (Unix seconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cycle {
    pub(super) anchor: i64,
    pub(super) interval: Interval,
    pub(super) count: i64,
}

impl Cycle {
    /// The boundary `n` cycles after the anchor, or before it.
    pub(super) fn boundary(self, n: i64) -> i64 {
        later(self.anchor, self.interval, self.count.saturating_mul(n))
    }

    /// The period that holds `at`.
    pub(super) fn period_at(self, at: i64) -> Period {
        let least = self.interval.least_s().saturating_mul(self.count).max(1);
        let mut n = (at - self.anchor).div_euclid(least);
        while self.boundary(n) > at {
            n -= 1;
        }
        Period { start: self.boundary(n), end: self.boundary(n + 1) }
    }

    /// The first period of something that begins at `start`: up to the next boundary, if that is short of a cycle.
    pub(super) fn first(self, start: i64) -> Period {
        Period { start, end: self.period_at(start).end }
    }
}

/// `n` intervals after `from`; a day that its month does not have becomes the last one it has.
pub(super) fn later(from: i64, interval: Interval, n: i64) -> i64 {
    let moved = || {
        let start = Timestamp::from_second(from).ok()?.to_zoned(TimeZone::UTC);
        Some(start.checked_add(interval.span(n)?).ok()?.timestamp().as_second())
    };
    // Only beyond the calendar's end, which no test clock reaches.
    moved().unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn cycle(anchor: &str, interval: Interval, count: i64) -> Cycle {
        Cycle { anchor: at(anchor), interval, count }
    }

    #[test]
    fn a_cycle_on_the_31st_returns_to_the_31st() {
        let monthly = cycle("2026-01-31T10:00:00Z", Interval::Month, 1);
        for (n, boundary) in [(0, "01-31"), (1, "02-28"), (2, "03-31"), (3, "04-30"), (4, "05-31"), (12, "12-31")] {
            let want = if n == 12 { "2027-01-31T10:00:00Z".to_owned() } else { format!("2026-{boundary}T10:00:00Z") };
            assert_eq!(monthly.boundary(n), at(&want), "{n}");
        }
    }

    #[test]
    fn the_period_around_a_moment() {
        for (cycle, moment, start, end) in [
            (
                cycle("2026-01-31T00:00:00Z", Interval::Month, 1),
                "2026-03-01T00:00:00Z",
                "2026-02-28T00:00:00Z",
                "2026-03-31T00:00:00Z",
            ),
            (
                cycle("2026-01-31T00:00:00Z", Interval::Month, 1),
                "2026-02-28T00:00:00Z",
                "2026-02-28T00:00:00Z",
                "2026-03-31T00:00:00Z",
            ),
            (
                cycle("2024-02-29T12:00:00Z", Interval::Year, 1),
                "2026-01-01T00:00:00Z",
                "2025-02-28T12:00:00Z",
                "2026-02-28T12:00:00Z",
            ),
            (
                cycle("2026-01-15T00:00:00Z", Interval::Month, 3),
                "2026-04-14T23:59:59Z",
                "2026-01-15T00:00:00Z",
                "2026-04-15T00:00:00Z",
            ),
            (
                cycle("2026-06-10T00:00:00Z", Interval::Week, 2),
                "2026-06-01T00:00:00Z",
                "2026-05-27T00:00:00Z",
                "2026-06-10T00:00:00Z",
            ),
        ] {
            assert_eq!(cycle.period_at(at(moment)), Period { start: at(start), end: at(end) }, "{moment}");
        }
    }

    #[test]
    fn a_first_period_ends_at_the_next_boundary() {
        let first_of_month = cycle("2026-02-01T00:00:00Z", Interval::Month, 1);
        let first = first_of_month.first(at("2026-01-20T00:00:00Z"));
        assert_eq!(first, Period { start: at("2026-01-20T00:00:00Z"), end: at("2026-02-01T00:00:00Z") });
        assert_eq!(first.seconds(), 12 * 86_400);
    }
}
