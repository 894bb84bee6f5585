//! Flush: batches become totals and history, each exactly once, in one transaction for many.
//!
//! The condition of [`ADVANCE`] is the whole proof. A batch that was lost is made again; one that comes twice, late,
//! out of order or with other borders finds another `flushed_seq` and changes nothing. The journals are locked first, so
//! that what [`Journals::take`] decides is still so there.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::AnyConnection;

use super::db::{Durability, transact, unavailable};
use super::rows::{self, Columns};
use super::{Flushed, Records, RecordsError, Totals, locks};
use crate::journal::{Batch, Outcome};
use crate::testing::crash_point;
use crate::units::{Account, NodeId};

/// Also locks and reads those that are there, in the order given: a second flusher waits here.
const BEGIN_JOURNALS: &str = "INSERT INTO journal (node, worker, flushed_seq) \
     SELECT e.value ->> 0, CAST(e.value ->> 1 AS BIGINT), 0 FROM json_each($1) AS e WHERE true \
     ON CONFLICT (node, worker) DO UPDATE SET flushed_seq = journal.flushed_seq RETURNING node, worker, flushed_seq";
const ADVANCE: &str = "UPDATE journal SET flushed_seq = u.upto FROM \
         (SELECT e.value ->> 0 AS node, CAST(e.value ->> 1 AS BIGINT) AS worker, \
                 CAST(e.value ->> 2 AS BIGINT) AS was, CAST(e.value ->> 3 AS BIGINT) AS upto \
          FROM json_each($1) AS e) AS u \
     WHERE journal.node = u.node AND journal.worker = u.worker AND journal.flushed_seq = u.was";
const ADD_USAGE: &str = "INSERT INTO usage (tenant, period, meter, node, total, flush_gen) \
     SELECT CAST(e.value ->> 0 AS BIGINT), CAST(e.value ->> 1 AS BIGINT), e.value ->> 2, e.value ->> 3, \
            CAST(e.value ->> 4 AS BIGINT), g.gen \
     FROM json_each($1) AS e CROSS JOIN ledger_gen AS g WHERE true \
     ON CONFLICT (tenant, period, meter, node) \
     DO UPDATE SET total = usage.total + excluded.total, flush_gen = excluded.flush_gen";
/// Without a customer nothing is due; the customer's arrival makes it so (`tenants`).
const MAKE_DUE: &str = "INSERT INTO account (tenant, period, meter, due_at) \
     SELECT CAST(e.value ->> 0 AS BIGINT), CAST(e.value ->> 1 AS BIGINT), e.value ->> 2, \
            CASE WHEN t.stripe_customer_id IS NOT NULL THEN $2 END \
     FROM json_each($1) AS e LEFT JOIN tenant AS t ON t.num = CAST(e.value ->> 0 AS BIGINT) WHERE true \
     ON CONFLICT (tenant, period, meter) DO UPDATE SET due_at = COALESCE(account.due_at, excluded.due_at)";
const ADD_HISTORY: &str = "INSERT INTO history \
         (tenant, hour_s, period, meter, route, status, outcome, key, units, requests) \
     SELECT CAST(e.value ->> 0 AS BIGINT), CAST(e.value ->> 1 AS BIGINT), CAST(e.value ->> 2 AS BIGINT), \
            e.value ->> 3, e.value ->> 4, CAST(e.value ->> 5 AS BIGINT), CAST(e.value ->> 6 AS BIGINT), \
            CAST(e.value ->> 7 AS BIGINT), CAST(e.value ->> 8 AS BIGINT), CAST(e.value ->> 9 AS BIGINT) \
     FROM json_each($1) AS e WHERE true \
     ON CONFLICT (tenant, hour_s, period, meter, route, status, outcome, key) \
     DO UPDATE SET units = history.units + excluded.units, requests = history.requests + excluded.requests";
const TOTALS: &str = "SELECT \
       COALESCE((SELECT total FROM usage WHERE tenant = $1 AND period = $2 AND meter = $3 AND node = $4), 0) AS own, \
       CAST(COALESCE((SELECT SUM(total) FROM usage WHERE tenant = $1 AND period = $2 AND meter = $3), 0) AS BIGINT) \
           AS everyone, \
       COALESCE((SELECT delivered FROM account WHERE tenant = $1 AND period = $2 AND meter = $3), 0) AS delivered";

impl Records {
    /// Counts batches, in the order given; the answers are in the same order.
    ///
    /// # Errors
    /// All or nothing. After [`RecordsError::Unknown`], and after any other, the same batches may be flushed again.
    pub async fn flush(&self, batches: &[Batch], now: Timestamp) -> Result<Vec<Flushed>, RecordsError> {
        batches.iter().try_for_each(check)?;
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        crash_point("flush.before");
        let answers = transact!(self.db(), Durability::PowerCut, |connection| count(connection, batches, now).await)?;
        crash_point("flush.after_commit");
        Ok(answers)
    }

    /// What is flushed of an account: by `node`, by all nodes, and how much of it Stripe has confirmed.
    pub async fn totals(&self, node: &NodeId, account: &Account) -> Result<Totals, RecordsError> {
        let query = sqlx::query(TOTALS)
            .bind(rows::int(account.tenant.0)?)
            .bind(account.period.0)
            .bind(account.meter.to_string())
            .bind(node.0.to_string());
        let row = query.fetch_one(self.db().read()).await?;
        Ok(Totals { own: row.units("own")?, all: row.units("everyone")?, reported: row.units("delivered")? })
    }
}

/// Sequence numbers begin at 1 and end where the database's integers do, and a batch holds at least one.
fn check(batch: &Batch) -> Result<(), RecordsError> {
    if batch.from >= 1 && batch.to >= batch.from && i64::try_from(batch.to).is_ok() {
        return Ok(());
    }
    Err(RecordsError::Invalid(format!("a batch of records {} to {}", batch.from, batch.to)))
}

async fn count(
    connection: &mut AnyConnection,
    batches: &[Batch],
    now: Timestamp,
) -> Result<Vec<Flushed>, RecordsError> {
    let mut journals = begin_journals(connection, batches).await?;
    let answers: Vec<_> = batches.iter().map(|batch| journals.take(batch)).collect();
    let mut sums = Sums::default();
    for (batch, _) in batches.iter().zip(&answers).filter(|(_, answer)| **answer == Flushed::Applied) {
        sums.add(batch)?;
    }
    journals.store(connection).await?;
    sums.store(connection, now).await?;
    crash_point("flush.before_commit");
    Ok(answers)
}

async fn begin_journals(connection: &mut AnyConnection, batches: &[Batch]) -> Result<Journals, RecordsError> {
    let mut journals: Vec<_> = batches.iter().map(|batch| (&*batch.node.0, batch.worker)).collect();
    journals.sort_unstable();
    journals.dedup();
    let found = sqlx::query(BEGIN_JOURNALS).bind(rows::json(&journals)?).fetch_all(connection).await?;
    let mut journals = Journals::default();
    for row in &found {
        let worker: i64 = row.col("worker")?;
        let worker = u16::try_from(worker).map_err(|_| RecordsError::Corrupt(format!("worker {worker}")))?;
        let was = row.units("flushed_seq")?;
        journals.0.insert((row.col("node")?, worker), Seqs { was, upto: was });
    }
    Ok(journals)
}

/// How far the journals of a flush were counted when it locked them, and how far they will be.
#[derive(Default)]
struct Journals(BTreeMap<(String, u16), Seqs>);

#[derive(Clone, Copy, Default)]
struct Seqs {
    was: u64,
    upto: u64,
}

impl Journals {
    fn take(&mut self, batch: &Batch) -> Flushed {
        let seqs = self.0.entry((batch.node.0.to_string(), batch.worker)).or_default();
        if seqs.upto.checked_add(1) != Some(batch.from) {
            return Flushed::Skipped { flushed_seq: seqs.upto };
        }
        seqs.upto = batch.to;
        Flushed::Applied
    }

    async fn store(&self, connection: &mut AnyConnection) -> Result<(), RecordsError> {
        let changed = self.0.iter().filter(|(_, seqs)| seqs.was != seqs.upto);
        let moves: Vec<_> = changed.map(|((node, worker), seqs)| (node, worker, seqs.was, seqs.upto)).collect();
        if moves.is_empty() {
            return Ok(());
        }
        let stored = sqlx::query(ADVANCE).bind(rows::json(&moves)?).execute(connection).await?.rows_affected();
        if usize::try_from(stored).is_ok_and(|stored| stored == moves.len()) {
            return Ok(());
        }
        Err(unavailable("a journal was counted by another flusher in spite of its lock"))
    }
}

/// tenant, period, meter, node.
type UsageKey<'a> = (u64, i64, &'a str, &'a str);
/// tenant, hour, period, meter, route, status, outcome, key.
type HistoryKey<'a> = (u64, i64, i64, &'a str, &'a str, u16, u8, u64);

/// What the applied batches add; sorted, as the tables are: two flushers lock the rows they share in one order.
#[derive(Default)]
struct Sums<'a> {
    usage: BTreeMap<UsageKey<'a>, u64>,
    history: BTreeMap<HistoryKey<'a>, (u64, u64)>,
}

impl<'a> Sums<'a> {
    fn add(&mut self, batch: &'a Batch) -> Result<(), RecordsError> {
        for row in &batch.rows {
            let (tenant, period, meter) = (row.tenant.0, row.period.0, &*row.meter);
            if row.units > 0 {
                increase(self.usage.entry((tenant, period, meter, &batch.node.0)).or_default(), row.units)?;
            }
            let key = (tenant, row.hour_s, period, meter, &*row.route, row.status, code(row.outcome), row.key.0);
            let (units, requests) = self.history.entry(key).or_default();
            increase(units, row.units)?;
            increase(requests, row.requests)?;
        }
        Ok(())
    }

    async fn store(&self, connection: &mut AnyConnection, now: Timestamp) -> Result<(), RecordsError> {
        let usage: Vec<_> = self.usage.iter().map(|(&(t, p, m, n), total)| (t, p, m, n, total)).collect();
        let mut accounts: Vec<_> =
            self.usage.keys().map(|&(tenant, period, meter, _)| (tenant, period, meter)).collect();
        accounts.dedup();
        let history: Vec<_> =
            self.history.iter().map(|(&(t, h, p, m, r, s, o, k), &(u, n))| (t, h, p, m, r, s, o, k, u, n)).collect();
        if !usage.is_empty() {
            let accounts = rows::json(&accounts)?;
            locks::flush(connection, &accounts).await?;
            sqlx::query(ADD_USAGE).bind(rows::json(&usage)?).execute(&mut *connection).await?;
            let query = sqlx::query(MAKE_DUE).bind(accounts).bind(now.as_millisecond());
            query.execute(&mut *connection).await?;
        }
        if !history.is_empty() {
            sqlx::query(ADD_HISTORY).bind(rows::json(&history)?).execute(&mut *connection).await?;
        }
        Ok(())
    }
}

fn increase(sum: &mut u64, by: u64) -> Result<(), RecordsError> {
    let more = sum.checked_add(by).filter(|more| i64::try_from(*more).is_ok());
    *sum = more.ok_or_else(|| RecordsError::Invalid(format!("{sum} + {by} units is more than 2^63 - 1")))?;
    Ok(())
}

/// As in the journal; never renumbered.
fn code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Completed => 1,
        Outcome::ClientLeft => 2,
        Outcome::OriginFailed => 3,
        Outcome::Refused => 4,
        Outcome::External => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::super::kit::{self, batch};
    use super::*;
    use crate::units::{KeyNum, TenantNum};

    const T: TenantNum = TenantNum(1);

    async fn used(records: &Records) -> u64 {
        records.totals(&kit::node("a"), &kit::account(T)).await.unwrap().all
    }

    async fn flush(records: &Records, batches: &[Batch]) -> Vec<Flushed> {
        records.flush(batches, kit::at(0)).await.unwrap()
    }

    #[tokio::test]
    async fn a_batch_counts_once_however_often_it_comes() {
        let (_folder, records) = kit::records().await;
        let first = batch("a", T, (1, 10), 25);
        assert_eq!(flush(&records, std::slice::from_ref(&first)).await, [Flushed::Applied]);
        let twice = flush(&records, &[first.clone(), first]).await;
        assert_eq!(twice, [Flushed::Skipped { flushed_seq: 10 }; 2]);
        assert_eq!(used(&records).await, 25);
        assert_eq!(records.flushed_seq(&kit::node("a"), 0).await.unwrap(), 10);
        assert_eq!(records.flushed_seq(&kit::node("a"), 1).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn gaps_other_borders_and_another_order_count_nothing() {
        let (_folder, records) = kit::records().await;
        flush(&records, &[batch("a", T, (1, 10), 10)]).await;
        let wrong = [(12, 20), (5, 15), (10, 12), (1, 20), (1, 1)].map(|range| batch("a", T, range, 1000));
        assert_eq!(flush(&records, &wrong).await, [Flushed::Skipped { flushed_seq: 10 }; 5]);
        assert_eq!(used(&records).await, 10);
        let reordered = [batch("a", T, (21, 30), 1), batch("a", T, (11, 20), 2), batch("a", T, (21, 30), 4)];
        assert_eq!(
            flush(&records, &reordered).await,
            [Flushed::Skipped { flushed_seq: 10 }, Flushed::Applied, Flushed::Applied]
        );
        assert_eq!(used(&records).await, 16);
    }

    #[tokio::test]
    async fn journals_of_workers_and_nodes_are_their_own() {
        let (_folder, records) = kit::records().await;
        let other_worker = Batch { worker: 1, ..batch("a", T, (1, 3), 30) };
        let batches = [batch("a", T, (1, 2), 5), other_worker, batch("b", T, (1, 9), 700)];
        assert_eq!(flush(&records, &batches).await, [Flushed::Applied; 3]);
        let totals = records.totals(&kit::node("a"), &kit::account(T)).await.unwrap();
        assert_eq!(totals, Totals { own: 35, all: 735, reported: 0 });
    }

    #[tokio::test]
    async fn impossible_batches_are_refused_whole() {
        let (_folder, records) = kit::records().await;
        for range in [(0, 5), (5, 4), (1, 1 << 63)] {
            let bad = Batch { from: range.0, to: range.1, ..batch("a", T, (1, 1), 1) };
            let refused = records.flush(&[batch("a", T, (1, 1), 1), bad], kit::at(0)).await;
            assert!(matches!(refused, Err(RecordsError::Invalid(_))));
        }
        let huge = [batch("a", T, (1, 1), u64::MAX / 2), batch("a", T, (2, 2), 1)];
        assert!(matches!(records.flush(&huge, kit::at(0)).await, Err(RecordsError::Invalid(_))));
        assert_eq!(records.flushed_seq(&kit::node("a"), 0).await.unwrap(), 0, "nothing of it happened");
    }

    #[tokio::test]
    async fn a_total_that_no_longer_fits_stops_the_flush_and_changes_nothing() {
        let (_folder, records) = kit::records().await;
        flush(&records, &[batch("a", T, (1, 1), u64::MAX / 2)]).await;
        assert!(records.flush(&[batch("a", T, (2, 2), 1)], kit::at(0)).await.is_err());
        assert_eq!(used(&records).await, u64::MAX / 2);
        assert_eq!(records.flushed_seq(&kit::node("a"), 0).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn two_flushers_of_the_same_batches_count_them_once() {
        let (_folder, records) = kit::records().await;
        let batches: Vec<_> = (1..=50).map(|n| batch("a", T, (n, n), n)).collect();
        let (one, two) = tokio::join!(flush(&records, &batches), flush(&records, &batches));
        let applied = one.iter().chain(&two).filter(|flushed| **flushed == Flushed::Applied).count();
        assert_eq!(applied, 50);
        assert_eq!(used(&records).await, 50 * 51 / 2);
    }

    #[tokio::test]
    async fn thousands_of_rows_go_in_one_transaction() {
        let (_folder, records) = kit::records().await;
        let mut big = batch("a", T, (1, 5000), 3);
        big.rows = (1..=5000)
            .map(|n| crate::journal::Row { tenant: TenantNum(n), key: KeyNum(n % 7), ..big.rows[0].clone() })
            .collect();
        assert_eq!(flush(&records, &[big]).await, [Flushed::Applied]);
        let last = records.totals(&kit::node("a"), &kit::account(TenantNum(5000))).await.unwrap();
        assert_eq!(last.all, 3);
    }
}
