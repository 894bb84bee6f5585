//! `/api/v1/config`: what is in force, and loading it again.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json as Answer};
use http::StatusCode;
use serde_json::{Value, json};

use super::ControlState;
use super::auth::Actor;
use super::problem::Problem;

/// `GET /config`: the active version, and why the last attempt at another one failed, if it did.
pub(super) async fn show(State(state): State<Arc<ControlState>>) -> Answer<Value> {
    let active = state.active.load();
    Answer(json!({
        "version": active.version,
        "sha256": active.sha256,
        "loaded_at": active.loaded_at,
        "last_error": active.last_error,
    }))
}

/// `POST /config/reload`: 200 with the version then in force, or 422 with every mistake; the old one then stays.
pub(super) async fn reload(
    State(state): State<Arc<ControlState>>,
    Extension(actor): Extension<Actor>,
) -> Result<Answer<Value>, Problem> {
    let loaded = (state.reload)().await;
    let detail = match &loaded {
        Ok(version) => json!({ "version": version }),
        Err(mistakes) => json!({ "refused": mistakes }),
    };
    state.audit(&actor, "config.reload", "config", detail).await;
    match loaded {
        Ok(version) => Ok(Answer(json!({ "version": version }))),
        Err(mistakes) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_configuration", mistakes)),
    }
}
