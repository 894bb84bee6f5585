//! Seal: what is counted but in no report yet becomes the account's next report, in one transaction.

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::db::{Durability, transact};
use super::rows::{self, Columns};
use super::{Due, Held, HeldState, Listed, Page, Records, RecordsError, Report, locks, reports};
use crate::testing::crash_point;
use crate::units::Account;

macro_rules! total {
    () => {
        "CAST(COALESCE((SELECT SUM(u.total) FROM usage AS u \
          WHERE u.tenant = a.tenant AND u.period = a.period AND u.meter = a.meter), 0) AS BIGINT)"
    };
}

/// One unanswered report per account is enough: what comes meanwhile goes into the next one, so that a day without
/// Stripe leaves one report behind, not a thousand.
macro_rules! due {
    ($claim:literal) => {
        concat!(
            " FROM account AS a JOIN tenant AS t ON t.num = a.tenant \
             WHERE a.due_at <= $1 AND ",
            $claim,
            " AND t.stripe_customer_id IS NOT NULL \
               AND NOT EXISTS (SELECT 1 FROM report AS r WHERE r.tenant = a.tenant AND r.period = a.period \
                   AND r.meter = a.meter AND r.state = 'pending') \
             ORDER BY a.due_at LIMIT $2 "
        )
    };
}
macro_rules! select_due {
    ($claim:literal) => {
        concat!(
            "SELECT a.tenant, a.period, a.meter, a.due_at, t.id, t.stripe_customer_id, ",
            total!(),
            " - a.reported AS unreported",
            due!($claim)
        )
    };
}

const DUE: &str = select_due!("(a.claimed_until IS NULL OR a.claimed_until <= $1)");
/// PostgreSQL only, as [`CLAIM`].
const CLAIMED: &str = select_due!("a.claimed_until > $1 AND a.claimed_by = $3");
/// Nodes pass over what another one is about to claim, seal or flush.
const CLAIM: &str = concat!(
    "UPDATE account SET claimed_until = $4, claimed_by = $3 FROM (SELECT a.tenant, a.period, a.meter",
    due!("(a.claimed_until IS NULL OR a.claimed_until <= $1)"),
    "FOR UPDATE OF a SKIP LOCKED) AS c \
     WHERE account.tenant = c.tenant AND account.period = c.period AND account.meter = c.meter"
);
const HELD: &str = concat!(
    "SELECT h.tenant, h.period, h.meter, h.id, h.unreported FROM \
     (SELECT a.tenant, a.period, a.meter, t.id, ",
    total!(),
    " - a.reported AS unreported FROM account AS a JOIN tenant AS t ON t.num = a.tenant \
      WHERE t.stripe_customer_id IS NULL AND (a.tenant, a.period, a.meter) < ($1, $2, $3)) AS h \
     WHERE h.unreported > 0 ORDER BY h.tenant DESC, h.period DESC, h.meter DESC LIMIT $4"
);
/// Read with the account's row locked: the sum and what is reported must be of one moment.
const OPEN: &str = concat!(
    "SELECT a.reported, a.k, t.id, t.stripe_customer_id, ",
    total!(),
    " AS total FROM account AS a JOIN tenant AS t ON t.num = a.tenant \
     WHERE a.tenant = $1 AND a.period = $2 AND a.meter = $3"
);
const INSERT: &str = "INSERT INTO report (tenant, period, meter, k, customer, identifier, value, at, state, sealed_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'pending', $9)";
const CLOSE: &str = "UPDATE account SET reported = reported + $4, k = $5, due_at = NULL, claimed_until = NULL \
     WHERE tenant = $1 AND period = $2 AND meter = $3";

impl Records {
    /// Accounts with a customer, whose oldest unreported usage came at or before `now`, and which have no unanswered
    /// report; the oldest first. A caller that leaves a window between reports says `now - window`.
    ///
    /// On PostgreSQL a registered node claims them for two minutes, so that the others work on other ones.
    pub async fn due_accounts(&self, now: Timestamp, limit: u32) -> Result<Vec<Due>, RecordsError> {
        let found = if let Some(node) = self.claimant() {
            self.claimed([CLAIM, CLAIMED], node, now, limit).await?
        } else {
            let query = sqlx::query(DUE).bind(now.as_millisecond()).bind(i64::from(limit));
            query.fetch_all(self.db().read()).await?
        };
        found.iter().map(due).collect()
    }

    /// Accounts whose tenants have usage but no Stripe customer: reported once there is one.
    pub async fn held_accounts(&self, page: Page) -> Result<Listed<Held>, RecordsError> {
        let (tenant, period, meter) = held_cursor(page.after.as_deref())?;
        let query = sqlx::query(HELD).bind(tenant).bind(period).bind(meter).bind(rows::limit(page.limit));
        let found = query.fetch_all(self.db().read()).await?;
        let found = found.iter().map(held).collect::<Result<Vec<_>, _>>()?;
        Ok(rows::listed(found, page.limit, |Held { account, .. }| {
            format!("{}.{}.{}", account.tenant.0, account.period.0, account.meter)
        }))
    }

    /// Seals what is counted but not reported; `None` if that is nothing, or if the tenant has no customer. `at` is
    /// the timestamp Stripe gets, inside the period. Whoever seals at the same time, each unit is in one report.
    pub async fn seal(&self, account: &Account, at: Timestamp, now: Timestamp) -> Result<Option<Report>, RecordsError> {
        crash_point("seal.before");
        let report = transact!(self.db(), Durability::PowerCut, |connection| {
            let Some(open) = open(connection, account).await? else { return Ok(None) };
            let Some(customer) = open.customer.clone() else { return Ok(None) };
            if open.value > 0 {
                let identifier = identifier(self.installation(), account, open.k, 0);
                insert(connection, account, &open, (customer, identifier, at, now)).await?;
            }
            close(connection, account, &open).await?;
            let report = reports::find(connection, account, open.k).await?.filter(|_| open.value > 0);
            crash_point("seal.before_commit");
            Ok(report)
        })?;
        crash_point("seal.after_commit");
        Ok(report)
    }
}

/// An account as a seal finds it.
struct Open {
    /// Units that no report has.
    value: u64,
    /// Number of the report they go into.
    k: u64,
    customer: Option<String>,
}

async fn open(connection: &mut AnyConnection, account: &Account) -> Result<Option<Open>, RecordsError> {
    locks::account(connection, account).await?;
    let query =
        sqlx::query(OPEN).bind(rows::int(account.tenant.0)?).bind(account.period.0).bind(account.meter.to_string());
    let Some(row) = query.fetch_optional(connection).await? else { return Ok(None) };
    let (total, reported, k) = (row.units("total")?, row.units("reported")?, row.units("k")?);
    let value = total.checked_sub(reported).ok_or_else(|| more_reported(account, total, reported))?;
    // With nothing to seal, the last report's number stays.
    Ok(Some(Open { value, k: k + u64::from(value > 0), customer: row.col("stripe_customer_id")? }))
}

fn more_reported(account: &Account, total: u64, reported: u64) -> RecordsError {
    RecordsError::Corrupt(format!("{account:?}: {reported} units reported of {total} counted"))
}

async fn insert(
    connection: &mut AnyConnection,
    account: &Account,
    open: &Open,
    (customer, identifier, at, now): (String, String, Timestamp, Timestamp),
) -> Result<(), RecordsError> {
    let query = sqlx::query(INSERT)
        .bind(rows::int(account.tenant.0)?)
        .bind(account.period.0)
        .bind(account.meter.to_string())
        .bind(rows::int(open.k)?)
        .bind(customer)
        .bind(identifier)
        .bind(rows::int(open.value)?)
        .bind(at.as_millisecond())
        .bind(now.as_millisecond());
    query.execute(connection).await?;
    Ok(())
}

async fn close(connection: &mut AnyConnection, account: &Account, open: &Open) -> Result<(), RecordsError> {
    let query = sqlx::query(CLOSE)
        .bind(rows::int(account.tenant.0)?)
        .bind(account.period.0)
        .bind(account.meter.to_string())
        .bind(rows::int(open.value)?)
        .bind(rows::int(open.k)?);
    query.execute(connection).await?;
    Ok(())
}

/// A report's identifier: 64 hexadecimal digits (Stripe takes 100 characters), the same whoever computes it, other
/// for every installation, account, number and renewal.
pub(super) fn identifier(installation: &str, account: &Account, k: u64, renewals: u64) -> String {
    let mut hash = Sha256::new();
    // Lengths before texts, so that no two of these ever read alike.
    for text in [installation, &account.meter] {
        hash.update(u64::try_from(text.len()).expect("a length fits in 64 bits").to_le_bytes());
        hash.update(text);
    }
    hash.update(account.tenant.0.to_le_bytes());
    hash.update(account.period.0.to_le_bytes());
    hash.update(k.to_le_bytes());
    hash.update(renewals.to_le_bytes());
    hex::encode(hash.finalize())
}

fn due(row: &AnyRow) -> Result<Due, RecordsError> {
    Ok(Due {
        account: row.account()?,
        tenant: row.col("id")?,
        stripe_customer_id: row.col("stripe_customer_id")?,
        unreported: row.units("unreported")?,
        since: row.time("due_at")?,
    })
}

fn held(row: &AnyRow) -> Result<Held, RecordsError> {
    let (account, tenant, unreported) = (row.account()?, row.col("id")?, row.units("unreported")?);
    Ok(Held { account, tenant, unreported, state: HeldState::NoCustomer })
}

/// `tenant.period.meter` of the last row of the page before.
fn held_cursor(after: Option<&str>) -> Result<(i64, i64, String), RecordsError> {
    let Some(text) = after else { return Ok((i64::MAX, i64::MAX, String::new())) };
    let mut parts = text.splitn(3, '.');
    let mut part = || parts.next().ok_or_else(|| rows::bad_cursor(text));
    let tenant = part()?.parse().map_err(|_| rows::bad_cursor(text))?;
    let period = part()?.parse().map_err(|_| rows::bad_cursor(text))?;
    Ok((tenant, period, part()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::kit::{self, batch};
    use super::super::{Answer, ReportState, TenantPatch};
    use super::*;
    use crate::units::TenantNum;

    async fn counted(records: &Records, tenant: TenantNum, (from, to): (u64, u64), units: u64) {
        records.flush(&[batch("a", tenant, (from, to), units)], kit::at(10)).await.unwrap();
    }

    async fn seal(records: &Records, tenant: TenantNum) -> Option<Report> {
        records.seal(&kit::account(tenant), kit::at(20), kit::at(21)).await.unwrap()
    }

    #[tokio::test]
    async fn a_seal_takes_what_no_report_has() {
        let (_folder, records) = kit::records().await;
        let acme = kit::tenant(&records, "acme", Some("cus_1")).await.num;
        assert_eq!(seal(&records, acme).await, None, "there is no account yet");
        counted(&records, acme, (1, 5), 7).await;
        let first = seal(&records, acme).await.unwrap();
        assert_eq!((first.k, first.value, first.at, first.state), (1, 7, kit::at(20), ReportState::Pending));
        assert_eq!(first.stripe_customer_id.as_deref(), Some("cus_1"));
        assert_eq!(seal(&records, acme).await, None);
        counted(&records, acme, (6, 6), 3).await;
        let second = seal(&records, acme).await.unwrap();
        assert_eq!((second.k, second.value), (2, 3));
        assert_ne!(first.identifier, second.identifier);
    }

    #[tokio::test]
    async fn what_is_due_is_not_looked_for_among_what_is_delivered() {
        let (_folder, records) = kit::records().await;
        let Some(plan) = kit::plan(&records, DUE).await else { return };
        assert!(plan.contains("account_due") && plan.contains("report_pending_of_account"), "{plan}");
        assert!(!plan.contains("SCAN"), "{plan}");
    }

    #[tokio::test]
    async fn of_two_sealers_one_wins() {
        let (_folder, records) = kit::records().await;
        let acme = kit::tenant(&records, "acme", Some("cus_1")).await.num;
        for round in 1..=20 {
            counted(&records, acme, (round, round), 5).await;
            let (one, two) = tokio::join!(seal(&records, acme), seal(&records, acme));
            assert_eq!(one.iter().chain(&two).map(|report| report.value).collect::<Vec<_>>(), [5]);
        }
    }

    #[tokio::test]
    async fn due_is_what_waits_with_a_customer_and_no_unanswered_report() {
        let (_folder, records) = kit::records().await;
        let acme = kit::tenant(&records, "acme", Some("cus_1")).await.num;
        counted(&records, acme, (1, 1), 7).await;
        assert_eq!(records.due_accounts(kit::at(9), 10).await.unwrap(), []);
        let due = records.due_accounts(kit::at(10), 10).await.unwrap();
        let expected = Due {
            account: kit::account(acme),
            tenant: "acme".to_owned(),
            stripe_customer_id: "cus_1".to_owned(),
            unreported: 7,
            since: kit::at(10),
        };
        assert_eq!(due, [expected]);
        let report = seal(&records, acme).await.unwrap();
        assert_eq!(records.due_accounts(kit::at(99), 10).await.unwrap(), []);
        counted(&records, acme, (2, 2), 1).await;
        assert_eq!(records.due_accounts(kit::at(99), 10).await.unwrap(), [], "one unanswered report is enough");
        records.answered(&report, Answer::Delivered, kit::at(30)).await.unwrap();
        assert_eq!(records.due_accounts(kit::at(99), 10).await.unwrap()[0].unreported, 1);
        assert_eq!(records.due_accounts(kit::at(99), 0).await.unwrap(), []);
    }

    #[tokio::test]
    async fn without_a_customer_usage_is_held_until_there_is_one() {
        let (_folder, records) = kit::records().await;
        let acme = kit::tenant(&records, "acme", None).await.num;
        counted(&records, acme, (1, 1), 7).await;
        assert_eq!(seal(&records, acme).await, None);
        assert_eq!(records.due_accounts(kit::at(99), 10).await.unwrap(), []);
        let held = records.held_accounts(kit::page(10, None)).await.unwrap();
        let (account, state) = (kit::account(acme), HeldState::NoCustomer);
        let expected = Held { account, tenant: "acme".to_owned(), unreported: 7, state };
        assert_eq!((held.data, held.next), (vec![expected], None));
        let patch = TenantPatch { stripe_customer_id: Some(Some("cus_9".to_owned())), ..TenantPatch::default() };
        records.update_tenant("acme", patch, kit::at(50)).await.unwrap();
        assert!(records.held_accounts(kit::page(10, None)).await.unwrap().data.is_empty());
        assert_eq!(records.due_accounts(kit::at(50), 10).await.unwrap()[0].unreported, 7);
        assert_eq!(seal(&records, acme).await.unwrap().stripe_customer_id.as_deref(), Some("cus_9"));
    }

    #[tokio::test]
    async fn held_accounts_come_in_pages() {
        let (_folder, records) = kit::records().await;
        for n in 1..=5 {
            let tenant = kit::tenant(&records, &format!("t{n}"), None).await.num;
            counted(&records, tenant, (n, n), n).await;
        }
        let (mut units, mut after) = (Vec::new(), None);
        loop {
            let page = records.held_accounts(kit::page(2, after)).await.unwrap();
            units.extend(page.data.iter().map(|held| held.unreported));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(units, [5, 4, 3, 2, 1]);
        let bad = records.held_accounts(kit::page(2, Some("1.x".to_owned()))).await;
        assert!(matches!(bad, Err(RecordsError::Invalid(_))));
    }

    #[tokio::test]
    async fn a_deleted_tenants_usage_is_still_reported() {
        let (_folder, records) = kit::records().await;
        let acme = kit::tenant(&records, "acme", Some("cus_1")).await.num;
        counted(&records, acme, (1, 1), 7).await;
        records.delete_tenant("acme", kit::at(11)).await.unwrap();
        assert_eq!(records.due_accounts(kit::at(99), 10).await.unwrap().len(), 1);
        assert_eq!(seal(&records, acme).await.unwrap().value, 7);
    }

    #[test]
    fn identifiers_differ_in_everything_they_stand_for() {
        let account = kit::account(TenantNum(1));
        let other = Account { meter: "api_unit".into(), ..account.clone() };
        let all = [
            identifier("i", &account, 1, 0),
            identifier("j", &account, 1, 0),
            identifier("is", &other, 1, 0),
            identifier("i", &kit::account(TenantNum(2)), 1, 0),
            identifier("i", &account, 2, 0),
            identifier("i", &account, 1, 1),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(|identifier| identifier.len() == 64));
        assert_eq!(all[0], identifier("i", &account, 1, 0));
    }
}
