//! `/api/v1/reports` and `/dead-letters`: what was told to Stripe, and what Stripe refused for good.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State as Shared;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ControlState;
use super::input::{Params, page};
use super::problem::Problem;
use crate::records::{Held, Listed, Report, ReportFilter, ReportState};
use crate::units::Account;

/// Query of the list of reports.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportParams {
    limit: Option<u32>,
    after: Option<String>,
    tenant: Option<String>,
    state: Option<State>,
}

/// Which reports to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Pending,
    Delivered,
    Rejected,
    /// Not reports yet: usage that waits for its tenant to get a Stripe customer.
    NoCustomer,
}

/// Query of the dead letters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeadLetterParams {
    limit: Option<u32>,
    after: Option<String>,
    tenant: Option<String>,
}

/// A report, or what will be one, with the counter that it belongs to.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    meter: Arc<str>,
    period_start: Option<Timestamp>,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum What {
    Sealed(Report),
    Held { tenant: String, value: u64, state: &'static str },
}

/// `GET /reports?limit&after&tenant&state`: newest first.
pub(super) async fn list(
    Shared(state): Shared<Arc<ControlState>>,
    Params(params): Params<ReportParams>,
) -> Result<Answer<Listed<Entry>>, Problem> {
    let sealed = match params.state {
        None => None,
        Some(State::Pending) => Some(ReportState::Pending),
        Some(State::Delivered) => Some(ReportState::Delivered),
        Some(State::Rejected) => Some(ReportState::Rejected),
        Some(State::NoCustomer) => return held(&state, params).await,
    };
    let filter = ReportFilter { tenant: params.tenant, state: sealed };
    entries(&state, filter, params.limit, params.after).await
}

async fn held(state: &ControlState, params: ReportParams) -> Result<Answer<Listed<Entry>>, Problem> {
    if params.tenant.is_some() {
        return Err(Problem::invalid("tenant", "not together with state=no_customer"));
    }
    let listed = state.records.held_accounts(page(params.limit, params.after)?).await?;
    Ok(Answer(Listed { data: listed.data.into_iter().map(Entry::from).collect(), next: listed.next }))
}

/// `GET /dead-letters?limit&after&tenant`: rejected reports, newest first. Each wants a person.
pub(super) async fn dead_letters(
    Shared(state): Shared<Arc<ControlState>>,
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

impl Entry {
    fn new(account: &Account, what: What) -> Self {
        let period_start = Timestamp::from_second(account.period.0).ok();
        Self { meter: Arc::clone(&account.meter), period_start, what }
    }
}

impl From<Report> for Entry {
    fn from(report: Report) -> Self {
        Self::new(&report.account.clone(), What::Sealed(report))
    }
}

impl From<Held> for Entry {
    fn from(held: Held) -> Self {
        let what = What::Held { tenant: held.tenant, value: held.unreported, state: "no_customer" };
        Self::new(&held.account, what)
    }
}
