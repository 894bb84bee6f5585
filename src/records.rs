//! SQL: tenants, keys, usage, reports, history. SQLite here; statements are written so that PostgreSQL can take them.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::pricing::Status;
use crate::units::{Account, KeyNum, NodeId, TenantNum};

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Records {
    // (to be written)
}

/// An operation on the records failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The database could not be reached or refused; nothing is known to have happened.
    #[error("the records are unavailable: {0}")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The commit's answer was lost: it may have happened.
    #[error("the records did not confirm, the change may have been made: {0}")]
    Unknown(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// What is stored cannot be read: a defect or another version's data.
    #[error("the records hold something unreadable: {0}")]
    Corrupt(String),
}

/// Result of a create: retries are safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created<T> {
    /// It is new.
    New(T),
    /// It was there with the same content.
    Exists(T),
    /// It was there with other content; the field that differs.
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

/// A sealed report: immutable but for its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which counter.
    #[serde(skip)]
    pub account: Account,
    /// Tenant's id.
    pub tenant: String,
    /// `cus_…` at the time of reading.
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
