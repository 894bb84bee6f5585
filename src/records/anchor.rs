//! Where a tenant's billing periods are counted from.

use super::Tenant;
use crate::period::{Anchor, Interval};

impl Tenant {
    /// The anchor that every part of Tollgate counts this tenant's periods from.
    ///
    /// A trial that ends where the periods begin (as Stripe's does: the anchor is the trial's end) is a period of its
    /// own, from the tenant's creation. Any interval but `year` is a month; callers store nothing else.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        let (start_s, created_s) = (self.period_anchor.as_second(), self.created_at.as_second());
        let interval = if self.period_interval == "year" { Interval::Year } else { Interval::Month };
        let trial = self.trial_ends_at.is_some_and(|end| end.as_second() <= start_s) && created_s < start_s;
        Anchor { start_s, interval, trial_start_s: trial.then_some(created_s) }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::units::TenantNum;

    fn tenant(created: &str, anchor: &str, trial_end: Option<&str>) -> Tenant {
        let time = |text: &str| text.parse::<Timestamp>().expect("RFC 3339");
        Tenant {
            num: TenantNum(1),
            id: "acme".into(),
            name: "Acme".into(),
            email: None,
            plan: "pro".into(),
            plan_version: 1,
            stripe_customer_id: None,
            stripe_subscription_id: None,
            status: None,
            status_since: None,
            trial_ends_at: trial_end.map(time),
            period_anchor: time(anchor),
            period_interval: "month".into(),
            created_at: time(created),
            updated_at: time(created),
        }
    }

    #[test]
    fn without_a_trial_periods_begin_at_the_anchor() {
        let anchor = tenant("2026-11-03T10:00:00Z", "2026-11-03T10:00:00Z", None).anchor();
        assert_eq!((anchor.interval, anchor.trial_start_s), (Interval::Month, None));
        assert_eq!(anchor.start_s, 1_793_700_000);
    }

    #[test]
    fn a_trial_up_to_the_anchor_is_a_period_of_its_own() {
        let with = |anchor, trial| tenant("2026-11-03T10:00:00Z", anchor, trial).anchor().trial_start_s;
        assert_eq!(with("2026-11-17T10:00:00Z", Some("2026-11-17T10:00:00Z")), Some(1_793_700_000));
        assert_eq!(
            with("2026-11-03T10:00:00Z", Some("2026-11-17T10:00:00Z")),
            None,
            "the anchor is not the trial's end"
        );
    }

    #[test]
    fn a_yearly_subscription_has_yearly_periods() {
        let mut tenant = tenant("2026-11-03T10:00:00Z", "2026-11-03T10:00:00Z", None);
        tenant.period_interval = "year".into();
        assert_eq!(tenant.anchor().interval, Interval::Year);
    }
}
