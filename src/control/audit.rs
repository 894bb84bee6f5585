//! `/api/v1/audit`: who changed what, and the one way to write it down.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use serde_json::Value;

use super::ControlState;
use super::auth::Actor;
use super::input::{PageParams, Params};
use super::problem::Problem;
use crate::records::{AuditEntry, Listed};

/// `GET /audit?limit&after`: newest first.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    Params(params): Params<PageParams>,
) -> Result<Answer<Listed<AuditEntry>>, Problem> {
    Ok(Answer(state.records.audits(params.page()?).await?))
}

impl ControlState {
    /// Writes down that `actor` did `action` to `subject`. The change is made by then and is answered as made: an entry
    /// that cannot be stored goes to the log in full, as an error.
    pub(super) async fn audit(&self, actor: &Actor, action: &str, subject: &str, detail: Value) {
        let entry = AuditEntry {
            at: self.clock.now(),
            actor: actor.name.clone(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            detail,
        };
        if let Err(error) = self.records.audit(entry.clone()).await {
            tracing::error!(%error, ?entry, "an audit entry could not be stored");
        }
    }
}
