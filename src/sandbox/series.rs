//! Meter events of one customer on one meter, and their aggregation. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

/// How a meter turns events into a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Formula {
    Sum,
    Count,
    Last,
}

/// UTC hours or days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Window {
    Hour,
    Day,
}

impl Window {
    /// Its words in requests.
    pub(super) const TABLE: &[(&str, Self)] = &[("hour", Self::Hour), ("day", Self::Day)];

    pub(super) fn seconds(self) -> i64 {
        match self {
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// The first second of the window that holds `at`.
    pub(super) fn start(self, at: i64) -> i64 {
        at - at.rem_euclid(self.seconds())
    }
}

/// An event's place: its timestamp in Unix seconds, then the order of arrival.
pub(super) type Place = (i64, u64);

/// One accepted event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Whole units, 15 digits at most; negative takes back.
    pub(super) value: i64,
    /// When it was accepted, in milliseconds; summaries may lag behind it.
    pub(super) accepted_ms: i64,
}

/// Which events to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// First second.
    pub(super) from: i64,
    /// The second after the last one.
    pub(super) to: i64,
    /// Events accepted later are not yet visible, in milliseconds.
    pub(super) visible_ms: i64,
}

impl Span {
    /// Everything there is.
    pub(super) const ALL: Self = Self { from: i64::MIN, to: i64::MAX, visible_ms: i64::MAX };
}

/// The events of one customer on one meter.
#[derive(Debug, Default)]
pub(super) struct Series {
    events: BTreeMap<Place, Event>,
}

impl Series {
    pub(super) fn add(&mut self, place: Place, event: Event) {
        self.events.insert(place, event);
    }

    /// Takes an event back.
    pub(super) fn cancel(&mut self, place: Place) -> Option<Event> {
        self.events.remove(&place)
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The sum of all values, whatever the meter's formula.
    pub(super) fn sum(&self) -> i128 {
        sum(self.events.values().map(|event| event.value))
    }

    /// The meter's number over `span`; `None` without an event. With `keep_newest`, only the newest event of each
    /// such window counts.
    pub(super) fn aggregate(&self, span: Span, formula: Formula, keep_newest: Option<Window>) -> Option<i128> {
        let seen = || self.within(span).map(|(place, event)| (place.0, event.value));
        match keep_newest {
            None => fold(formula, seen().map(|(_, value)| value)),
            Some(window) => {
                let newest: BTreeMap<i64, i64> = seen().map(|(at, value)| (window.start(at), value)).collect();
                fold(formula, newest.into_values())
            }
        }
    }

    /// The starts of the windows with an event in `span`, newest first.
    pub(super) fn windows(&self, span: Span, window: Window) -> Vec<i64> {
        let mut starts: Vec<i64> = self.within(span).map(|(place, _)| window.start(place.0)).collect();
        starts.dedup();
        starts.reverse();
        starts
    }

    fn within(&self, span: Span) -> impl Iterator<Item = (&Place, &Event)> {
        let range = (span.from, 0)..(span.to.max(span.from), 0);
        self.events.range(range).filter(move |(_, event)| event.accepted_ms <= span.visible_ms)
    }
}

/// Values in the order of their time.
fn fold(formula: Formula, values: impl Iterator<Item = i64>) -> Option<i128> {
    let mut values = values.peekable();
    values.peek()?;
    match formula {
        Formula::Sum => Some(sum(values)),
        Formula::Count => i128::try_from(values.count()).ok(),
        Formula::Last => values.last().map(i128::from),
    }
}

/// Cannot overflow: a value has 15 digits and there are at most some millions of them.
fn sum(values: impl Iterator<Item = i64>) -> i128 {
    values.map(i128::from).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(events: &[(i64, i64)]) -> Series {
        let mut series = Series::default();
        for (n, (at, value)) in (0_u64..).zip(events) {
            series.add((*at, n), Event { value: *value, accepted_ms: at * 1_000 });
        }
        series
    }

    fn span(from: i64, to: i64) -> Span {
        Span { from, to, visible_ms: i64::MAX }
    }

    #[test]
    fn each_formula_over_a_span_whose_end_is_open() {
        let s = series(&[(10, 5), (20, 7), (20, -2), (30, 100)]);
        assert_eq!(s.aggregate(span(10, 30), Formula::Sum, None), Some(10));
        assert_eq!(s.aggregate(span(10, 30), Formula::Count, None), Some(3));
        assert_eq!(s.aggregate(span(10, 30), Formula::Last, None), Some(-2));
        assert_eq!(s.aggregate(span(31, 99), Formula::Sum, None), None);
        assert_eq!(s.aggregate(Span::ALL, Formula::Sum, None), Some(110));
    }

    #[test]
    fn the_newest_event_of_a_window_counts_whatever_arrived_first() {
        let s = series(&[(3_599, 9), (10, 5), (3_600, 1), (7_199, 4)]);
        assert_eq!(s.aggregate(Span::ALL, Formula::Sum, Some(Window::Hour)), Some(13));
        assert_eq!(s.aggregate(Span::ALL, Formula::Count, Some(Window::Hour)), Some(2));
        assert_eq!(s.aggregate(Span::ALL, Formula::Sum, Some(Window::Day)), Some(4));
    }

    #[test]
    fn events_accepted_after_the_lag_are_not_yet_visible() {
        let s = series(&[(10, 5), (20, 7)]);
        let behind = Span { visible_ms: 19_999, ..Span::ALL };
        assert_eq!(s.aggregate(behind, Formula::Sum, None), Some(5));
    }

    #[test]
    fn a_cancelled_event_counts_no_more_and_the_one_before_is_last_again() {
        let mut s = series(&[(10, 5), (20, 7)]);
        assert!(s.cancel((20, 1)).is_some());
        assert!(s.cancel((20, 1)).is_none());
        assert_eq!(s.aggregate(Span::ALL, Formula::Last, None), Some(5));
        assert_eq!((s.sum(), s.len()), (5, 1));
    }

    #[test]
    fn windows_come_newest_first_and_before_1970_too() {
        let s = series(&[(-1, 1), (10, 1), (20, 1), (3_700, 1)]);
        assert_eq!(s.windows(Span::ALL, Window::Hour), [3_600, 0, -3_600]);
    }
}
