//! What PostgreSQL must be told to lock. SQLite has one writer, so that nothing changes between a read and a write.
//!
//! PostgreSQL runs many transactions at once, each statement on what was committed when it began ("read committed").
//! Whatever a transaction reads in order to write it is locked first, by a statement of its own, so that the reading
//! statement begins after the one that held the lock has committed. Locks are taken in one order everywhere, so that
//! nobody waits in a circle: journal, generation, tenant, account, report; each kind in the order of its keys. Should
//! two meet all the same, the server undoes one and it is done again (`Db::transact`).

use sqlx::AnyConnection;

use super::RecordsError;
use super::rows;
use crate::units::Account;

/// Names rather than rows, for what may not be there yet; held until the transaction ends.
const NAMES: &str = "SELECT pg_advisory_xact_lock(l.number) IS NULL AS locked FROM \
     (SELECT DISTINCT hashtextextended(n.name, 0) AS number \
      FROM jsonb_array_elements_text(CAST($1 AS jsonb)) AS n (name) ORDER BY 1) AS l";
/// A flush says in which generation it was; and a tenant's first customer may not arrive between a flush's look at it
/// and the flush's commit, or what was flushed would never become due.
const FLUSH: &str = "WITH g AS (SELECT gen FROM ledger_gen FOR SHARE), \
     t AS (SELECT t.num FROM tenant AS t WHERE t.stripe_customer_id IS NULL \
           AND t.num IN (SELECT CAST(e.value ->> 0 AS BIGINT) FROM json_each($1) AS e) ORDER BY t.num FOR SHARE) \
     SELECT (SELECT COUNT(*) FROM g) + (SELECT COUNT(*) FROM t) AS locked";
const TENANTS: &str = "SELECT num FROM tenant WHERE deleted_at IS NULL \
     AND id IN (SELECT e.value ->> 0 FROM json_each($1) AS e) ORDER BY num FOR UPDATE";
const ACCOUNT: &str = "SELECT k FROM account WHERE tenant = $1 AND period = $2 AND meter = $3 FOR UPDATE";
const REPORT: &str = "SELECT k FROM report WHERE tenant = $1 AND period = $2 AND meter = $3 AND k = $4 FOR UPDATE";

/// Whether others may write at the same time.
pub(super) fn needed(connection: &AnyConnection) -> bool {
    connection.backend_name() == "PostgreSQL"
}

/// Things by name, whether there are rows of them or not.
pub(super) async fn names(connection: &mut AnyConnection, names: &[String]) -> Result<(), RecordsError> {
    if needed(connection) {
        sqlx::query(NAMES).bind(rows::json(names)?).fetch_all(connection).await?;
    }
    Ok(())
}

/// The ledger's rows of these accounts, there or not yet.
pub(super) async fn ledger(connection: &mut AnyConnection, accounts: &[&Account]) -> Result<(), RecordsError> {
    let name =
        |account: &&Account| format!("tollgate ledger {} {} {}", account.tenant.0, account.period.0, account.meter);
    names(connection, &accounts.iter().map(name).collect::<Vec<_>>()).await
}

/// All reports of a customer and meter.
pub(super) async fn reports(connection: &mut AnyConnection, customer: &str, meter: &str) -> Result<(), RecordsError> {
    names(connection, &[format!("tollgate reports {customer} {meter}")]).await
}

/// What a flush of these accounts (tenant first) depends on.
pub(super) async fn flush(connection: &mut AnyConnection, accounts: &str) -> Result<(), RecordsError> {
    if needed(connection) {
        sqlx::query(FLUSH).bind(accounts.to_owned()).fetch_all(connection).await?;
    }
    Ok(())
}

/// Tenants by their names.
pub(super) async fn tenants(connection: &mut AnyConnection, ids: &[&str]) -> Result<(), RecordsError> {
    if needed(connection) {
        let ids: Vec<_> = ids.iter().map(|id| (id,)).collect();
        sqlx::query(TENANTS).bind(rows::json(&ids)?).fetch_all(connection).await?;
    }
    Ok(())
}

/// An account's row.
pub(super) async fn account(connection: &mut AnyConnection, account: &Account) -> Result<(), RecordsError> {
    if needed(connection) {
        let query = sqlx::query(ACCOUNT)
            .bind(rows::int(account.tenant.0)?)
            .bind(account.period.0)
            .bind(account.meter.to_string());
        query.fetch_all(connection).await?;
    }
    Ok(())
}

/// A report's row.
pub(super) async fn report(connection: &mut AnyConnection, account: &Account, k: u64) -> Result<(), RecordsError> {
    if needed(connection) {
        let query = sqlx::query(REPORT)
            .bind(rows::int(account.tenant.0)?)
            .bind(account.period.0)
            .bind(account.meter.to_string())
            .bind(rows::int(k)?);
        query.fetch_all(connection).await?;
    }
    Ok(())
}
