//! The demo's API: what somebody might already be running, before Tollgate came.

use std::net::SocketAddr;

use axum::extract::Path;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use http::header::CONTENT_TYPE;
use serde_json::json;
use tokio::net::TcpListener;

/// Serves the sample API on a free port of this machine until the task is dropped.
///
/// # Errors
/// When no port is free.
pub(super) async fn start() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, api()).await {
            tracing::error!(%error, "the sample API stopped");
        }
    });
    Ok(address)
}

fn api() -> Router {
    Router::new()
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/docs/{*page}", get(|| async { "GET /signals, GET /signals/history/{symbol}, GET /export/csv\n" }))
        .route("/signals", get(signals).post(signals))
        .route("/signals/history/{symbol}", get(history))
        .route("/export/csv", get(csv))
        .route("/export/pdf", get(pdf))
}

async fn signals() -> impl IntoResponse {
    Json(json!({ "signals": [
        { "symbol": "ACME", "action": "buy", "confidence_percent": 81 },
        { "symbol": "INIT", "action": "hold", "confidence_percent": 64 },
    ] }))
}

async fn history(Path(symbol): Path<String>) -> impl IntoResponse {
    let days: Vec<_> = (1..=5).map(|day| json!({ "day": day, "close_cents": 10_000 + 137 * day })).collect();
    Json(json!({ "symbol": symbol, "history": days }))
}

async fn csv() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/csv")], "symbol,action\nACME,buy\nINIT,hold\n")
}

async fn pdf() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/pdf")], "%PDF-1.4\n%%EOF\n")
}
