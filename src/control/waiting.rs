//! The admin port before there are records: alive, not ready, and why.

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::get;
use http::StatusCode;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::problem::Problem;
use super::readiness::Readiness;
use super::{health, layers, server};
use crate::telemetry::Metrics;

/// Answers on `listener` until `cancel`, with nothing but health and metrics.
pub async fn serve_waiting(listener: TcpListener, readiness: Readiness, metrics: Metrics, cancel: CancellationToken) {
    let ready = move || std::future::ready(health::ready(&readiness));
    let measured = move || std::future::ready(health::measured(&metrics));
    let router = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(ready))
        .route("/metrics", get(measured))
        .fallback(not_yet)
        .layer(from_fn(layers::name_and_render));
    server::run(listener, router, TaskTracker::new(), cancel).await;
}

async fn not_yet() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", "the node is starting; /readyz says what it waits for")
}
