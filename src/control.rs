//! The admin port: tenants, keys, usage, reports, configuration and audit under `/api/v1`, health and metrics beside it.
//!
//! Every request under `/api/v1` carries `Authorization: Bearer <admin token>`; what a token may do is one table,
//! `auth::needed`. Every refusal is `application/problem+json` (RFC 9457) that names the field at fault. Every change
//! is written to the audit log, and the data plane hears of it before the client gets its 2xx.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use jiff::Timestamp;

use crate::clock::Clock;
use crate::config::Settings;
use crate::pricing::Pricing;
use crate::records::Records;
use crate::telemetry::Metrics;
use crate::units::{Account, TenantNum};

pub mod readiness;

pub use readiness::Readiness;

/// Tells the data plane what changed.
pub type OnChange = Arc<dyn Fn(Change) + Send + Sync>;

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
    /// A tenant was created, changed or deleted.
    Tenant(TenantNum),
    /// The key with this SHA-256 was created, revoked or given an expiry.
    Key([u8; 32]),
}
