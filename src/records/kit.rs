//! What the tests of this room share.

use std::sync::Arc;

use jiff::Timestamp;

use super::rows::Columns;
use super::{Created, NewTenant, Page, Records, Tenant};
use crate::journal::{Batch, Outcome, Row};
use crate::units::{Account, KeyNum, NodeId, PeriodId, TenantNum};

#[path = "../../tests/it/support/postgres.rs"]
pub(super) mod postgres;

pub(super) const PERIOD: PeriodId = PeriodId(1_790_000_000);

/// A database of its own: a file that is gone with the folder, or one in a PostgreSQL server that is gone with its tests.
pub(super) async fn records() -> (tempfile::TempDir, Records) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let records = Records::open(&url(&folder)).await.expect("a new database opens");
    (folder, records)
}

pub(super) fn url(folder: &tempfile::TempDir) -> String {
    postgres::database_for(folder.path())
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(PERIOD.0 + second).expect("a time of this century")
}

pub(super) fn page(limit: u32, after: Option<String>) -> Page {
    Page { limit, after }
}

pub(super) fn new_tenant(id: &str, customer: Option<&str>) -> NewTenant {
    NewTenant {
        id: id.to_owned(),
        name: id.to_uppercase(),
        email: None,
        plan: "starter".to_owned(),
        stripe_customer_id: customer.map(str::to_owned),
    }
}

pub(super) async fn tenant(records: &Records, id: &str, customer: Option<&str>) -> Tenant {
    match records.create_tenant(new_tenant(id, customer), at(0)).await.expect("a tenant is made") {
        Created::New(tenant) => tenant,
        other @ (Created::Exists(_) | Created::Differs(_)) => panic!("{other:?}"),
    }
}

pub(super) fn account(tenant: TenantNum) -> Account {
    Account { tenant, period: PERIOD, meter: "api_units".into() }
}

pub(super) fn node(name: &str) -> NodeId {
    NodeId(name.into())
}

/// Records `from` to `to` of worker 0, one row of `units`.
pub(super) fn batch(node: &str, tenant: TenantNum, (from, to): (u64, u64), units: u64) -> Batch {
    let row = Row {
        tenant,
        period: PERIOD,
        meter: "api_units".into(),
        route: Arc::from("GET /signals"),
        hour_s: PERIOD.0 / 3600 * 3600,
        status: 200,
        outcome: Outcome::Completed,
        key: KeyNum::NONE,
        units,
        requests: to - from + 1,
    };
    Batch { node: self::node(node), worker: 0, from, to, rows: vec![row] }
}

/// How SQLite would find the rows: one line per step. `None` for PostgreSQL, whose plans depend on what is there.
pub(super) async fn plan(records: &Records, statement: &str) -> Option<String> {
    if postgres::is_there() {
        return None;
    }
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
    let steps = sqlx::query(explain).fetch_all(records.db().read()).await.expect("a statement that can be planned");
    let steps = steps.iter().map(|step| step.col::<String>("detail").expect("every step has a detail"));
    Some(steps.collect::<Vec<_>>().join("\n"))
}

/// Everything that is tested over a file is tested over a server too.
#[test]
fn all_of_it_over_postgres() {
    if !postgres::is_there() {
        postgres::run_over_postgres(&["records::"], &["all_of_it_over_postgres"]);
    }
}
