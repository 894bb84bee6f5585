//! What the reporter keeps in memory about reports under way: who is being sent, and who waits until when. All of it
//! can be lost without harm; the records know what matters. Pure; time and randomness are arguments.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::late::Reading;
use crate::records::Report;
use crate::stripe::retry;

/// Longest step of the back-off of one report.
const CAP: Duration = Duration::from_secs(5 * 60);

/// Notes kept; beyond that they are all dropped and made anew.
const MAX_NOTES: usize = 100_000;

/// A customer and a meter: Stripe takes one call at a time for each.
pub type Lane = (String, String);

/// The desk.
#[derive(Debug, Default)]
pub struct Desk {
    busy: HashSet<Lane>,
    /// By identifier, which is unique for ever.
    notes: HashMap<String, Note>,
    /// Stripe does not let us in: nobody is sent before then.
    shut_until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Note {
    tries: u32,
    /// Our own back-off.
    not_before: Option<Timestamp>,
    /// What Stripe asked for, or what the protocol demands: holds in a hurry too.
    surely_not_before: Option<Timestamp>,
    reading: Option<Reading>,
}

/// How much a caller respects our own back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Back-off is kept.
    Usual,
    /// Back-off is passed over; what Stripe asked for is not.
    Hurry,
}

impl Desk {
    /// Takes the report's lane if it is free and the report's time has come.
    pub fn take(&mut self, report: &Report, pace: Pace, now: Timestamp) -> Option<Lane> {
        let note = self.notes.get(&report.identifier).copied().unwrap_or_default();
        let before = |until: Option<Timestamp>| until.is_some_and(|until| now < until);
        let waits = before(self.shut_until)
            || before(note.surely_not_before)
            || (pace == Pace::Usual && before(note.not_before));
        let lane = lane(report);
        if waits || !self.busy.insert(lane.clone()) { None } else { Some(lane) }
    }

    /// May the report be looked at by `horizon`, own back-off passed over?
    pub fn ready_by(&self, report: &Report, horizon: Timestamp) -> bool {
        let note = self.notes.get(&report.identifier).and_then(|note| note.surely_not_before);
        note.max(self.shut_until).is_none_or(|until| until <= horizon)
    }

    /// Nobody is sent before `until`.
    pub fn shut(&mut self, until: Timestamp) {
        self.shut_until = Some(until);
    }

    /// Gives a lane back.
    pub fn free(&mut self, lane: &Lane) {
        self.busy.remove(lane);
    }

    /// How many open reports a query may return that cannot be started anyway.
    pub fn waiting(&self) -> usize {
        self.notes.len() + self.busy.len()
    }

    /// The report is to be sent again: after a back-off, and not before `at_least` has passed.
    pub fn again(&mut self, report: &Report, at_least: Duration, now: Timestamp, random: u32) {
        let note = self.note(report);
        let step = retry::full_jitter(note.tries, CAP, random);
        note.tries = note.tries.saturating_add(1);
        note.not_before = Some(after(now, step));
        note.surely_not_before = Some(after(now, at_least));
    }

    /// Nothing can be done for the report before `until`.
    pub fn rest(&mut self, report: &Report, until: Timestamp) {
        self.note(report).surely_not_before = Some(until);
    }

    /// The last reading of the summaries for this report.
    pub fn reading(&self, report: &Report) -> Option<Reading> {
        self.notes.get(&report.identifier)?.reading
    }

    /// Keeps a reading of the summaries; `None` begins anew.
    pub fn read(&mut self, report: &Report, reading: Option<Reading>) {
        self.note(report).reading = reading;
    }

    /// The report under this identifier is done with.
    pub fn forget(&mut self, report: &Report) {
        self.notes.remove(&report.identifier);
    }

    fn note(&mut self, report: &Report) -> &mut Note {
        if self.notes.len() >= MAX_NOTES && !self.notes.contains_key(&report.identifier) {
            self.notes.clear();
        }
        self.notes.entry(report.identifier.clone()).or_default()
    }
}

fn lane(report: &Report) -> Lane {
    (report.stripe_customer_id.clone().unwrap_or_default(), report.account.meter.to_string())
}

/// `at + by`.
pub fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::ReportState;
    use crate::units::{Account, PeriodId, TenantNum};

    const HALF: u32 = 1 << 31;

    fn report(customer: &str, identifier: &str) -> Report {
        Report {
            account: Account { tenant: TenantNum(1), period: PeriodId(0), meter: "api_units".into() },
            tenant: "acme".into(),
            stripe_customer_id: Some(customer.into()),
            k: 1,
            identifier: identifier.into(),
            value: 10,
            at: Timestamp::UNIX_EPOCH,
            state: ReportState::Pending,
            first_try: None,
            last_try: None,
            suffix: 0,
            detail: None,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn one_at_a_time_per_customer_and_meter() {
        let mut desk = Desk::default();
        let lane = desk.take(&report("cus_1", "a"), Pace::Usual, at(0)).unwrap();
        assert_eq!(desk.take(&report("cus_1", "b"), Pace::Hurry, at(0)), None);
        assert!(desk.take(&report("cus_2", "c"), Pace::Usual, at(0)).is_some());
        desk.free(&lane);
        assert!(desk.take(&report("cus_1", "b"), Pace::Usual, at(0)).is_some());
    }

    #[test]
    fn back_off_grows_and_is_kept_by_the_usual_pace_only() {
        let mut desk = Desk::default();
        let report = report("cus_1", "a");
        for _ in 0..4 {
            desk.again(&report, Duration::ZERO, at(0), HALF);
        }
        // Half of 500 ms * 2^3.
        assert_eq!(desk.take(&report, Pace::Usual, at(1)), None);
        let lane = desk.take(&report, Pace::Hurry, at(1)).unwrap();
        desk.free(&lane);
        assert!(desk.take(&report, Pace::Usual, at(2)).is_some());
    }

    #[test]
    fn what_stripe_asks_for_is_kept_in_a_hurry_too() {
        let mut desk = Desk::default();
        let report = report("cus_1", "a");
        desk.again(&report, Duration::from_secs(30), at(0), 0);
        assert_eq!(desk.take(&report, Pace::Hurry, at(29)), None);
        assert!(!desk.ready_by(&report, at(29)) && desk.ready_by(&report, at(30)));
        assert!(desk.take(&report, Pace::Hurry, at(30)).is_some());
    }

    #[test]
    fn a_shut_desk_serves_nobody_until_it_opens() {
        let mut desk = Desk::default();
        desk.shut(at(60));
        let report = report("cus_1", "a");
        assert_eq!(desk.take(&report, Pace::Hurry, at(59)), None);
        assert!(!desk.ready_by(&report, at(59)) && desk.ready_by(&report, at(60)));
        assert!(desk.take(&report, Pace::Usual, at(60)).is_some());
    }

    #[test]
    fn forgetting_ends_the_wait() {
        let mut desk = Desk::default();
        let report = report("cus_1", "a");
        desk.rest(&report, at(1000));
        assert_eq!(desk.take(&report, Pace::Hurry, at(0)), None);
        desk.forget(&report);
        assert_eq!(desk.waiting(), 0);
        assert!(desk.take(&report, Pace::Usual, at(0)).is_some());
    }
}
