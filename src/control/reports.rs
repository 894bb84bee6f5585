//! `/api/v1/reports` and `/dead-letters`: what was told to Stripe, and what Stripe refused for good.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ControlState;
use super::input::{Params, page};
use super::problem::Problem;
use crate::records::{Listed, Report, ReportFilter, ReportState};

/// Query of the list of reports.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportParams {
    limit: Option<u32>,
    after: Option<String>,
    tenant: Option<String>,
    state: Option<ReportState>,
}

/// Query of the dead letters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeadLetterParams {
    limit: Option<u32>,
    after: Option<String>,
    tenant: Option<String>,
}

/// A report with the counter that it belongs to.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    meter: Arc<str>,
    period_start: Option<Timestamp>,
    #[serde(flatten)]
    report: Report,
}

/// `GET /reports?limit&after&tenant&state`: newest first.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    Params(params): Params<ReportParams>,
) -> Result<Answer<Listed<Entry>>, Problem> {
    let filter = ReportFilter { tenant: params.tenant, state: params.state };
    entries(&state, filter, params.limit, params.after).await
}

/// `GET /dead-letters?limit&after&tenant`: rejected reports, newest first. Each wants a person.
pub(super) async fn dead_letters(
    State(state): State<Arc<ControlState>>,
    Params(params): Params<DeadLetterParams>,
) -> Result<Answer<Listed<Entry>>, Problem> {
    let filter = ReportFilter { tenant: params.tenant, state: Some(ReportState::Rejected) };
    entries(&state, filter, params.limit, params.after).await
}

async fn entries(
    state: &ControlState,
    filter: ReportFilter,
    limit: Option<u32>,
    after: Option<String>,
) -> Result<Answer<Listed<Entry>>, Problem> {
    let listed = state.records.reports(filter, page(limit, after)?).await?;
    Ok(Answer(Listed { data: listed.data.into_iter().map(Entry::from).collect(), next: listed.next }))
}

impl From<Report> for Entry {
    fn from(report: Report) -> Self {
        let period_start = Timestamp::from_second(report.account.period.0).ok();
        Self { meter: Arc::clone(&report.account.meter), period_start, report }
    }
}
