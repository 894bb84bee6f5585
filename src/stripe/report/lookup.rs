//! Asking Stripe's summaries about a report whose identifier may have been forgotten.

use std::time::Duration;

use jiff::Timestamp;

use super::late::{self, Finding, Reading};
use super::verdict::Verdict;
use super::{Fate, Inner, Target, count, desk, stamp};
use crate::pricing::MeterKind;
use crate::records::{RecordsError, Report};
use crate::stripe::transport::CallError;

/// How soon to try the summaries again when they could not be read.
const READ_AGAIN: Duration = Duration::from_secs(10 * 60);

/// What became of reading the summaries.
enum Look {
    Read(Reading),
    NotNow(String),
    /// For a person.
    Never(String),
}

impl Inner {
    /// Its identifier may have been forgotten: compares Stripe's summaries with what was confirmed.
    pub(super) async fn look_it_up(
        &self,
        report: Report,
        target: &Target,
        last: Option<Reading>,
    ) -> Result<Fate, RecordsError> {
        let reading = match self.read(&report, target).await? {
            Look::Read(reading) => reading,
            Look::NotNow(why) => return Ok(self.read_later(&report, &why)),
            Look::Never(why) => return Ok(self.alarm(&report, &why)),
        };
        let finding = last.map_or(Finding::Unsettled, |last| late::find(report.value, last, reading));
        match finding {
            Finding::Unsettled => {
                self.desk().read(&report, Some(reading));
                Ok(Fate::Open)
            }
            Finding::Arrived => self.conclude(&report, Verdict::Delivered).await,
            Finding::Absent => self.renew(&report).await,
            Finding::Unclear(why) => Ok(self.alarm(&report, &why)),
        }
    }

    /// Reads both sides.
    async fn read(&self, report: &Report, target: &Target) -> Result<Look, RecordsError> {
        if target.kind != MeterKind::Counter {
            return Ok(Look::Never("summaries of a gauge do not tell which values arrived".to_owned()));
        }
        let customer = report.stripe_customer_id.as_deref().unwrap_or_default();
        if self.meters.load().values().filter(|other| other.event == target.event).count() > 1 {
            return Ok(Look::Never(format!("two of our meters feed {:?}", target.event)));
        }
        let metered = match self.metered(report, customer, target).await {
            Ok(metered) => metered,
            Err(error @ (CallError::Unavailable(_) | CallError::Unknown(_))) => {
                return Ok(Look::NotNow(error.to_string()));
            }
            Err(error) => return Ok(Look::Never(error.to_string())),
        };
        let span = stamp::minute_of(report.at);
        let bound = |s| Timestamp::from_second(s).map_err(|e| RecordsError::Corrupt(format!("report's time: {e}")));
        let (from, to) = (bound(span.start_s)?, bound(span.end_s)?);
        let delivered = self.records.delivered_between(customer, &report.account.meter, from, to).await?;
        Ok(Look::Read(Reading { metered, delivered, at: self.clock.now() }))
    }

    async fn metered(&self, report: &Report, customer: &str, target: &Target) -> Result<u64, CallError> {
        let meter = self.client.meter_by_event(&target.event).await?;
        let meter = meter.ok_or_else(|| CallError::Invalid(format!("no active meter for {:?}", target.event)))?;
        self.client.metered(&meter.id, customer, stamp::minute_of(report.at)).await
    }

    /// Stripe provably does not have it: it goes out again at the next look, under a new identifier.
    async fn renew(&self, report: &Report) -> Result<Fate, RecordsError> {
        self.desk().forget(report);
        match self.records.reidentify(report, self.clock.now()).await {
            Ok(renewed) => {
                let (old, new) = (&report.identifier, renewed.identifier);
                tracing::warn!(tenant = report.tenant, old, new, "a report never arrived; sending it anew");
                count("renewed");
                Ok(Fate::Open)
            }
            Err(RecordsError::Invalid(why)) => {
                tracing::debug!(why, "another reporter was quicker");
                Ok(Fate::Moot)
            }
            Err(error) => Err(error),
        }
    }

    fn read_later(&self, report: &Report, why: &str) -> Fate {
        tracing::warn!(
            identifier = report.identifier,
            why,
            "Stripe's summaries cannot be read; they will be tried again"
        );
        self.desk().rest(report, desk::after(self.clock.now(), READ_AGAIN));
        Fate::Open
    }

    /// Wants a person; nothing is sent, nothing is changed, and it is looked at again tomorrow.
    fn alarm(&self, report: &Report, why: &str) -> Fate {
        tracing::error!(
            tenant = report.tenant,
            identifier = report.identifier,
            value = report.value,
            why,
            "it cannot be told whether Stripe has this report; it is left for a person"
        );
        count("unclear");
        let mut desk = self.desk();
        desk.read(report, None);
        let tomorrow = self.clock.now().checked_add(late::AFTER_ALARM).unwrap_or(Timestamp::MAX);
        desk.rest(report, tomorrow);
        Fate::Open
    }
}
