//! Reports on their way to Stripe: immutable but for how far they got.

use jiff::Timestamp;
use sqlx::AnyConnection;
use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::query::Query;

use super::db::{Durability, transact};
use super::rows::{self, Columns};
use super::seal::identifier;
use super::{Answer, Listed, Page, Records, RecordsError, Report, ReportFilter, ReportState, locks};
use crate::units::Account;

macro_rules! select {
    () => {
        "SELECT r.num, r.tenant, r.period, r.meter, r.k, r.customer, r.identifier, r.renewals, r.value, r.at, r.state, \
         r.first_try, r.last_try, r.suffix, r.detail, t.id FROM report AS r JOIN tenant AS t ON t.num = r.tenant "
    };
}
macro_rules! list {
    ($filter:literal) => {
        concat!(select!(), "WHERE r.num < $1 ", $filter, "ORDER BY r.num DESC LIMIT $2")
    };
}
macro_rules! this {
    () => {
        "tenant = $1 AND period = $2 AND meter = $3 AND k = $4 "
    };
}

const ONE: &str = concat!(select!(), "WHERE r.tenant = $1 AND r.period = $2 AND r.meter = $3 AND r.k = $4");
/// Of each customer and meter the one that has been tried, else the oldest; overall the longest untried first, so
/// that reports that are stuck never fill the limit.
macro_rules! open {
    ($claim:literal) => {
        concat!(
            "WHERE r.state = 'pending' AND ",
            $claim,
            " AND NOT EXISTS \
               (SELECT 1 FROM report AS o WHERE o.state = 'pending' AND o.customer = r.customer AND o.meter = r.meter \
                AND (o.first_try IS NULL, o.num) < (r.first_try IS NULL, r.num)) \
             ORDER BY r.last_try IS NOT NULL, r.last_try, r.num LIMIT $2 "
        )
    };
}

const OPEN: &str = concat!(select!(), open!("(r.claimed_until IS NULL OR r.claimed_until <= $1)"));
/// PostgreSQL only, as [`CLAIM`].
const CLAIMED: &str = concat!(select!(), open!("r.claimed_until > $1 AND r.claimed_by = $3"));
/// Nodes pass over what another one is about to claim or to answer.
const CLAIM: &str = concat!(
    "UPDATE report SET claimed_until = $4, claimed_by = $3 FROM (SELECT r.num FROM report AS r ",
    open!("(r.claimed_until IS NULL OR r.claimed_until <= $1)"),
    "FOR UPDATE OF r SKIP LOCKED) AS c WHERE report.num = c.num"
);
const NEWEST: &str = list!("");
const NEWEST_OF_STATE: &str = list!("AND r.state = $3 ");
const NEWEST_OF_TENANT: &str = list!("AND t.id = $3 AND t.deleted_at IS NULL ");
const NEWEST_OF_BOTH: &str = list!("AND t.id = $3 AND t.deleted_at IS NULL AND r.state = $4 ");
const TRY: &str = concat!(
    "UPDATE report SET first_try = COALESCE(first_try, $6), last_try = $6 WHERE ",
    this!(),
    "AND identifier = $5 AND state = 'pending' AND NOT EXISTS \
       (SELECT 1 FROM report AS o WHERE o.state = 'pending' AND o.customer = report.customer \
        AND o.meter = report.meter AND o.num <> report.num AND o.first_try IS NOT NULL)"
);
/// Also what was taken for rejected: Stripe's word that it has it is the last.
const DELIVERED: &str = concat!(
    "UPDATE report SET state = 'delivered', answered_at = $6, last_try = $6, detail = NULL WHERE ",
    this!(),
    "AND identifier = $5 AND state <> 'delivered'"
);
const CONFIRM: &str = "UPDATE account SET delivered = delivered + $4 WHERE tenant = $1 AND period = $2 AND meter = $3";
const REJECTED: &str = concat!(
    "UPDATE report SET state = 'rejected', answered_at = $6, last_try = $6, detail = $7 WHERE ",
    this!(),
    "AND identifier = $5 AND state = 'pending'"
);
const UNKNOWN: &str = concat!(
    "UPDATE report SET last_try = $6, detail = $7, suffix = suffix + $8 WHERE ",
    this!(),
    "AND identifier = $5 AND state = 'pending'"
);
const KEEP_PAST: &str = "INSERT INTO report_past (identifier, report, replaced_at) \
     SELECT identifier, num, $6 FROM report WHERE tenant = $1 AND period = $2 AND meter = $3 AND k = $4 \
     AND identifier = $5 AND state <> 'delivered'";
const RENEW: &str = concat!(
    "UPDATE report SET identifier = $6, renewals = renewals + 1, state = 'pending', suffix = 0, first_try = NULL, \
     last_try = NULL, answered_at = NULL, claimed_until = NULL, customer = COALESCE((SELECT t.stripe_customer_id FROM tenant AS t \
     WHERE t.num = report.tenant), customer) WHERE ",
    this!(),
    "AND identifier = $5"
);
const DELIVERED_TOTAL: &str = "SELECT delivered FROM account WHERE tenant = $1 AND period = $2 AND meter = $3";
const DELIVERED_BETWEEN: &str = "SELECT CAST(COALESCE(SUM(value), 0) AS BIGINT) AS delivered FROM report \
     WHERE customer = $1 AND meter = $2 AND state = 'delivered' AND at >= $3 AND at < $4";

impl Records {
    /// Unanswered reports that may be sent now: at most one per customer and meter, whatever the tenant or period.
    ///
    /// On PostgreSQL a registered node claims them for two minutes, so that the others send other ones; then whoever
    /// comes first does, so that a node that cannot reach Stripe holds up none for long.
    pub async fn open_reports(&self, now: Timestamp, limit: u32) -> Result<Vec<Report>, RecordsError> {
        let found = if let Some(node) = self.claimant() {
            self.claimed([CLAIM, CLAIMED], node, now, limit).await?
        } else {
            let query = sqlx::query(OPEN).bind(now.as_millisecond()).bind(i64::from(limit));
            query.fetch_all(self.db().read()).await?
        };
        found.iter().map(report).collect()
    }

    /// Notes an attempt, before its first byte goes out; the report as it is then. `None`: do not send, it has been
    /// answered or renamed meanwhile, or another of that customer and meter is unanswered.
    pub async fn first_try(&self, report: &Report, now: Timestamp) -> Result<Option<Report>, RecordsError> {
        self.change(report, || Ok(named(TRY, report)?.bind(now.as_millisecond()))).await
    }

    /// Notes what came of an attempt; the report as it is then, `None` if it had its answer already.
    pub async fn answered(
        &self,
        report: &Report,
        answer: Answer,
        now: Timestamp,
    ) -> Result<Option<Report>, RecordsError> {
        let now = now.as_millisecond();
        match answer {
            Answer::Delivered => self.delivered(report, now).await,
            Answer::Rejected(why) => {
                self.change(report, || Ok(named(REJECTED, report)?.bind(now).bind(why.clone()))).await
            }
            Answer::Unknown(why) => {
                self.change(report, || Ok(named(UNKNOWN, report)?.bind(now).bind(why.clone()).bind(0))).await
            }
            Answer::UnknownAfter5xx(why) => {
                self.change(report, || Ok(named(UNKNOWN, report)?.bind(now).bind(why.clone()).bind(1))).await
            }
        }
    }

    /// Gives a report that Stripe provably does not have (or has refused) a new identifier, to be sent again to the
    /// tenant's present customer. The old one is kept and never given again.
    ///
    /// # Errors
    /// [`RecordsError::Invalid`] if it was delivered or renamed meanwhile.
    pub async fn reidentify(&self, report: &Report, now: Timestamp) -> Result<Report, RecordsError> {
        transact!(self.db(), Durability::PowerCut, |connection| {
            locks::report(connection, &report.account, report.k).await?;
            let kept = named(KEEP_PAST, report)?.bind(now.as_millisecond()).execute(&mut *connection).await?;
            if kept.rows_affected() == 0 {
                return Err(RecordsError::Invalid(format!(
                    "report {} was answered or renamed meanwhile",
                    report.identifier
                )));
            }
            let renewals = renewals(connection, report).await?;
            let fresh = identifier(self.installation(), &report.account, report.k, renewals + 1);
            named(RENEW, report)?.bind(fresh).execute(&mut *connection).await?;
            let renewed = find(connection, &report.account, report.k).await?;
            renewed.ok_or_else(|| RecordsError::Corrupt("a report vanished as it was renamed".to_owned()))
        })
    }

    /// Reports, newest first. A tenant's name stands for the one that has it now.
    pub async fn reports(&self, filter: ReportFilter, page: Page) -> Result<Listed<Report>, RecordsError> {
        let mut query =
            sqlx::query(newest(&filter)).bind(rows::cursor(page.after.as_deref())?).bind(rows::limit(page.limit));
        let filters = [filter.tenant, filter.state.map(|state| state_text(state).to_owned())];
        for text in filters.into_iter().flatten() {
            query = query.bind(text);
        }
        let found = query.fetch_all(self.db().read()).await?;
        let numbered = found
            .iter()
            .map(|row| Ok((row.col("num")?, report(row)?)))
            .collect::<Result<Vec<(i64, _)>, RecordsError>>()?;
        let listed = rows::listed(numbered, page.limit, |(num, _)| num.to_string());
        Ok(Listed { data: listed.data.into_iter().map(|(_, report)| report).collect(), next: listed.next })
    }

    /// Units of an account that Stripe has confirmed.
    pub async fn delivered_total(&self, account: &Account) -> Result<u64, RecordsError> {
        let row = of(DELIVERED_TOTAL, account)?.fetch_optional(self.db().read()).await?;
        row.map_or(Ok(0), |row| row.units("delivered"))
    }

    /// Units that Stripe has confirmed for a customer and meter with timestamps in `[from, to)`: what its summaries
    /// of that span should say, also where tenants share the customer.
    pub async fn delivered_between(
        &self,
        customer: &str,
        meter: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<u64, RecordsError> {
        let query = sqlx::query(DELIVERED_BETWEEN)
            .bind(customer.to_owned())
            .bind(meter.to_owned())
            .bind(from.as_millisecond())
            .bind(to.as_millisecond());
        query.fetch_one(self.db().read()).await?.units("delivered")
    }

    /// The report's new state and the account's sum go together; only the first of two does either.
    async fn delivered(&self, report: &Report, now: i64) -> Result<Option<Report>, RecordsError> {
        transact!(self.db(), Durability::PowerCut, |connection| {
            // As a seal locks: the account first.
            locks::account(connection, &report.account).await?;
            if named(DELIVERED, report)?.bind(now).execute(&mut *connection).await?.rows_affected() == 0 {
                return Ok(None);
            }
            of(CONFIRM, &report.account)?.bind(rows::int(report.value)?).execute(&mut *connection).await?;
            find(connection, &report.account, report.k).await
        })
    }

    async fn change(
        &self,
        report: &Report,
        change: impl Fn() -> Result<Statement, RecordsError>,
    ) -> Result<Option<Report>, RecordsError> {
        let customer = report.stripe_customer_id.as_deref().unwrap_or_default();
        transact!(self.db(), Durability::PowerCut, |connection| {
            // Whether a report may be tried depends on the others of its customer and meter.
            locks::reports(connection, customer, &report.account.meter).await?;
            if change()?.execute(&mut *connection).await?.rows_affected() == 0 {
                return Ok(None);
            }
            find(connection, &report.account, report.k).await
        })
    }
}

fn newest(filter: &ReportFilter) -> &'static str {
    match (&filter.tenant, filter.state) {
        (None, None) => NEWEST,
        (None, Some(_)) => NEWEST_OF_STATE,
        (Some(_), None) => NEWEST_OF_TENANT,
        (Some(_), Some(_)) => NEWEST_OF_BOTH,
    }
}

type Statement = Query<'static, Any, AnyArguments>;

/// A statement about an account: $1 to $3.
fn of(statement: &'static str, account: &Account) -> Result<Statement, RecordsError> {
    let tenant = rows::int(account.tenant.0)?;
    Ok(sqlx::query(statement).bind(tenant).bind(account.period.0).bind(account.meter.to_string()))
}

/// A statement about a report under the identifier it is known by here: $1 to $5.
fn named(statement: &'static str, report: &Report) -> Result<Statement, RecordsError> {
    Ok(of(statement, &report.account)?.bind(rows::int(report.k)?).bind(report.identifier.clone()))
}

pub(super) async fn find(
    connection: &mut AnyConnection,
    account: &Account,
    k: u64,
) -> Result<Option<Report>, RecordsError> {
    let row = of(ONE, account)?.bind(rows::int(k)?).fetch_optional(connection).await?;
    row.as_ref().map(report).transpose()
}

async fn renewals(connection: &mut AnyConnection, report: &Report) -> Result<u64, RecordsError> {
    let query = of(ONE, &report.account)?.bind(rows::int(report.k)?);
    query.fetch_one(connection).await?.units("renewals")
}

fn report(row: &AnyRow) -> Result<Report, RecordsError> {
    let suffix: i64 = row.col("suffix")?;
    Ok(Report {
        account: row.account()?,
        tenant: row.col("id")?,
        stripe_customer_id: Some(row.col("customer")?),
        k: row.units("k")?,
        identifier: row.col("identifier")?,
        value: row.units("value")?,
        at: row.time("at")?,
        state: state(&row.col::<String>("state")?)?,
        first_try: row.maybe_time("first_try")?,
        last_try: row.maybe_time("last_try")?,
        suffix: u32::try_from(suffix).map_err(|_| RecordsError::Corrupt(format!("suffix {suffix}")))?,
        detail: row.col("detail")?,
    })
}

fn state_text(state: ReportState) -> &'static str {
    match state {
        ReportState::Pending => "pending",
        ReportState::Delivered => "delivered",
        ReportState::Rejected => "rejected",
    }
}

fn state(text: &str) -> Result<ReportState, RecordsError> {
    [ReportState::Pending, ReportState::Delivered, ReportState::Rejected]
        .into_iter()
        .find(|state| state_text(*state) == text)
        .ok_or_else(|| RecordsError::Corrupt(format!("report state {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::super::kit::{self, at};
    use super::super::{Due, TenantPatch};
    use super::*;
    use crate::journal::Batch;
    use crate::units::PeriodId;

    /// `records` with a tenant of that customer and `units` counted in the period `PERIOD + shift`, sealed.
    async fn sealed(records: &Records, tenant: &str, customer: &str, shift: i64, units: u64) -> Report {
        let num = match records.create_tenant(kit::new_tenant(tenant, Some(customer)), at(0)).await.unwrap() {
            super::super::Created::New(tenant) | super::super::Created::Exists(tenant) => tenant.num,
            other @ super::super::Created::Differs(_) => panic!("{other:?}"),
        };
        let node = kit::node("a");
        let next = records.flushed_seq(&node, 0).await.unwrap() + 1;
        let mut batch: Batch = kit::batch("a", num, (next, next), units);
        batch.rows[0].period = PeriodId(kit::PERIOD.0 + shift);
        records.flush(&[batch], at(1)).await.unwrap();
        let account = Account { period: PeriodId(kit::PERIOD.0 + shift), ..kit::account(num) };
        records.seal(&account, at(shift + 2), at(3)).await.unwrap().unwrap()
    }

    async fn open(records: &Records) -> Vec<u64> {
        records.open_reports(at(50), 10).await.unwrap().iter().map(|report| report.value).collect()
    }

    #[tokio::test]
    async fn one_unanswered_report_per_customer_and_meter() {
        let (_folder, records) = kit::records().await;
        let first = sealed(&records, "acme", "cus_1", 0, 1).await;
        sealed(&records, "acme", "cus_1", 100, 2).await;
        sealed(&records, "twin", "cus_1", 0, 4).await;
        sealed(&records, "other", "cus_2", 0, 8).await;
        assert_eq!(open(&records).await, [1, 8]);
        records.answered(&first, Answer::Delivered, at(9)).await.unwrap();
        assert_eq!(open(&records).await, [2, 8]);
    }

    #[tokio::test]
    async fn a_second_of_the_same_customer_may_not_be_tried_before_the_first_is_answered() {
        let (_folder, records) = kit::records().await;
        let first = sealed(&records, "acme", "cus_1", 0, 1).await;
        let second = sealed(&records, "acme", "cus_1", 100, 2).await;
        let tried = records.first_try(&first, at(5)).await.unwrap().unwrap();
        assert_eq!((tried.first_try, tried.last_try), (Some(at(5)), Some(at(5))));
        let again = records.first_try(&first, at(6)).await.unwrap().unwrap();
        assert_eq!((again.first_try, again.last_try), (Some(at(5)), Some(at(6))));
        assert_eq!(records.first_try(&second, at(7)).await.unwrap(), None);
        records.answered(&first, Answer::Rejected("no".to_owned()), at(8)).await.unwrap();
        assert!(records.first_try(&second, at(9)).await.unwrap().is_some());
        let renewed = records.reidentify(&first, at(10)).await.unwrap();
        assert_eq!(open(&records).await, [2], "what was tried is answered first");
        assert_eq!(records.first_try(&renewed, at(11)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_open_is_not_looked_for_among_what_is_delivered() {
        let (_folder, records) = kit::records().await;
        for statement in [OPEN, TRY] {
            let Some(plan) = kit::plan(&records, statement).await else { return };
            assert!(plan.contains("report_pending") && !plan.contains("SCAN"), "{plan}");
        }
    }

    #[tokio::test]
    async fn delivered_counts_once_and_beats_rejected() {
        let (_folder, records) = kit::records().await;
        let report = sealed(&records, "acme", "cus_1", 0, 7).await;
        let rejected = records.answered(&report, Answer::Rejected("no such customer".to_owned()), at(8)).await.unwrap();
        assert_eq!(rejected.unwrap().detail.as_deref(), Some("no such customer"));
        assert_eq!(records.delivered_total(&report.account).await.unwrap(), 0);
        let delivered = records.answered(&report, Answer::Delivered, at(9)).await.unwrap().unwrap();
        assert_eq!((delivered.state, delivered.detail), (ReportState::Delivered, None));
        for late in [Answer::Delivered, Answer::Rejected("x".to_owned()), Answer::Unknown("x".to_owned())] {
            assert_eq!(records.answered(&report, late, at(10)).await.unwrap(), None);
        }
        assert_eq!(records.delivered_total(&report.account).await.unwrap(), 7);
        let totals = records.totals(&kit::node("a"), &report.account).await.unwrap();
        assert_eq!((totals.all, totals.reported), (7, 7));
        assert!(matches!(records.reidentify(&report, at(11)).await, Err(RecordsError::Invalid(_))));
    }

    #[tokio::test]
    async fn of_two_senders_one_confirms() {
        let (_folder, records) = kit::records().await;
        let report = sealed(&records, "acme", "cus_1", 0, 7).await;
        let answer = || records.answered(&report, Answer::Delivered, at(9));
        let (one, two) = tokio::join!(answer(), answer());
        assert_eq!(one.unwrap().iter().chain(&two.unwrap()).count(), 1);
        assert_eq!(records.delivered_total(&report.account).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn an_unknown_outcome_stays_pending_and_a_5xx_counts() {
        let (_folder, records) = kit::records().await;
        let report = sealed(&records, "acme", "cus_1", 0, 7).await;
        let lost = records.answered(&report, Answer::Unknown("timed out".to_owned()), at(6)).await.unwrap().unwrap();
        assert_eq!((lost.state, lost.suffix, lost.detail.as_deref()), (ReportState::Pending, 0, Some("timed out")));
        let broken =
            records.answered(&report, Answer::UnknownAfter5xx("500".to_owned()), at(7)).await.unwrap().unwrap();
        assert_eq!((broken.suffix, broken.last_try), (1, Some(at(7))));
        assert_eq!(broken.identifier, report.identifier);
        assert_eq!(open(&records).await, [7]);
    }

    #[tokio::test]
    async fn a_stuck_report_goes_behind_those_not_tried_lately() {
        let (_folder, records) = kit::records().await;
        let stuck = sealed(&records, "a", "cus_1", 0, 1).await;
        let tried = sealed(&records, "b", "cus_2", 0, 2).await;
        sealed(&records, "c", "cus_3", 0, 4).await;
        records.first_try(&tried, at(5)).await.unwrap();
        records.first_try(&stuck, at(6)).await.unwrap();
        assert_eq!(open(&records).await, [4, 2, 1]);
        let limited = records.open_reports(at(50), 1).await.unwrap();
        assert_eq!(limited[0].value, 4);
    }

    #[tokio::test]
    async fn a_new_identifier_keeps_the_value_and_the_old_one_is_dead() {
        let (_folder, records) = kit::records().await;
        let report = sealed(&records, "acme", "cus_1", 0, 7).await;
        records.first_try(&report, at(5)).await.unwrap();
        records.answered(&report, Answer::UnknownAfter5xx("500".to_owned()), at(6)).await.unwrap();
        let patch = TenantPatch { stripe_customer_id: Some(Some("cus_2".to_owned())), ..TenantPatch::default() };
        records.update_tenant("acme", patch, at(7)).await.unwrap();
        let same = records.open_reports(at(8), 10).await.unwrap();
        assert_eq!(same[0].stripe_customer_id.as_deref(), Some("cus_1"), "a repeated send says the same");
        let renewed = records.reidentify(&report, at(90_000)).await.unwrap();
        assert_ne!(renewed.identifier, report.identifier);
        assert_eq!((renewed.value, renewed.k, renewed.first_try, renewed.suffix), (7, 1, None, 0));
        assert_eq!(renewed.stripe_customer_id.as_deref(), Some("cus_2"));
        assert_eq!(records.first_try(&report, at(90_001)).await.unwrap(), None);
        assert_eq!(records.answered(&report, Answer::Delivered, at(90_002)).await.unwrap(), None);
        assert!(matches!(records.reidentify(&report, at(90_003)).await, Err(RecordsError::Invalid(_))));
        let third = records.reidentify(&renewed, at(90_004)).await.unwrap();
        assert!(![&report.identifier, &renewed.identifier].contains(&&third.identifier));
    }

    #[tokio::test]
    async fn reports_are_listed_newest_first_by_tenant_and_state() {
        let (_folder, records) = kit::records().await;
        let first = sealed(&records, "acme", "cus_1", 0, 1).await;
        sealed(&records, "acme", "cus_1", 100, 2).await;
        sealed(&records, "other", "cus_2", 0, 4).await;
        records.answered(&first, Answer::Delivered, at(9)).await.unwrap();
        let list = async |tenant: Option<&str>, state, page| {
            let filter = ReportFilter { tenant: tenant.map(str::to_owned), state };
            records.reports(filter, page).await.unwrap()
        };
        let values = |listed: &Listed<Report>| listed.data.iter().map(|report| report.value).collect::<Vec<_>>();
        let all = list(None, None, kit::page(2, None)).await;
        assert_eq!(values(&all), [4, 2]);
        assert_eq!(values(&list(None, None, kit::page(2, all.next)).await), [1]);
        assert_eq!(values(&list(Some("acme"), None, kit::page(9, None)).await), [2, 1]);
        assert_eq!(values(&list(None, Some(ReportState::Delivered), kit::page(9, None)).await), [1]);
        assert!(list(Some("other"), Some(ReportState::Delivered), kit::page(9, None)).await.data.is_empty());
    }

    #[tokio::test]
    async fn what_stripe_should_say_is_summed_over_tenants_of_a_customer() {
        let (_folder, records) = kit::records().await;
        for (tenant, shift, units) in [("acme", 0, 1), ("twin", 0, 2), ("acme", 100, 4)] {
            let report = sealed(&records, tenant, "cus_1", shift, units).await;
            records.answered(&report, Answer::Delivered, at(200)).await.unwrap();
        }
        sealed(&records, "acme", "cus_1", 50, 8).await;
        let between = async |from, to| records.delivered_between("cus_1", "api_units", at(from), at(to)).await.unwrap();
        assert_eq!(between(0, 102).await, 3);
        assert_eq!(between(2, 103).await, 7);
        let due: Vec<Due> = records.due_accounts(at(500), 10).await.unwrap();
        assert_eq!(due, []);
    }
}
