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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Draft;
    use proptest::prelude::*;

    fn node() -> NodeId {
        NodeId("node_0123456789abcdef".into())
    }

    /// Names 1, 2 and 3.
    fn names() -> (tempfile::TempDir, Names) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let names = Names::open(&dir.path().join("names")).expect("opened");
        names.intern_all(&["api_units", "GET /a", "GET /b"]).expect("interned");
        (dir, names)
    }

    fn draft() -> Draft {
        Draft {
            at_ms: 7_200_001,
            tenant: TenantNum(1),
            key: KeyNum(2),
            period: PeriodId(3),
            units: 5,
            meter: NameId(1),
            route: NameId(2),
            status: 200,
            outcome: Outcome::Completed,
            requests: 1,
        }
    }

    fn numbered(drafts: &[Draft], first: u64) -> Vec<Record> {
        drafts.iter().zip(first..).map(|(draft, seq)| draft.at(seq)).collect()
    }

    /// Few different values, so that rows really add up.
    fn drafts() -> impl Strategy<Value = Vec<Draft>> {
        let one =
            (0..3_u64, 0..3_u64, 0..2_i64, -9_000_000..9_000_000_i64, 0..1_000_u64, 2..=3_u32, 1..=5_u8, 0..=1_u8);
        let one = one.prop_map(|(tenant, key, period, at_ms, units, route, outcome, requests)| Draft {
            at_ms,
            tenant: TenantNum(tenant),
            key: KeyNum(key),
            period: PeriodId(period),
            units,
            route: NameId(route),
            outcome: Outcome::from_code(outcome).expect("1 to 5 are outcomes"),
            requests,
            ..draft()
        });
        proptest::collection::vec(one, 1..200)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_added(drafts in drafts(), first in 1..1_000_000_u64) {
            let (_dir, names) = names();
            let records = numbered(&drafts, first);
            let batch = fold(&node(), 4, &records, &names).expect("folds");
            prop_assert_eq!((batch.from, batch.to), (first, first + u64::try_from(drafts.len()).expect("few") - 1));
            for tenant in (0..3).map(TenantNum) {
                let of = |units: fn(&Row) -> u64| batch.rows.iter().filter(|row| row.tenant == tenant).map(units).sum::<u64>();
                let expected = records.iter().filter(|record| record.tenant == tenant);
                prop_assert_eq!(of(|row| row.units), expected.clone().map(|record| record.units).sum::<u64>());
                prop_assert_eq!(of(|row| row.requests), expected.map(|record| u64::from(record.requests)).sum::<u64>());
            }
            prop_assert_eq!(fold(&node(), 4, &records, &names).expect("folds"), batch);
        }

        #[test]
        fn the_rows_do_not_depend_on_the_order_of_the_records(drafts in drafts()) {
            let (_dir, names) = names();
            let reversed: Vec<_> = drafts.iter().rev().copied().collect();
            let rows = |drafts: &[Draft]| fold(&node(), 0, &numbered(drafts, 1), &names).expect("folds").rows;
            prop_assert_eq!(rows(&drafts), rows(&reversed));
        }
    }

    #[test]
    fn what_differs_stays_apart() {
        let (_dir, names) = names();
        let variants = [
            draft(),
            Draft { tenant: TenantNum(9), ..draft() },
            Draft { key: KeyNum::NONE, ..draft() },
            Draft { period: PeriodId(9), ..draft() },
            Draft { route: NameId(3), ..draft() },
            Draft { meter: NameId(3), ..draft() },
            Draft { at_ms: 7_199_999, ..draft() },
            Draft { status: 404, ..draft() },
            Draft { outcome: Outcome::ClientLeft, ..draft() },
        ];
        let batch = fold(&node(), 0, &numbered(&variants, 1), &names).expect("folds");
        assert_eq!(batch.rows.len(), variants.len());
        let row = batch.rows.iter().find(|row| row.hour_s == 3600).expect("the earlier hour");
        assert_eq!((&*row.meter, &*row.route, row.units, row.requests), ("api_units", "GET /a", 5, 1));
    }

    #[test]
    fn times_before_1970_fall_into_their_hour_too() {
        let (_dir, names) = names();
        let batch = fold(&node(), 0, &[Draft { at_ms: -1, ..draft() }.at(1)], &names).expect("folds");
        assert_eq!(batch.rows[0].hour_s, -3600);
    }

    #[test]
    fn what_cannot_be_folded_says_where() {
        let (_dir, names) = names();
        let fold = |records: &[Record]| fold(&node(), 0, records, &names).expect_err("cannot be folded");
        assert_eq!(fold(&[]), FoldError::Empty);
        assert_eq!(fold(&[draft().at(4), draft().at(6)]), FoldError::Gap { expected: 5, found: 6 });
        assert_eq!(fold(&[draft().at(4), draft().at(4)]), FoldError::Gap { expected: 5, found: 4 });
        let unknown = Draft { route: NameId(8), ..draft() };
        assert_eq!(fold(&[draft().at(4), unknown.at(5)]), FoldError::UnknownName { seq: 5, name: NameId(8) });
        let huge = Draft { units: u64::MAX, ..draft() };
        assert_eq!(fold(&[draft().at(4), huge.at(5)]), FoldError::Overflow { seq: 5 });
    }
}
