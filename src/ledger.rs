//! Budgets held by this node, and the ledger they are settled with. The protocol is in `docs` of this module's
//! `Ledger` trait: numbers are absolute, nothing is added or given back by a message, so lost, late and doubled
//! messages do no harm.

pub mod budget;
pub mod embedded;
mod fence;
pub mod node;
pub mod redis;
pub mod rules;

pub use budget::{Budget, Short};
pub use node::{Node, Parts, Shipper};

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::units::{Account, NodeId};

/// The shared counting of usage against caps. Two implementations: embedded in the records, and Redis.
///
/// Invariant kept by every implementation: for each account, the sum over nodes of what they may hold never passes
/// the cap after a grant, and what a node was granted stays charged to it until that node lowers it.
pub trait Ledger: Send + Sync + 'static {
    /// One exchange of `node` with the ledger about many accounts; answers come in the order of `asks`.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`] when nothing happened, [`LedgerError::Unknown`] when it may have: the next
    /// attempt then carries a new `ctr` and absolute numbers, so both are safe to follow with another settle.
    fn settle<'a>(&'a self, node: &'a NodeId, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Answer>, LedgerError>>;
}

/// What a node says about one account. Absolute numbers only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which counter.
    pub account: Account,
    /// `boot << 40 | n`, strictly rising per node and account; an answer to an older one is ignored.
    pub ctr: u64,
    /// This node's total in this account, fdatasynced records only.
    pub used: u64,
    /// "I hold up to": this node's ceiling, already lowered locally if it is lowered.
    pub hold: u64,
    /// Units that waiting requests lack; granted whole or counted as hunger.
    pub need: u64,
    /// Units that would be welcome above `hold`; `>= need`.
    pub want: u64,
    /// Version of the plan that `cap` comes from; the highest wins.
    pub plan_version: u64,
    /// Hard cap in units; `None` = no cap (overage is billed).
    pub cap: Option<u64>,
}

/// What the ledger answers about one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Applied.
    Settled {
        /// The ask's `ctr`.
        ctr: u64,
        /// The node's new ceiling; `u64::MAX` without a cap.
        ceiling: u64,
        /// Used by all nodes together, as far as the ledger knows.
        used: u64,
        /// The plan version that won.
        plan_version: u64,
        /// Somebody is short: give back what is not spent at the next settle.
        recall: bool,
        /// `used >= cap`: nothing will come until the period or the plan changes.
        exhausted: bool,
    },
    /// `ctr` was not newer than the last one applied: nothing changed, settle again.
    Old,
    /// The ledger has forgotten and is being rebuilt: nothing is granted, what is held stays good.
    Closed {
        /// What the node said was noted; else nothing changed.
        noted: bool,
    },
}

/// Why a settle brought no answers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// Nothing happened.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// It may have happened.
    #[error("the ledger did not answer, the settle may have been applied: {0}")]
    Unknown(Arc<str>),
}
