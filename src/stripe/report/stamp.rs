//! The timestamp a report is sealed with: inside its period, and such that Stripe takes it. Pure.

use jiff::Timestamp;

use crate::period::{Anchor, Interval, period_at};
use crate::records::Tenant;
use crate::stripe::client::Span;
use crate::units::PeriodId;

/// Stripe refuses timestamps older than 35 days; the last of them is kept for sending again.
const OLDEST_S: i64 = 34 * 24 * 3600;

/// Stripe refuses timestamps more than 5 minutes ahead; one minute is kept for clocks that differ.
const AHEAD_S: i64 = 4 * 60;

/// A report's timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Inside its own period.
    Within(Timestamp),
    /// Stripe takes no timestamp of that period any more: now, which is in the running one.
    Late(Timestamp),
    /// The period has not begun by this clock: not to be sealed yet.
    Early,
}

/// The timestamp for usage of `tenant` in `period`, sealed at `now`: now if that is inside, else the nearest second.
///
/// Kept out of a minute that two periods share, since Stripe's summaries are by the minute.
pub fn stamp(tenant: &Tenant, period: PeriodId, now: Timestamp) -> Stamp {
    let (start_s, end_s, now_s) = (period.0, no_later_than_end(tenant, period), now.as_second());
    let first = start_s.saturating_add(59).div_euclid(60) * 60;
    let last = end_s.div_euclid(60) * 60 - 1;
    let at = if first <= last { now_s.clamp(first, last) } else { start_s };
    if at > now_s + AHEAD_S {
        return Stamp::Early;
    }
    match Timestamp::from_second(at) {
        Ok(at) if at.as_second() >= now_s - OLDEST_S => Stamp::Within(at),
        Ok(_) | Err(_) => Stamp::Late(now),
    }
}

/// The minute around a report's timestamp, for comparing with Stripe's summaries: the narrowest span they have, so
/// that as little else as possible is in it.
pub fn minute_of(at: Timestamp) -> Span {
    let start_s = at.as_second().div_euclid(60) * 60;
    Span { start_s, end_s: start_s + 60 }
}

/// A second that is certainly not after the period's end. Unix seconds.
///
/// The account knows its period's first second only. Counted from that second, a month is never longer than counted
/// from an anchor on a later day of the month. A period from before the tenant's anchor was cut short there at the
/// latest, and may have been a month whatever the interval is now.
fn no_later_than_end(tenant: &Tenant, period: PeriodId) -> i64 {
    let anchor_s = tenant.period_anchor.as_second();
    let before_anchor = period.0 < anchor_s;
    let interval = if tenant.period_interval == "year" && !before_anchor { Interval::Year } else { Interval::Month };
    let end_s = period_at(Anchor { start_s: period.0, interval, trial_start_s: None }, period.0).end_s;
    if before_anchor { end_s.min(anchor_s) } else { end_s }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn tenant(anchor: &str, interval: &str) -> Tenant {
        let json = serde_json::json!({
            "id": "acme", "name": "Acme", "email": null, "plan": "pro", "stripe_customer_id": "cus_1",
            "stripe_subscription_id": null, "status": null, "status_since": null, "trial_ends_at": null,
            "period_anchor": anchor, "period_interval": interval, "created_at": anchor, "updated_at": anchor,
        });
        serde_json::from_value(json).unwrap()
    }

    fn stamped(anchor: &str, interval: &str, period: &str, now: &str) -> Stamp {
        stamp(&tenant(anchor, interval), PeriodId(time(period).as_second()), time(now))
    }

    #[test]
    fn inside_the_period_and_its_own_minutes() {
        let table = [
            // period began at, now, stamped at
            ("2026-03-10T12:00:00Z", "2026-03-20T08:30:15Z", "2026-03-20T08:30:15Z"),
            ("2026-03-10T12:00:00Z", "2026-03-10T12:00:00Z", "2026-03-10T12:00:00Z"),
            ("2026-03-10T12:00:00Z", "2026-04-10T12:00:00Z", "2026-04-10T11:59:59Z"),
            ("2026-03-10T12:00:00Z", "2026-04-10T13:00:00Z", "2026-04-10T11:59:59Z"),
            // Not on a whole minute: the shared minute belongs to neither.
            ("2026-03-10T12:00:07Z", "2026-03-10T12:00:09Z", "2026-03-10T12:01:00Z"),
            ("2026-03-10T12:00:07Z", "2026-04-10T12:00:05Z", "2026-04-10T11:59:59Z"),
        ];
        for (period, now, want) in table {
            assert_eq!(stamped(period, "month", period, now), Stamp::Within(time(want)), "{period} at {now}");
        }
    }

    #[test]
    fn a_period_cut_short_by_a_new_anchor_ends_there() {
        let got = stamped("2026-03-20T00:00:00Z", "year", "2026-03-10T00:00:00Z", "2026-03-25T00:00:00Z");
        assert_eq!(got, Stamp::Within(time("2026-03-19T23:59:59Z")));
    }

    #[test]
    fn a_yearly_period_is_a_year_long() {
        let got = stamped("2026-01-01T00:00:00Z", "year", "2026-01-01T00:00:00Z", "2026-11-01T00:00:00Z");
        assert_eq!(got, Stamp::Within(time("2026-11-01T00:00:00Z")));
    }

    #[test]
    fn what_stripe_no_longer_takes_goes_into_the_running_period() {
        let now = "2026-07-01T00:00:00Z";
        assert_eq!(stamped("2026-03-10T00:00:00Z", "month", "2026-03-10T00:00:00Z", now), Stamp::Late(time(now)));
    }

    #[test]
    fn a_period_to_come_is_not_sealed() {
        let got = stamped("2026-03-10T00:00:00Z", "month", "2026-03-10T00:00:00Z", "2026-03-09T00:00:00Z");
        assert_eq!(got, Stamp::Early);
    }

    proptest::proptest! {
        /// Whatever the anchor: the stamp is never outside the period that the anchor gives.
        #[test]
        fn never_outside_the_period(anchor_s in 1_600_000_000_i64..1_900_000_000, into in 0_i64..80_000_000, late in 0_i64..2_000_000) {
            for (text, interval) in [("month", Interval::Month), ("year", Interval::Year)] {
                let period = period_at(Anchor { start_s: anchor_s, interval, trial_start_s: None }, anchor_s + into);
                let anchor = Timestamp::from_second(anchor_s).unwrap().to_string();
                let now = Timestamp::from_second(anchor_s + into + late).unwrap();
                if let Stamp::Within(at) = stamp(&tenant(&anchor, text), period.id(), now) {
                    proptest::prop_assert!((period.start_s..period.end_s).contains(&at.as_second()));
                    proptest::prop_assert!(at.as_second() <= now.as_second() + AHEAD_S);
                }
            }
        }
    }

    #[test]
    fn a_minute() {
        let span = minute_of(time("2026-03-10T12:00:59Z"));
        assert_eq!(
            (span.start_s, span.end_s),
            (time("2026-03-10T12:00:00Z").as_second(), time("2026-03-10T12:01:00Z").as_second())
        );
    }
}
