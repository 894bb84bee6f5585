//! Batches: a range of one worker's records, aggregated, which the ledger counts exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::journal::{Names, Outcome, Record};
use crate::units::{KeyNum, NameId, NodeId, PeriodId, TenantNum};

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

/// Why records cannot become a batch: a defect, never the traffic's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// There is nothing to fold.
    #[error("a batch needs at least one record")]
    Empty,
    /// The records are not one unbroken range.
    #[error("record {found} stands where {expected} belongs")]
    Gap {
        /// The next number in line.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A name that this journal never gave out.
    #[error("record {seq} names number {}, which this journal never gave out", .name.0)]
    UnknownName {
        /// The record.
        seq: u64,
        /// The number.
        name: NameId,
    },
    /// A sum passes 2^64 - 1.
    #[error("the sum passes 2^64 - 1 at record {seq}")]
    Overflow {
        /// The record.
        seq: u64,
    },
}

/// What rows are told apart by. Numbers of names stand for the names: within a node each has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    tenant: TenantNum,
    period: PeriodId,
    meter: NameId,
    route: NameId,
    hour_s: i64,
    status: u16,
    outcome: Outcome,
    key: KeyNum,
}

/// What a row adds up; `seq` is the first record of it.
#[derive(Clone, Copy, Debug)]
struct Sums {
    seq: u64,
    units: u64,
    requests: u64,
}

const HOUR_MS: i64 = 3_600_000;
const HOUR_S: i64 = 3600;

/// Aggregates an unbroken range of one worker's records. The same records give the same batch, row by row.
///
/// # Errors
/// See [`FoldError`].
pub fn fold(node: &NodeId, worker: u16, records: &[Record], names: &Names) -> Result<Batch, FoldError> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else { return Err(FoldError::Empty) };
    let mut groups = BTreeMap::new();
    for (record, expected) in records.iter().zip(first.seq..) {
        if record.seq != expected {
            return Err(FoldError::Gap { expected, found: record.seq });
        }
        add(&mut groups, record)?;
    }
    let rows = groups.into_iter().map(|(group, sums)| row(group, sums, names)).collect::<Result<_, _>>()?;
    Ok(Batch { node: node.clone(), worker, from: first.seq, to: last.seq, rows })
}

fn add(groups: &mut BTreeMap<Group, Sums>, record: &Record) -> Result<(), FoldError> {
    let sums = groups.entry(group_of(record)).or_insert(Sums { seq: record.seq, units: 0, requests: 0 });
    let overflow = FoldError::Overflow { seq: record.seq };
    sums.units = sums.units.checked_add(record.units).ok_or(overflow.clone())?;
    sums.requests = sums.requests.checked_add(u64::from(record.requests)).ok_or(overflow)?;
    Ok(())
}

fn group_of(record: &Record) -> Group {
    Group {
        tenant: record.tenant,
        period: record.period,
        meter: record.meter,
        route: record.route,
        hour_s: record.at_ms.div_euclid(HOUR_MS) * HOUR_S,
        status: record.status,
        outcome: record.outcome,
        key: record.key,
    }
}

fn row(group: Group, sums: Sums, names: &Names) -> Result<Row, FoldError> {
    let name = |name: NameId| names.get(name).ok_or(FoldError::UnknownName { seq: sums.seq, name });
    Ok(Row {
        tenant: group.tenant,
        period: group.period,
        meter: name(group.meter)?,
        route: name(group.route)?,
        hour_s: group.hour_s,
        status: group.status,
        outcome: group.outcome,
        key: group.key,
        units: sums.units,
        requests: sums.requests,
    })
}
