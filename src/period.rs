//! Billing periods: from the subscription's own anchor, in UTC. Pure: takes values, returns values.

use crate::units::PeriodId;

/// Where periods are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The first period (after a trial, if any) starts here; its day of month and time of day repeat. Unix seconds.
    pub start_s: i64,
    /// How long a period is.
    pub interval: Interval,
    /// A trial, from `trial_start_s` to `start_s`, is one period of its own; no earlier period exists with it.
    pub trial_start_s: Option<i64>,
}

/// How long a period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// A calendar month from the anchor's day (clamped to the month's last day, counted from the anchor each time).
    Month,
    /// A calendar year.
    Year,
}

/// A half-open span `[start_s, end_s)` in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// First second.
    pub start_s: i64,
    /// First second of the next period.
    pub end_s: i64,
}

impl Period {
    /// The period's id.
    #[must_use]
    pub fn id(self) -> PeriodId {
        PeriodId(self.start_s)
    }
}

/// The period that holds `now_s`.
#[must_use]
pub fn period_at(anchor: Anchor, now_s: i64) -> Period {
    let _ = (anchor, now_s);
    todo!()
}
