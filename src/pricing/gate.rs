//! What a subscription's status opens: pass, a time of grace, the free plan, or nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Plan;

/// A subscription's status, as Stripe names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// In its trial.
    Trialing,
    /// Paid.
    Active,
    /// The last invoice was not paid; Stripe retries.
    PastDue,
    /// Retries are over.
    Unpaid,
    /// Ended.
    Canceled,
    /// The first invoice is not paid yet.
    Incomplete,
    /// The first invoice was not paid in time.
    IncompleteExpired,
    /// The trial ended without a payment method.
    Paused,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 8] = [
        Self::Trialing,
        Self::Active,
        Self::PastDue,
        Self::Unpaid,
        Self::Canceled,
        Self::Incomplete,
        Self::IncompleteExpired,
        Self::Paused,
    ];

    /// The gate of a plan that says nothing about this status.
    #[must_use]
    pub const fn default_gate(self) -> Gate {
        match self {
            Self::Trialing | Self::Active => Gate::Pass,
            Self::PastDue => Gate::Grace,
            Self::Unpaid | Self::Canceled | Self::Incomplete | Self::IncompleteExpired | Self::Paused => Gate::Deny,
        }
    }
}

/// What a subscription status opens, as a plan says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Everything, on this plan.
    Pass,
    /// Everything for `grace_s` from the moment of the status, then 402.
    Grace,
    /// The plan named `free` applies.
    Free,
    /// 402 `subscription_inactive`.
    Deny,
}

/// What a status opens at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything, on this plan.
    Pass,
    /// The plan named `free` applies.
    Free,
    /// 402 `subscription_inactive`.
    Deny,
}

/// A gate for every status: `trialing` and `active` pass, `past_due` has its grace, the others are refused.
#[must_use]
pub fn default_gates() -> BTreeMap<Status, Gate> {
    Status::ALL.into_iter().map(|status| (status, status.default_gate())).collect()
}

impl Plan {
    /// What a tenant on this plan may do at `now_s`, whose subscription has had `status` since `since_s` (Unix seconds).
    ///
    /// Without a subscription (`None`) the plan applies as assigned. A grace whose beginning is not known has only just
    /// begun: a paying customer is not refused for a date that we failed to note.
    #[must_use]
    pub fn access(&self, status: Option<Status>, since_s: Option<i64>, now_s: i64) -> Access {
        let Some(status) = status else { return Access::Pass };
        match self.gates.get(&status).copied().unwrap_or_else(|| status.default_gate()) {
            Gate::Pass => Access::Pass,
            Gate::Free => Access::Free,
            Gate::Grace if now_s < since_s.unwrap_or(now_s).saturating_add(self.grace_s) => Access::Pass,
            Gate::Grace | Gate::Deny => Access::Deny,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE_S: i64 = 1_700_000_000;
    const DAY_S: i64 = 86_400;

    #[test]
    fn every_status_has_its_access() {
        let plan = Plan { grace_s: 7 * DAY_S, ..Plan::example() };
        for (status, since_s, now_s, expected) in [
            (None, None, SINCE_S, Access::Pass),
            (Some(Status::Trialing), Some(SINCE_S), SINCE_S + 99 * DAY_S, Access::Pass),
            (Some(Status::Active), Some(SINCE_S), SINCE_S + 99 * DAY_S, Access::Pass),
            (Some(Status::PastDue), Some(SINCE_S), SINCE_S, Access::Pass),
            (Some(Status::PastDue), Some(SINCE_S), SINCE_S - DAY_S, Access::Pass),
            (Some(Status::PastDue), Some(SINCE_S), SINCE_S + 7 * DAY_S - 1, Access::Pass),
            (Some(Status::PastDue), Some(SINCE_S), SINCE_S + 7 * DAY_S, Access::Deny),
            (Some(Status::PastDue), None, SINCE_S, Access::Pass),
            (Some(Status::PastDue), Some(i64::MAX), i64::MIN, Access::Pass),
            (Some(Status::Unpaid), Some(SINCE_S), SINCE_S, Access::Deny),
            (Some(Status::Canceled), Some(SINCE_S), SINCE_S, Access::Deny),
            (Some(Status::Incomplete), Some(SINCE_S), SINCE_S, Access::Deny),
            (Some(Status::IncompleteExpired), Some(SINCE_S), SINCE_S, Access::Deny),
            (Some(Status::Paused), None, SINCE_S, Access::Deny),
        ] {
            assert_eq!(plan.access(status, since_s, now_s), expected, "{status:?} {since_s:?} {now_s}");
        }
    }

    #[test]
    fn without_grace_past_due_is_refused_at_once() {
        assert_eq!(Plan::example().access(Some(Status::PastDue), Some(SINCE_S), SINCE_S), Access::Deny);
    }

    #[test]
    fn a_plans_own_gate_overrides_the_default() {
        let mut plan = Plan::example();
        plan.gates = BTreeMap::from([(Status::Canceled, Gate::Free), (Status::Active, Gate::Deny)]);
        assert_eq!(plan.access(Some(Status::Canceled), None, SINCE_S), Access::Free);
        assert_eq!(plan.access(Some(Status::Active), None, SINCE_S), Access::Deny);
        assert_eq!(plan.access(Some(Status::Trialing), None, SINCE_S), Access::Pass);
    }

    #[test]
    fn statuses_are_spelt_as_stripe_spells_them() {
        let names = Status::ALL.map(|status| serde_json::to_string(&status).unwrap());
        assert_eq!(
            names.join(" ").replace('"', ""),
            "trialing active past_due unpaid canceled incomplete incomplete_expired paused"
        );
        assert_eq!(default_gates().len(), Status::ALL.len());
    }
}
