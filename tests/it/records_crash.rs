//! SIGKILL at every named point of flush, seal and settle: done again, it has happened once.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use jiff::Timestamp;
use tollgate::clock::Clock;
use tollgate::journal::{Batch, Outcome, Row};
use tollgate::ledger::embedded::Embedded;
use tollgate::ledger::{Answer, Ask, Ledger};
use tollgate::records::{NewTenant, Page, Records, ReportFilter};
use tollgate::testing::CRASH_POINTS;
use tollgate::units::{Account, KeyNum, NodeId, PeriodId, TenantNum};

const DATABASE: &str = "TOLLGATE_TEST_DATABASE";

#[tokio::test]
async fn a_kill_at_any_point_loses_nothing_and_doubles_nothing() {
    let of_records = |name: &&&str| ["flush.", "seal.", "settle."].iter().any(|part| name.starts_with(part));
    let points: Vec<_> = CRASH_POINTS.iter().filter(of_records).collect();
    assert_eq!(points.len(), 9);
    for point in points {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = crate::support::postgres::database_for(folder.path());
        assert_eq!(live_once(&url, point), Some(9), "{point}: the child is killed there");
        work(&url, 2).await;
        check(&url, point).await;
    }
}

/// Not a test: what a child process of the test above does until it is killed.
#[tokio::test]
#[ignore = "run by a_kill_at_any_point_loses_nothing_and_doubles_nothing in a process of its own"]
async fn child() {
    let url = std::env::var(DATABASE).expect("the parent names the database");
    work(&url, 1).await;
}

/// The signal that ended a child which was to die at `point`.
fn live_once(url: &str, point: &str) -> Option<i32> {
    let status = Command::new(std::env::current_exe().expect("this binary has a path"))
        .args(["--exact", "records_crash::child", "--ignored"])
        .env(DATABASE, url)
        .env("TOLLGATE_CRASH_AT", point)
        .output()
        .expect("this binary runs")
        .status;
    status.signal()
}

/// A node's whole work on one batch, as it is done after every start.
async fn work(url: &str, boot: u64) {
    let records = Records::open(url).await.expect("the database opens");
    let new = NewTenant {
        id: "acme".to_owned(),
        name: String::new(),
        email: None,
        plan: "pro".to_owned(),
        stripe_customer_id: Some("cus_1".to_owned()),
    };
    records.create_tenant(new, now()).await.expect("the tenant is made");
    let ledger = Embedded::new(records.clone(), Clock::manual(now()));
    let (used, plan_version, cap) = ((boot - 1) * 5, 1, Some(100));
    let ask = Ask { account: account(), ctr: boot << 40 | 1, used, hold: used, need: 25, want: 25, plan_version, cap };
    ledger.settle(&node(), &[ask]).await.expect("the ledger answers");
    records.flush(&[batch()], now()).await.expect("the flush is applied");
    records.seal(&account(), now(), now()).await.expect("a seal");
    records.close().await;
}

async fn check(url: &str, point: &str) {
    let records = Records::open(url).await.expect("the database opens");
    let totals = records.totals(&node(), &account()).await.expect("totals");
    assert_eq!((totals.own, totals.all), (25, 25), "{point}");
    let page = Page { limit: 10, after: None };
    let reports = records.reports(ReportFilter::default(), page).await.expect("reports").data;
    assert_eq!(reports.iter().map(|report| (report.k, report.value)).collect::<Vec<_>>(), [(1, 25)], "{point}");
    let ledger = Embedded::new(records.clone(), Clock::manual(now()));
    let other =
        Ask { ctr: 1, used: 0, hold: 0, need: 100, want: 100, account: account(), plan_version: 1, cap: Some(100) };
    let answer = ledger.settle(&NodeId("other".into()), &[other]).await.expect("the ledger answers");
    // The killed node said it holds 5 and was granted 25 more; what its first life was granted is free again.
    assert!(matches!(answer[..], [Answer::Settled { ceiling: 70, used: 5, .. }]), "{point}: {answer:?}");
}

fn batch() -> Batch {
    let row = Row {
        tenant: account().tenant,
        period: account().period,
        meter: account().meter,
        route: "GET /".into(),
        hour_s: 0,
        status: 200,
        outcome: Outcome::Completed,
        key: KeyNum::NONE,
        units: 25,
        requests: 10,
    };
    Batch { node: node(), worker: 0, from: 1, to: 10, rows: vec![row] }
}

fn account() -> Account {
    Account { tenant: TenantNum(1), period: PeriodId(1_795_000_000), meter: "api_units".into() }
}

fn node() -> NodeId {
    NodeId("a".into())
}

fn now() -> Timestamp {
    Timestamp::from_second(1_795_000_100).expect("a time of this century")
}
