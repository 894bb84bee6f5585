//! SQL: tenants, keys, usage, reports, history, in a SQLite file or a PostgreSQL server: one set of tables and statements.
//!
//! Two rules carry the money. A batch counts only if it is the next of its journal (`flush`), and what is counted but
//! not yet reported is sealed under the account's next number (`seal`): each is one transaction with one condition, so
//! that nothing counts twice whoever repeats what.
//!
//! Every statement is set-based where rows are many: rows travel as one JSON text through `json_each($1)`, read by
//! position (`e.value ->> 0`). PostgreSQL reads the same text: its migrations define `json_each(text)` and `unhex(text)`.
//! SQLite has one writer at a time; PostgreSQL has many, and `locks` holds what each of them must lock first.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::pricing::Status;
use crate::units::{Account, KeyNum, NodeId, TenantNum};

mod anchor;
mod audit;
mod changes;
mod claims;
mod db;
mod flush;
mod generations;
mod history;
mod keys;
#[cfg(test)]
mod kit;
mod locks;
mod migrate;
mod nodes;
mod reports;
mod rows;
mod seal;
mod settle;
mod tenants;

pub use changes::Changed;
pub use generations::{Ended, Holds, NodeState};

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Records {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: db::Db,
    /// Made with the database: keeps the report identifiers of two installations on one Stripe account apart.
    installation: String,
    /// Who works here, once it has registered.
    claimant: OnceLock<NodeId>,
}

impl Records {
    /// Opens the database at `url` (`sqlite:path`, created if missing, with its directory; or `postgres://…`) and brings
    /// its tables up to this version, under a lock.
    ///
    /// # Errors
    /// [`RecordsError::Unavailable`] if it cannot be opened now, [`RecordsError::Invalid`] if a server is there and
    /// never will let us in as we are (password, database, version), [`RecordsError::Corrupt`] if a newer version wrote it.
    /// None of them shows the password.
    pub async fn open(url: &str) -> Result<Self, RecordsError> {
        let db = db::Db::open(url).await?;
        let installation = migrate::migrate(&db).await?;
        Ok(Self { inner: Arc::new(Inner { db, installation, claimant: OnceLock::new() }) })
    }

    /// Closes all connections, after what is running on them; later calls fail as unavailable.
    pub async fn close(&self) {
        self.inner.db.close().await;
    }

    fn db(&self) -> &db::Db {
        &self.inner.db
    }
}

/// Whether `url` is the address of a PostgreSQL database; what is there is another question.
#[must_use]
pub fn is_postgres_url(url: &str) -> bool {
    db::is_postgres(url) && url.parse::<sqlx::postgres::PgConnectOptions>().is_ok()
}

/// An operation on the records failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordsError {
    /// The database could not be reached or refused; nothing happened.
    #[error("the records are unavailable: {0}")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The commit's answer was lost: it may have happened.
    #[error("the records did not confirm, the change may have been made: {0}")]
    Unknown(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// What is stored cannot be read: a defect or another version's data.
    #[error("the records hold something unreadable: {0}")]
    Corrupt(String),
    /// The caller asked for something impossible; nothing happened.
    #[error("the records cannot do that: {0}")]
    Invalid(String),
}

/// Result of a create: retries are safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created<T> {
    /// It is new.
    New(T),
    /// It was there with the same content.
    Exists(T),
    /// It was there with other content; the field that differs. For a key also `"tenant"` when there is no such
    /// tenant, and `"revoked_at"` when it was revoked.
    Differs(&'static str),
}

/// A paying customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Number in the records.
    #[serde(skip, default = "no_num")]
    pub num: TenantNum,
    /// Name in the API; `[A-Za-z0-9._-]{1,64}`.
    pub id: String,
    /// For people.
    pub name: String,
    /// For people and Stripe.
    pub email: Option<String>,
    /// Plan in `pricing.yaml`.
    pub plan: String,
    /// Rises with each change of plan or cap.
    #[serde(skip)]
    pub plan_version: u64,
    /// `cus_…`; usage is kept and held while it is missing.
    pub stripe_customer_id: Option<String>,
    /// `sub_…`.
    pub stripe_subscription_id: Option<String>,
    /// The subscription's status; `None` without a subscription.
    pub status: Option<Status>,
    /// Since when `status` is so.
    pub status_since: Option<Timestamp>,
    /// End of the trial, if there is or was one.
    pub trial_ends_at: Option<Timestamp>,
    /// Where billing periods are counted from: the subscription's anchor, else the creation.
    pub period_anchor: Timestamp,
    /// `month` or `year`.
    pub period_interval: String,
    /// Of the record.
    pub created_at: Timestamp,
    /// Of the record.
    pub updated_at: Timestamp,
}

fn no_num() -> TenantNum {
    TenantNum(0)
}

/// What a new tenant begins with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NewTenant {
    /// Name in the API; `[A-Za-z0-9._-]{1,64}`, checked by the caller.
    pub id: String,
    /// For people.
    pub name: String,
    /// For people and Stripe.
    pub email: Option<String>,
    /// Plan in `pricing.yaml`, checked by the caller.
    pub plan: String,
    /// `cus_…`, if known already.
    pub stripe_customer_id: Option<String>,
}

/// What to change of a tenant; `None` leaves a field, `Some(None)` empties it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantPatch {
    /// For people.
    pub name: Option<String>,
    /// For people and Stripe.
    pub email: Option<Option<String>>,
    /// Plan in `pricing.yaml`.
    pub plan: Option<String>,
    /// `cus_…`; the first one makes held usage due.
    pub stripe_customer_id: Option<Option<String>>,
    /// `sub_…`.
    pub stripe_subscription_id: Option<Option<String>>,
    /// The subscription's status.
    pub status: Option<Option<Status>>,
    /// End of the trial.
    pub trial_ends_at: Option<Option<Timestamp>>,
    /// Where billing periods are counted from.
    pub period_anchor: Option<Timestamp>,
    /// `month` or `year`.
    pub period_interval: Option<String>,
}

/// An API key; the secret itself is never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Number in the records.
    #[serde(skip, default = "no_key")]
    pub num: KeyNum,
    /// `key_…`.
    pub id: String,
    /// Tenant's id.
    pub tenant: String,
    /// For people.
    pub name: String,
    /// First characters of the secret, to recognise it by.
    pub prefix: String,
    /// SHA-256 of the secret.
    #[serde(skip)]
    pub sha256: [u8; 32],
    /// `METHOD /template` or `/template`; empty = everything.
    pub scopes: Vec<String>,
    /// No longer valid from then on.
    pub expires_at: Option<Timestamp>,
    /// Revoked then.
    pub revoked_at: Option<Timestamp>,
    /// Last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// Of the record.
    pub created_at: Timestamp,
}

fn no_key() -> KeyNum {
    KeyNum::NONE
}

/// What a new key begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Tenant's id.
    pub tenant: String,
    /// `key_…`, unique for ever.
    pub id: String,
    /// For people.
    pub name: String,
    /// First characters of the secret.
    pub prefix: String,
    /// SHA-256 of the secret; one secret is one key, at one tenant.
    pub sha256: [u8; 32],
    /// `METHOD /template` or `/template`; empty = everything.
    pub scopes: Vec<String>,
    /// No longer valid from then on.
    pub expires_at: Option<Timestamp>,
}

/// A page of a list: newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most so many; 1..=1000.
    pub limit: u32,
    /// Cursor: what came as `next` with the page before.
    pub after: Option<String>,
}

/// Part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed<T> {
    /// The page.
    pub data: Vec<T>,
    /// Cursor of the next page; `None` on the last.
    pub next: Option<String>,
}

/// What this node's and all nodes' completed use of an account is, as flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Units flushed from the asking node.
    pub own: u64,
    /// Units flushed from all nodes.
    pub all: u64,
    /// Units that Stripe has confirmed.
    pub reported: u64,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Counted now.
    Applied,
    /// Not next in line (counted before, or a gap before it); the journal's `flushed_seq` as it is.
    Skipped {
        /// Last sequence number counted for that worker's journal.
        flushed_seq: u64,
    },
}

/// An account with usage that is not in any report yet, and a customer to report it to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which counter.
    pub account: Account,
    /// Tenant's id.
    pub tenant: String,
    /// `cus_…`.
    pub stripe_customer_id: String,
    /// Units a seal would take now.
    pub unreported: u64,
    /// Since when there is something to report.
    pub since: Timestamp,
}

/// An account whose usage waits for its tenant to get a Stripe customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Which counter.
    #[serde(skip)]
    pub account: Account,
    /// Tenant's id.
    pub tenant: String,
    /// Units kept so far.
    pub unreported: u64,
    /// What it waits for.
    pub state: HeldState,
}

/// Why usage is in no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldState {
    /// Its tenant has no Stripe customer.
    NoCustomer,
}

/// A sealed report: immutable but for its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which counter.
    #[serde(skip)]
    pub account: Account,
    /// Tenant's id.
    pub tenant: String,
    /// `cus_…` at the time of the seal: a repeated send must say the same. Always there.
    pub stripe_customer_id: Option<String>,
    /// The how-many-eth of its account.
    pub k: u64,
    /// Sent to Stripe with the value; unique for ever.
    pub identifier: String,
    /// Units.
    pub value: u64,
    /// Timestamp sent, inside the period.
    pub at: Timestamp,
    /// How far it got.
    pub state: ReportState,
    /// First byte of the first attempt went out after this.
    pub first_try: Option<Timestamp>,
    /// Last attempt.
    pub last_try: Option<Timestamp>,
    /// Received 5xx answers so far: the suffix of the idempotency key.
    pub suffix: u32,
    /// Why it was rejected, or the last trouble.
    pub detail: Option<String>,
}

/// How far a report got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportState {
    /// To be sent, or sent with an unknown outcome.
    Pending,
    /// Stripe has it.
    Delivered,
    /// Stripe refused it for good; wants a person.
    Rejected,
}

/// What came of sending a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Stripe has it (200, or "already exists").
    Delivered,
    /// Stripe refused it for good; why.
    Rejected(String),
    /// No definite answer; the last trouble. To be sent again as it is.
    Unknown(String),
    /// A 5xx was received; to be sent again with a fresh idempotency key, same identifier.
    UnknownAfter5xx(String),
}

/// Which reports to list; `None` = all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportFilter {
    /// Tenant's id.
    pub tenant: Option<String>,
    /// How far they got.
    pub state: Option<ReportState>,
}

/// What usage is summed by, besides the meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageBy {
    /// The route's name.
    Route,
    /// The hour, RFC 3339 UTC.
    Hour,
    /// The day in UTC, `2026-11-20`.
    Day,
    /// The meter alone.
    Meter,
    /// The key's id; empty where no key was used.
    Key,
    /// The status sent; `0` if none was.
    Status,
}

/// One group of a usage query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsageRow {
    /// The meter's name.
    pub meter: String,
    /// The group, as [`UsageBy`] says.
    pub group: String,
    /// Units charged.
    pub units: u64,
    /// Exchanges, those that cost nothing too.
    pub requests: u64,
}

/// A tenant's use of one meter in one period, as flushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MeterUsage {
    /// The meter's name.
    pub meter: String,
    /// Units flushed from all nodes.
    pub used: u64,
    /// Units that Stripe has confirmed.
    pub reported: u64,
}

/// Who did what; never changed, never deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who: an admin token's name, a key's id, or the part of Tollgate.
    pub actor: String,
    /// What was done, for example `tenant.create`.
    pub action: String,
    /// To what, for example a tenant's id.
    pub subject: String,
    /// Whatever else explains it; no secrets.
    pub detail: serde_json::Value,
}
