//! Reports whose outcome stayed unknown for so long that Stripe may have forgotten their identifier: its summaries
//! are asked before anything is sent again (`LEDGER.md`, "unknown and `first_try` older than 20 h"). Pure.

use jiff::{SignedDuration, Timestamp};

use crate::records::Report;

/// Stripe knows an identifier for at least 24 h; four of them are left for clocks and attempts under way.
pub const SAFE: SignedDuration = SignedDuration::from_hours(20);

/// After the last attempt, so that what it may have brought is in the summaries.
const SETTLE: SignedDuration = SignedDuration::from_hours(1);

/// Between two readings that must agree.
const APART: SignedDuration = SignedDuration::from_mins(10);

/// After an alarm, until the summaries are looked at again: reads are rationed.
pub const AFTER_ALARM: SignedDuration = SignedDuration::from_hours(24);

/// What to do with an open report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Send it under its identifier.
    Send,
    /// Too late to send; nothing to do before then.
    Wait(Timestamp),
    /// Too late to send; read the summaries.
    Read,
}

/// One look at both sides. Units with timestamps in the report's minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// In Stripe's summaries.
    pub metered: u64,
    /// In our reports that Stripe has confirmed.
    pub delivered: u64,
    /// When.
    pub at: Timestamp,
}

/// What two readings say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// They differ: the summaries are not settled. The later one counts as the first of the next two.
    Unsettled,
    /// Stripe has it.
    Arrived,
    /// Stripe does not have it: to be sent under a new identifier.
    Absent,
    /// Neither fits: somebody else reports to this customer and meter, or the value was cut. For a person.
    Unclear(String),
}

/// Plans by the report and the last reading, if there is one.
pub fn plan(report: &Report, last: Option<Reading>, now: Timestamp) -> Plan {
    let Some(first_try) = report.first_try.filter(|_| !may_send(report, now)) else { return Plan::Send };
    let from_try = after(report.last_try.unwrap_or(first_try), SETTLE);
    let from = last.map_or(from_try, |reading| from_try.max(after(reading.at, APART)));
    if now < from { Plan::Wait(from) } else { Plan::Read }
}

/// Does Stripe certainly still know the identifier, if it ever did?
pub fn may_send(report: &Report, now: Timestamp) -> bool {
    report.first_try.is_none_or(|first| now.duration_since(first) < SAFE)
}

/// Compares two readings for a report of `value` units.
pub fn find(value: u64, first: Reading, second: Reading) -> Finding {
    if (first.metered, first.delivered) != (second.metered, second.delivered) {
        return Finding::Unsettled;
    }
    let Reading { metered, delivered, .. } = second;
    match metered.checked_sub(delivered) {
        Some(0) => Finding::Absent,
        Some(more) if more >= value => Finding::Arrived,
        Some(_) | None => Finding::Unclear(format!(
            "Stripe's summaries say {metered} units, {delivered} are confirmed, the report is over {value}"
        )),
    }
}

fn after(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::ReportState;
    use crate::units::{Account, PeriodId, TenantNum};

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + minutes * 60).unwrap()
    }

    fn report(first_try: Option<i64>, last_try: Option<i64>) -> Report {
        Report {
            account: Account { tenant: TenantNum(1), period: PeriodId(0), meter: "api_units".into() },
            tenant: "acme".into(),
            stripe_customer_id: Some("cus_1".into()),
            k: 1,
            identifier: "id-1".into(),
            value: 10,
            at: at(0),
            state: ReportState::Pending,
            first_try: first_try.map(at),
            last_try: last_try.map(at),
            suffix: 0,
            detail: None,
        }
    }

    fn reading(metered: u64, delivered: u64, minutes: i64) -> Reading {
        Reading { metered, delivered, at: at(minutes) }
    }

    #[test]
    fn plans() {
        const H: i64 = 60;
        let read_at = |minutes| Some(reading(0, 0, minutes));
        let table = [
            // first try, last try, last reading, now -> plan
            (None, None, None, 0, Plan::Send),
            (None, None, None, 99 * H, Plan::Send),
            (Some(0), Some(0), None, 20 * H - 1, Plan::Send),
            (Some(0), Some(19 * H), None, 20 * H, Plan::Read),
            (Some(0), Some(20 * H - 1), None, 20 * H, Plan::Wait(at(21 * H - 1))),
            (Some(0), Some(20 * H - 1), None, 21 * H - 1, Plan::Read),
            (Some(0), Some(0), read_at(30 * H), 30 * H + 9, Plan::Wait(at(30 * H + 10))),
            (Some(0), Some(0), read_at(30 * H), 30 * H + 10, Plan::Read),
            (Some(0), Some(31 * H), read_at(30 * H), 31 * H, Plan::Wait(at(32 * H))),
        ];
        for (first, last, reading, now, want) in table {
            assert_eq!(plan(&report(first, last), reading, at(now)), want, "{first:?} {last:?} {reading:?} {now}");
        }
    }

    #[test]
    fn findings() {
        let pair = |metered, delivered| (reading(metered, delivered, 0), reading(metered, delivered, 10));
        let table = [
            (pair(15, 5), Finding::Arrived),
            (pair(16, 5), Finding::Arrived),
            (pair(5, 5), Finding::Absent),
            (pair(0, 0), Finding::Absent),
            ((reading(0, 0, 0), reading(10, 0, 10)), Finding::Unsettled),
            ((reading(5, 0, 0), reading(5, 5, 10)), Finding::Unsettled),
        ];
        for ((first, second), want) in table {
            assert_eq!(find(10, first, second), want, "{first:?} {second:?}");
        }
        for (metered, delivered) in [(14, 5), (6, 5), (4, 5)] {
            let (first, second) = pair(metered, delivered);
            assert!(matches!(find(10, first, second), Finding::Unclear(_)), "{second:?}");
        }
    }
}
