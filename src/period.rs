//! Billing periods: from the subscription's own anchor, in UTC. Pure: takes values, returns values.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;

use crate::units::PeriodId;

/// Where periods are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The first period (after a trial, if any) starts here; its day of month and time of day repeat. Unix seconds.
    pub start_s: i64,
    /// How long a period is.
    pub interval: Interval,
    /// A trial, from `trial_start_s` to `start_s`, is one period of its own; no earlier period exists with it.
    /// One that would not begin before `start_s` is no trial.
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

    /// Whether `at_s` lies in it.
    #[must_use]
    pub fn contains(self, at_s: i64) -> bool {
        (self.start_s..self.end_s).contains(&at_s)
    }
}

/// The period that holds `now_s`.
///
/// Periods are counted backwards too, from before the anchor; with a trial, everything before the anchor is the trial.
/// Every time is answered: those outside the years 1 to 9997 are taken as the nearest moment within.
#[must_use]
pub fn period_at(anchor: Anchor, now_s: i64) -> Period {
    let start_s = within_calendar(anchor.start_s);
    let now_s = within_calendar(now_s);
    match anchor.trial_start_s.map(within_calendar) {
        Some(trial_s) if trial_s < start_s && now_s < start_s => Period { start_s: trial_s, end_s: start_s },
        _ => period_counted(civil(start_s), anchor.interval.months(), now_s),
    }
}

impl Interval {
    /// Calendar months in it.
    const fn months(self) -> i64 {
        match self {
            Self::Month => 1,
            Self::Year => 12,
        }
    }
}

/// 0001-01-01T00:00:00Z.
const EARLIEST_S: i64 = -62_135_596_800;
/// 9997-12-31T23:59:59Z: a year's period from here still ends within the calendar.
const LATEST_S: i64 = 253_339_228_799;

fn within_calendar(at_s: i64) -> i64 {
    at_s.clamp(EARLIEST_S, LATEST_S)
}

/// The n-th period starts `n * step` months after `anchor`. The one that starts in the calendar month of `now_s`, or
/// the last one before that month, may still lie ahead of `now_s`; then the period before it is meant.
fn period_counted(anchor: DateTime, step: i64, now_s: i64) -> Period {
    let now = civil(now_s);
    let nth = (month_number(now) - month_number(anchor)).div_euclid(step);
    let start_s = months_after(anchor, nth * step);
    if start_s <= now_s {
        Period { start_s, end_s: months_after(anchor, (nth + 1) * step) }
    } else {
        Period { start_s: months_after(anchor, (nth - 1) * step), end_s: start_s }
    }
}

/// Months since year 0.
fn month_number(at: DateTime) -> i64 {
    i64::from(at.year()) * 12 + i64::from(at.month()) - 1
}

/// The anchor's day and time of day, `months` later: on the month's last day where it has no such day.
fn months_after(anchor: DateTime, months: i64) -> i64 {
    let number = month_number(anchor) + months;
    let first = i16::try_from(number.div_euclid(12))
        .ok()
        .zip(i8::try_from(number.rem_euclid(12) + 1).ok())
        .and_then(|(year, month)| Date::new(year, month, 1).ok())
        .expect("within_calendar keeps a year of room on both sides");
    let day = anchor.day().min(first.days_in_month());
    let date = first.with().day(day).build().expect("a day that the month has");
    let at = Offset::UTC.to_timestamp(date.to_datetime(anchor.time())).expect("as above");
    at.as_second()
}

fn civil(at_s: i64) -> DateTime {
    Offset::UTC.to_datetime(Timestamp::from_second(at_s).expect("within_calendar keeps it in jiff's range"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn date(at_s: i64) -> String {
        Timestamp::from_second(at_s).unwrap().to_string().replace("T00:00:00Z", "")
    }

    fn anchor(start: &str, interval: Interval) -> Anchor {
        Anchor { start_s: s(start), interval, trial_start_s: None }
    }

    /// The starts of the `count` periods from the one that holds `from`.
    fn starts(anchor: Anchor, from: &str, count: usize) -> String {
        let mut period = period_at(anchor, s(from));
        let mut starts = Vec::new();
        for _ in 0..count {
            starts.push(date(period.start_s));
            period = period_at(anchor, period.end_s);
        }
        starts.join(" ")
    }

    #[test]
    fn months_are_counted_from_the_anchor_and_clamped_to_each_months_end() {
        for (anchored, from, expected) in [
            ("2023-01-31T00:00:00Z", "2023-01-31T00:00:00Z", "2023-01-31 2023-02-28 2023-03-31 2023-04-30 2023-05-31"),
            ("2024-01-31T00:00:00Z", "2024-01-31T00:00:00Z", "2024-01-31 2024-02-29 2024-03-31 2024-04-30"),
            ("2023-01-30T00:00:00Z", "2023-01-30T00:00:00Z", "2023-01-30 2023-02-28 2023-03-30"),
            ("2023-01-29T00:00:00Z", "2023-12-30T00:00:00Z", "2023-12-29 2024-01-29 2024-02-29 2024-03-29"),
            ("2023-08-31T00:00:00Z", "2023-11-29T00:00:00Z", "2023-10-31 2023-11-30 2023-12-31 2024-01-31 2024-02-29"),
            ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z", "2024-02-29 2024-03-29 2024-04-29"),
            ("2024-12-15T00:00:00Z", "2025-01-01T00:00:00Z", "2024-12-15 2025-01-15"),
            // 1900 and 2100 are no leap years, 2000 is one.
            ("2099-12-31T00:00:00Z", "2100-02-10T00:00:00Z", "2100-01-31 2100-02-28 2100-03-31"),
            ("1999-12-31T00:00:00Z", "2000-02-10T00:00:00Z", "2000-01-31 2000-02-29 2000-03-31"),
            // Before the anchor, counted backwards.
            ("2024-03-31T00:00:00Z", "2024-01-01T00:00:00Z", "2023-12-31 2024-01-31 2024-02-29 2024-03-31"),
            ("2024-03-31T00:00:00Z", "2023-02-28T00:00:00Z", "2023-02-28 2023-03-31"),
        ] {
            assert_eq!(starts(anchor(anchored, Interval::Month), from, expected.split(' ').count()), expected);
        }
    }

    #[test]
    fn years_are_counted_from_the_anchor_and_leap_days_come_back() {
        for (anchored, from, expected) in [
            (
                "2024-02-29T00:00:00Z",
                "2024-02-29T00:00:00Z",
                "2024-02-29 2025-02-28 2026-02-28 2027-02-28 2028-02-29 2029-02-28",
            ),
            ("2096-02-29T00:00:00Z", "2099-06-01T00:00:00Z", "2099-02-28 2100-02-28 2101-02-28"),
            ("2023-06-30T00:00:00Z", "2024-06-29T00:00:00Z", "2023-06-30 2024-06-30 2025-06-30"),
            ("2024-02-29T00:00:00Z", "2020-02-29T00:00:00Z", "2020-02-29 2021-02-28"),
            ("2024-02-29T00:00:00Z", "2020-02-28T23:59:59Z", "2019-02-28 2020-02-29"),
        ] {
            assert_eq!(starts(anchor(anchored, Interval::Year), from, expected.split(' ').count()), expected);
        }
    }

    #[test]
    fn the_time_of_day_is_the_anchors_to_the_second() {
        let anchor = anchor("2024-01-31T13:45:07Z", Interval::Month);
        let february = Period { start_s: s("2024-02-29T13:45:07Z"), end_s: s("2024-03-31T13:45:07Z") };
        assert_eq!(period_at(anchor, s("2024-02-29T13:45:07Z")), february);
        assert_eq!(period_at(anchor, s("2024-03-31T13:45:06Z")), february);
        assert_eq!(period_at(anchor, s("2024-02-29T13:45:06Z")).start_s, s("2024-01-31T13:45:07Z"));
        assert_eq!(period_at(anchor, s("2024-03-31T13:45:07Z")).start_s, february.end_s);
    }

    #[test]
    fn a_trial_is_one_period_however_long_and_nothing_lies_before_it() {
        let trial_start_s = Some(s("2024-01-10T00:00:00Z"));
        let anchor = Anchor { trial_start_s, ..anchor("2024-03-31T00:00:00Z", Interval::Month) };
        let trial = Period { start_s: s("2024-01-10T00:00:00Z"), end_s: s("2024-03-31T00:00:00Z") };
        for at in ["2023-06-01T00:00:00Z", "2024-01-10T00:00:00Z", "2024-02-15T00:00:00Z", "2024-03-30T23:59:59Z"] {
            assert_eq!(period_at(anchor, s(at)), trial);
        }
        assert_eq!(starts(anchor, "2024-03-31T00:00:00Z", 2), "2024-03-31 2024-04-30");
    }

    #[test]
    fn a_trial_that_ends_before_it_begins_is_none() {
        let plain = anchor("2024-03-31T00:00:00Z", Interval::Month);
        for trial in ["2024-03-31T00:00:00Z", "2024-06-01T00:00:00Z"] {
            let odd = Anchor { trial_start_s: Some(s(trial)), ..plain };
            for at in ["2024-02-01T00:00:00Z", "2024-03-31T00:00:00Z", "2024-05-01T00:00:00Z"] {
                assert_eq!(period_at(odd, s(at)), period_at(plain, s(at)));
            }
        }
    }

    #[test]
    fn the_edges_of_the_calendar_are_where_they_are_said_to_be() {
        assert_eq!(date(EARLIEST_S), "0001-01-01");
        assert_eq!(date(LATEST_S), "9997-12-31T23:59:59Z");
    }

    /// Days of a month, by the textbook and not by jiff.
    fn days_in(year: i64, month: i64) -> i64 {
        match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// Every start of a period for an anchor at midnight `days` after 1970-01-01, found by walking over the calendar
    /// one day at a time from 1970 to 2110: a day starts a period if it is the anchor's day or its month's last
    /// day where that comes sooner.
    fn naive_starts(days: i64, interval: Interval) -> Vec<i64> {
        let calendar = || {
            (1970..2110).flat_map(|y| (1..=12).flat_map(move |m| (1..=days_in(y, m)).map(move |d| (y, m, d)))).zip(0..)
        };
        let ((_, month, day), _) = calendar().find(|(_, at)| *at == days).unwrap();
        calendar()
            .filter(|((y, m, d), _)| *d == day.min(days_in(*y, *m)) && (interval == Interval::Month || *m == month))
            .map(|(_, at)| at * 86_400)
            .collect()
    }

    fn intervals() -> impl Strategy<Value = Interval> {
        prop_oneof![Just(Interval::Month), Just(Interval::Year)]
    }

    proptest! {
        // A walk takes some milliseconds.
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn periods_equal_a_walk_over_the_calendar(days in 400_i64..50_000, interval in intervals(), at in 400_i64 * 86_400..50_000 * 86_400) {
            let starts = naive_starts(days, interval);
            let next = starts.partition_point(|start| *start <= at);
            let expected = Period { start_s: starts[next - 1], end_s: starts[next] };
            prop_assert_eq!(period_at(Anchor { start_s: days * 86_400, interval, trial_start_s: None }, at), expected);
        }
    }

    proptest! {
        #[test]
        fn periods_tile_time(
            start_s in -4_000_000_000_i64..40_000_000_000,
            now_s in -4_000_000_000_i64..40_000_000_000,
            trial in proptest::option::of(0_i64..10_000_000),
            interval in intervals(),
            within in 0.0_f64..1.0,
        ) {
            let anchor = Anchor { start_s, interval, trial_start_s: trial.map(|length| start_s - length) };
            let period = period_at(anchor, now_s);
            let first = anchor.trial_start_s.filter(|trial| *trial < start_s);
            prop_assert!(period.contains(now_s) || first.is_some_and(|trial| now_s < trial && period.start_s == trial));
            #[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_precision_loss,
                     clippy::float_arithmetic, reason = "picks any moment within the period")]
            let inside = period.start_s + ((period.end_s - period.start_s - 1) as f64 * within) as i64;
            prop_assert_eq!(period_at(anchor, inside), period);
            prop_assert_eq!(period_at(anchor, period.end_s - 1), period);
            prop_assert_eq!(period_at(anchor, period.end_s).start_s, period.end_s);
            if Some(period.start_s) != first {
                prop_assert_eq!(period_at(anchor, period.start_s - 1).end_s, period.start_s);
            }
        }

        #[test]
        fn every_number_is_answered(start_s: i64, trial_start_s: Option<i64>, now_s: i64, interval in intervals()) {
            let period = period_at(Anchor { start_s, interval, trial_start_s }, now_s);
            prop_assert!(period.start_s < period.end_s);
        }
    }
}
