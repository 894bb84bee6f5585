//! Quantities and identities that every room shares. Pure: no I/O, no clock.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A tenant's number in the records: small, never reused, never shown to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantNum(pub u64);

/// A key's number in the records; [`KeyNum::NONE`] where no key was used (trusted peer, default tenant).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyNum(pub u64);

impl KeyNum {
    /// No key identified the tenant.
    pub const NONE: Self = Self(0);
}

/// A billing period, named by its first second (Unix time). Fixed at admission, stored, never recomputed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeriodId(pub i64);

/// A short number for a meter's or a route's name in this node's journal (see `journal::Names`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameId(pub u32);

/// One counter of the ledger: a tenant's use of one meter in one period.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    /// Whose.
    pub tenant: TenantNum,
    /// In which billing period.
    pub period: PeriodId,
    /// The meter's name as in `pricing.yaml`.
    pub meter: Arc<str>,
}

/// This installation of Tollgate: made once with its journal directory, lost with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub Arc<str>);

/// Money in minor units (cents), as Stripe counts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// Minor units of `currency`; negative for credits.
    pub amount: i64,
    /// ISO 4217, lower case.
    pub currency: String,
}
