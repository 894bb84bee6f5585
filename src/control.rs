//! The admin port: tenants, keys, usage, reports, configuration and audit under `/api/v1`, health and metrics beside it.
//!
//! Every request under `/api/v1` carries `Authorization: Bearer <admin token>`; what a token may do is one table,
//! `auth::needed`. Every refusal is `application/problem+json` (RFC 9457) that names the field at fault. Every change
//! is written to the audit log, and the data plane hears of it before the client gets its 2xx.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use futures_util::future::BoxFuture;
use http::{Method, StatusCode, Uri};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Settings;
use crate::pricing::Pricing;
use crate::records::Records;
use crate::telemetry::Metrics;
use crate::units::{Account, TenantNum};

mod audit;
mod auth;
mod configuration;
mod health;
mod input;
mod keys;
mod layers;
mod problem;
pub mod readiness;
mod reports;
mod secret;
mod server;
mod tenants;
mod usage;
mod waiting;

pub use readiness::{Condition, Readiness};
pub use waiting::serve_waiting;

use problem::Problem;

/// Tells the data plane what changed.
pub type OnChange = Arc<dyn Fn(Change) -> BoxFuture<'static, ()> + Send + Sync>;

/// Looks up this node's freshest count of an account.
pub type LiveUsed = Arc<dyn Fn(&Account) -> Option<u64> + Send + Sync>;

/// Loads the configuration files again.
pub type Reload = Arc<dyn Fn() -> BoxFuture<'static, Result<u64, String>> + Send + Sync>;

/// What the admin API works with.
#[derive(Clone)]
pub struct ControlState {
    /// Tenants, keys, usage, reports, audit.
    pub records: Records,
    /// Now.
    pub clock: Clock,
    /// The configuration in force; swapped as a whole by whoever reloads.
    pub active: Arc<ArcSwap<Active>>,
    /// Called after a tenant or key changed in the records and before the client hears of it.
    pub changed: OnChange,
    /// This node's freshest count of an account, its own unflushed use included; `None` if the node does not hold it.
    pub live_used: LiveUsed,
    /// What must hold before this node takes traffic.
    pub readiness: Readiness,
    /// Reads the files again: the new version, or every mistake in them as text (the old configuration then stays).
    pub reload: Reload,
    /// For `/metrics`.
    pub metrics: Metrics,
}

impl fmt::Debug for ControlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlState").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Active {
    /// `tollgate.yaml`.
    pub settings: Arc<Settings>,
    /// `pricing.yaml`.
    pub pricing: Arc<Pricing>,
    /// Number of this content in the records.
    pub version: u64,
    /// SHA-256 over both files, lower-case hex.
    pub sha256: String,
    /// When this node took it.
    pub loaded_at: Timestamp,
    /// The last attempt to load another one failed; cleared by one that succeeds.
    pub last_error: Option<ReloadFailure>,
}

/// A reload that was refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ReloadFailure {
    /// When.
    pub at: Timestamp,
    /// Every mistake, as `check` prints it.
    pub detail: String,
}

/// Something that the data plane may hold in memory has changed in the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A tenant was created, changed or deleted. What is held of its keys is out of date too: those known at a deletion
    /// are told of one by one, but one made in the same moment is not.
    Tenant(TenantNum),
    /// The key with this SHA-256 was created, revoked or given an expiry.
    Key([u8; 32]),
}

/// Answers on `listener` until `cancel`; calls in flight then have 10 s to end.
pub async fn serve(listener: TcpListener, state: ControlState, cancel: CancellationToken) {
    let tasks = TaskTracker::new();
    let router = router(Arc::new(state), tasks.clone());
    server::run(listener, router, tasks, cancel).await;
}

fn router(state: Arc<ControlState>, tasks: TaskTracker) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .nest("/api/v1", api(&state))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(tasks, layers::finish_what_began))
        .layer(from_fn(layers::name_and_render))
        .with_state(state)
}

fn api(state: &Arc<ControlState>) -> Router<Arc<ControlState>> {
    Router::new()
        .route("/tenants", get(tenants::list).post(tenants::create))
        .route("/tenants/{id}", get(tenants::show).patch(tenants::update).put(tenants::upsert).delete(tenants::delete))
        .route("/tenants/{id}/keys", get(keys::list).post(keys::create))
        .route("/tenants/{id}/keys/{key}", delete(keys::revoke))
        .route("/tenants/{id}/keys/{key}/rotate", post(keys::rotate))
        .route("/tenants/{id}/usage", get(usage::show))
        .route("/reports", get(reports::list))
        .route("/dead-letters", get(reports::dead_letters))
        .route("/config", get(configuration::show))
        .route("/config/reload", post(configuration::reload))
        .route("/audit", get(audit::list))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(state), auth::authenticate))
}

async fn unknown_path(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "unknown_path", format!("there is nothing at {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{method} is not possible at {}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
