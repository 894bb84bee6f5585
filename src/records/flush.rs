//! Flush: batches become totals and history, each exactly once, in one transaction for many.
//!
//! The condition of [`ADVANCE`] is the whole proof. A batch that was lost is made again; one that comes twice, late,
//! out of order or with other borders finds another `flushed_seq` and changes nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::AnyConnection;

use super::db::Durability;
use super::nodes::FLUSHED_SEQ;
use super::rows::{self, Columns};
use super::{Flushed, Records, RecordsError, Totals};
use crate::journal::{Batch, Outcome};
use crate::testing::crash_point;
use crate::units::{Account, NodeId};

const BEGIN_JOURNALS: &str = "INSERT INTO journal (node, worker, flushed_seq) \
     SELECT e.value ->> 0, CAST(e.value ->> 1 AS BIGINT), 0 FROM json_each($1) AS e WHERE true \
     ON CONFLICT (node, worker) DO NOTHING";
const ADVANCE: &str = "UPDATE journal SET flushed_seq = $4 WHERE node = $1 AND worker = $2 AND flushed_seq = $3 - 1";
/// On PostgreSQL `ledger_gen` is read FOR SHARE.
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
        let mut write = self.db().write(Durability::PowerCut).await?;
        begin_journals(write.on(), batches).await?;
        let mut answers = Vec::with_capacity(batches.len());
        let mut sums = Sums::default();
        for batch in batches {
            let answer = advance(write.on(), batch).await?;
            if answer == Flushed::Applied {
                sums.add(batch)?;
            }
            answers.push(answer);
        }
        sums.store(write.on(), now).await?;
        crash_point("flush.before_commit");
        write.commit().await?;
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

/// Sequence numbers begin at 1, and a batch holds at least one.
fn check(batch: &Batch) -> Result<(), RecordsError> {
    if batch.from >= 1 && batch.to >= batch.from {
        return Ok(());
    }
    Err(RecordsError::Invalid(format!("a batch of records {} to {}", batch.from, batch.to)))
}

async fn begin_journals(connection: &mut AnyConnection, batches: &[Batch]) -> Result<(), RecordsError> {
    let mut journals: Vec<_> = batches.iter().map(|batch| (&*batch.node.0, batch.worker)).collect();
    journals.sort_unstable();
    journals.dedup();
    sqlx::query(BEGIN_JOURNALS).bind(rows::json(&journals)?).execute(connection).await?;
    Ok(())
}

async fn advance(connection: &mut AnyConnection, batch: &Batch) -> Result<Flushed, RecordsError> {
    let query = sqlx::query(ADVANCE)
        .bind(batch.node.0.to_string())
        .bind(i32::from(batch.worker))
        .bind(rows::int(batch.from)?)
        .bind(rows::int(batch.to)?);
    if query.execute(&mut *connection).await?.rows_affected() == 1 {
        return Ok(Flushed::Applied);
    }
    let query = sqlx::query(FLUSHED_SEQ).bind(batch.node.0.to_string()).bind(i32::from(batch.worker));
    Ok(Flushed::Skipped { flushed_seq: query.fetch_one(connection).await?.units("flushed_seq")? })
}

/// tenant, period, meter, node.
type UsageKey<'a> = (u64, i64, &'a str, &'a str);
/// tenant, hour, period, meter, route, status, outcome, key.
type HistoryKey<'a> = (u64, i64, i64, &'a str, &'a str, u16, u8, u64);

/// What the applied batches add; sorted, as the tables are.
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
            sqlx::query(ADD_USAGE).bind(rows::json(&usage)?).execute(&mut *connection).await?;
            let query = sqlx::query(MAKE_DUE).bind(rows::json(&accounts)?).bind(now.as_millisecond());
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
