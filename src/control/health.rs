//! Open to everybody who reaches the admin port: is the process alive, may it take traffic, what does it measure.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

use super::{ControlState, Readiness};
use crate::telemetry::Metrics;

/// `GET /healthz`: the process answers.
pub(super) async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// `GET /readyz`: 200, or 503 with what is missing.
pub(super) async fn readyz(State(state): State<Arc<ControlState>>) -> Response {
    ready(&state.readiness)
}

pub(super) fn ready(readiness: &Readiness) -> Response {
    let missing = readiness.missing();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": missing.is_empty(), "missing": missing }))).into_response()
}

/// `GET /metrics`: Prometheus' text format.
pub(super) async fn metrics(State(state): State<Arc<ControlState>>) -> Response {
    measured(&state.metrics)
}

pub(super) fn measured(metrics: &Metrics) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}
