//! Sealing what is due: the records put it into a report of its own, here is only when and with which timestamp.

use std::time::Duration;

use jiff::Timestamp;

use super::Inner;
use super::stamp::{self, Stamp};
use crate::records::{Due, RecordsError};

/// Accounts sealed in one go; the rest follow at the next beat.
const SEALS: u32 = 500;

/// What a round of seals found.
pub(super) struct Sealed {
    /// Reports made.
    pub(super) reports: u64,
    /// Since when the oldest of it had been waiting.
    pub(super) oldest: Option<Timestamp>,
}

impl Inner {
    /// Seals accounts whose oldest unreported usage is older than `window`.
    pub(super) async fn seal_due(&self, window: Duration) -> Result<Sealed, RecordsError> {
        let now = self.clock.now();
        let ripe = now.checked_sub(window).unwrap_or(Timestamp::MIN);
        let due = self.records.due_accounts(ripe, SEALS).await?;
        let mut sealed = Sealed { reports: 0, oldest: due.first().map(|due| due.since) };
        for due in &due {
            match self.seal(due, now).await {
                Ok(made) => sealed.reports += u64::from(made),
                // One account's trouble holds up no other.
                Err(error @ (RecordsError::Corrupt(_) | RecordsError::Invalid(_))) => {
                    tracing::error!(tenant = due.tenant, meter = &*due.account.meter, %error, "cannot be sealed");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(sealed)
    }

    async fn seal(&self, due: &Due, now: Timestamp) -> Result<bool, RecordsError> {
        let Some(tenant) = self.records.tenant_by_num(due.account.tenant).await? else {
            return Err(RecordsError::Corrupt(format!("account {:?} has no tenant", due.account)));
        };
        let at = match stamp::stamp(&tenant, due.account.period, now) {
            Stamp::Within(at) => at,
            Stamp::Late(at) => {
                tracing::warn!(tenant = due.tenant, meter = &*due.account.meter, "usage too old for its period");
                at
            }
            Stamp::Early => return Ok(false),
        };
        Ok(self.records.seal(&due.account, at, now).await?.is_some())
    }
}
