//! Sending one report once, and noting what came of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::desk;
use super::late;
use super::verdict::{self, Verdict};
use super::{Fate, HELD, Inner, Target, count};
use crate::records::{RecordsError, Report};
use crate::stripe::client::Event;
use crate::stripe::rate::Bucket;
use crate::stripe::retry::{self, IdempotencyKey};
use crate::testing::crash_point;

/// How long a report waits for the shared rate budget before it makes room for another.
const PATIENCE: Duration = Duration::from_secs(5);

/// An attempt that has not begun so long after it was noted is not begun: its note says when it was.
const STALE: Duration = Duration::from_secs(30);

impl Inner {
    /// One attempt. The note of it is in the records before its first byte is on the wire.
    pub(super) async fn send(&self, report: Report, target: &Target) -> Result<Fate, RecordsError> {
        let event = event(&report, target);
        let transport = self.client.transport();
        let request = match transport.prepare(&event.request()) {
            Ok(request) => request,
            Err(error) => return Ok(self.hold(&report, &error.to_string())),
        };
        let permit = match transport.permit(Bucket::MeterEvents, &event.customer, PATIENCE).await {
            Ok(permit) => permit,
            Err(busy) => {
                self.desk().rest(&report, desk::after(self.clock.now(), busy.wait));
                return Ok(Fate::Open);
            }
        };
        let asked = Instant::now();
        let Some(report) = self.records.first_try(&report, self.clock.now()).await? else { return Ok(Fate::Moot) };
        crash_point("report.after_first_try");
        // This process may have been stopped for hours anywhere above.
        if asked.elapsed() > STALE || !late::may_send(&report, self.clock.now()) {
            return Ok(Fate::Open);
        }
        let key = IdempotencyKey::named(&report.identifier, report.suffix);
        let attempt = transport.attempt(permit, &request, &key).await;
        crash_point("report.after_answer");
        self.conclude(&report, verdict::judge(&attempt, &report.identifier)).await
    }

    pub(super) async fn conclude(&self, report: &Report, verdict: Verdict) -> Result<Fate, RecordsError> {
        let now = self.clock.now();
        match &verdict {
            Verdict::Delivered | Verdict::Rejected(_) => self.desk().forget(report),
            Verdict::Again(_, wait) | Verdict::AgainFresh(_, wait) => {
                self.desk().again(report, *wait, now, retry::random());
            }
            Verdict::NoAccess(_) => self.desk().shut(desk::after(now, HELD)),
        }
        if self.records.answered(report, verdict.answer(), now).await?.is_none() {
            return Ok(Fate::Moot);
        }
        tell(report, &verdict);
        Ok(match verdict {
            Verdict::Delivered => {
                crash_point("report.after_delivered");
                Fate::Delivered(report.value)
            }
            Verdict::Rejected(_) => Fate::Rejected,
            Verdict::Again(..) | Verdict::AgainFresh(..) | Verdict::NoAccess(_) => Fate::Open,
        })
    }
}

fn event(report: &Report, target: &Target) -> Event {
    Event {
        event_name: Arc::clone(&target.event),
        customer: report.stripe_customer_id.clone().unwrap_or_default(),
        value: report.value,
        identifier: report.identifier.clone(),
        timestamp: report.at.as_second(),
    }
}

/// Says what came of an attempt, once, where it is handled.
fn tell(report: &Report, verdict: &Verdict) {
    count(verdict.label());
    let (tenant, identifier, value) = (&report.tenant, &report.identifier, report.value);
    match verdict {
        Verdict::Delivered => tracing::debug!(tenant, identifier, value, "report delivered"),
        Verdict::Rejected(why) => tracing::error!(tenant, identifier, value, why, "Stripe refused a report for good"),
        Verdict::NoAccess(why) => tracing::error!(why, "Stripe does not accept our key; reports are waiting"),
        Verdict::Again(why, _) | Verdict::AgainFresh(why, _) => {
            tracing::info!(tenant, identifier, why, "report not confirmed yet; it will be sent again");
        }
    }
}
