//! Batches: a range of one worker's records, aggregated, which the ledger counts exactly once.

use std::sync::Arc;

use crate::journal::Outcome;
use crate::units::{KeyNum, NodeId, PeriodId, TenantNum};

/// A contiguous range of one worker's journal. The ledger applies it only if `from` is what it has flushed, plus one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whose journal.
    pub node: NodeId,
    /// Which worker's journal on that node.
    pub worker: u16,
    /// Sequence number of the first record.
    pub from: u64,
    /// Sequence number of the last record; `>= from`.
    pub to: u64,
    /// Sums of the range, one per distinct key.
    pub rows: Vec<Row>,
}

/// One aggregated row of a batch: everything before `units` is its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who pays.
    pub tenant: TenantNum,
    /// The period fixed at admission.
    pub period: PeriodId,
    /// The meter's name.
    pub meter: Arc<str>,
    /// The route's name, for example `GET /signals/history/{symbol}`.
    pub route: Arc<str>,
    /// Start of the hour of admission, Unix seconds.
    pub hour_s: i64,
    /// Status sent to the client; 0 if none was.
    pub status: u16,
    /// How the exchanges ended.
    pub outcome: Outcome,
    /// By which key.
    pub key: KeyNum,
    /// Sum of units.
    pub units: u64,
    /// Number of exchanges.
    pub requests: u64,
}
