//! The reporter against the sandbox over loopback HTTP, with a real database file: whatever goes wrong between them,
//! the units at Stripe are the units that were used.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tollgate::clock::Clock;
use tollgate::config::settings::Secret;
use tollgate::journal::{Batch, Outcome, Row};
use tollgate::pricing::MeterKind;
use tollgate::records::{Created, NewTenant, Page, Records, Report, ReportFilter, ReportState, Tenant, TenantPatch};
use tollgate::sandbox::{self, Effect, Fault, Sandbox};
use tollgate::stripe::client::{Client, Event, NewCustomer};
use tollgate::stripe::report::{self, Flushed, Meters, Reporter, Target};
use tollgate::stripe::{IdempotencyKey, Transport, transport};
use tollgate::units::{Account, KeyNum, NodeId, PeriodId};

use crate::judge::{Verdict, judge};

const METER: &str = "api_units";
const EVENTS: &str = "/v1/billing/meter_events";
const START: &str = "2026-11-20T00:00:30Z";

/// Records, sandbox and a clock that stands still until told.
struct World {
    _dir: TempDir,
    url: String,
    records: Records,
    sandbox: Sandbox,
    clock: Clock,
    client: Client,
    node: NodeId,
    seq: u64,
}

impl World {
    async fn start() -> Self {
        let clock = Clock::manual(START.parse().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let url = crate::support::postgres::database_for(dir.path());
        let records = Records::open(&url).await.unwrap();
        let sandbox = sandbox::start(sandbox::Config::on_loopback(clock.clone())).await.unwrap();
        let node = NodeId("node-1".into());
        records.register_node(&node, 1, clock.now()).await.unwrap();
        let client = client(&sandbox.url(), &sandbox.secret_key);
        client.ensure_meter("API units", METER, MeterKind::Counter).await.unwrap();
        Self { _dir: dir, url, records, sandbox, clock, client, node, seq: 0 }
    }

    fn reporter(&self) -> Reporter {
        self.reporter_with(self.records.clone(), self.client.clone(), Duration::ZERO)
    }

    fn reporter_with(&self, records: Records, client: Client, flush: Duration) -> Reporter {
        let config = report::Config { flush, beat: Duration::from_millis(20), concurrency: 8 };
        Reporter::new(records, client, self.clock.clone(), config, meters())
    }

    /// Another process's reporter, which dies on its `skip + 1`st pass of a crash point.
    fn kill_reporter_at(&self, point: &str, skip: u32) {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "--ignored", "--nocapture", "stripe_report::killed_at_a_crash_point"]);
        child.env("TOLLGATE_CRASH_AT", format!("{point}:{skip}"));
        child.env("TOLLGATE_TEST_RECORDS", &self.url).env("TOLLGATE_TEST_STRIPE", self.sandbox.url());
        let status = child.env("TOLLGATE_TEST_NOW", self.clock.now().to_string()).output().unwrap().status;
        assert_eq!(status.signal(), Some(9), "killed at {point}:{skip}");
    }

    /// A tenant with a customer at Stripe.
    async fn tenant(&self, id: &str) -> Tenant {
        let new = NewCustomer { tenant: id.to_owned(), name: Some(id.to_owned()), email: None };
        let customer = self.client.create_customer(&new, IdempotencyKey::random().unwrap()).await.unwrap();
        self.tenant_of(id, Some(customer.id)).await
    }

    async fn tenants(&self, count: usize) -> Vec<Tenant> {
        let mut tenants = Vec::new();
        for n in 0..count {
            tenants.push(self.tenant(&format!("tenant-{n}")).await);
        }
        tenants
    }

    async fn tenant_of(&self, id: &str, stripe_customer_id: Option<String>) -> Tenant {
        let (name, plan) = (id.to_owned(), "pro".to_owned());
        let new = NewTenant { id: id.to_owned(), name, email: None, plan, stripe_customer_id };
        let created = self.records.create_tenant(new, self.clock.now()).await.unwrap();
        let Created::New(tenant) = created else { panic!("{created:?}") };
        tenant
    }

    fn account(tenant: &Tenant) -> Account {
        let period = PeriodId(tenant.period_anchor.as_second());
        Account { tenant: tenant.num, period, meter: METER.into() }
    }

    /// Usage, flushed to the records.
    async fn consume(&mut self, tenant: &Tenant, units: u64) {
        self.seq += 1;
        let Account { tenant, period, meter } = Self::account(tenant);
        let hour_s = self.clock.now_s().div_euclid(3600) * 3600;
        let (route, outcome, key) = ("GET /signals".into(), Outcome::Completed, KeyNum::NONE);
        let row = Row { tenant, period, meter, route, hour_s, status: 200, outcome, key, units, requests: 1 };
        let batch = Batch { node: self.node.clone(), worker: 0, from: self.seq, to: self.seq, rows: vec![row] };
        self.records.flush(&[batch], self.clock.now()).await.unwrap();
    }

    fn pass_time(&self, by: SignedDuration) {
        assert!(self.clock.set(self.clock.now() + by));
    }

    fn break_events(&self, effect: Effect, times: u32) {
        self.sandbox.fault(Fault::new(effect).on("POST", EVENTS).times(times)).unwrap();
    }

    fn metered(&self, tenant: &Tenant) -> u64 {
        self.sandbox.meter_total(METER, tenant.stripe_customer_id.as_deref().unwrap())
    }

    async fn reports(&self) -> Vec<Report> {
        self.records.reports(ReportFilter::default(), Page { limit: 1000, after: None }).await.unwrap().data
    }

    async fn states(&self) -> Vec<ReportState> {
        self.reports().await.iter().map(|report| report.state).collect()
    }

    /// Exchanges recorded so far that begin with `method path`.
    fn exchanges(&self, method: &str, path: &str) -> usize {
        let is = |line: &&str| {
            let exchange: serde_json::Value = serde_json::from_str(line).unwrap();
            exchange["method"] == method && exchange["path"].as_str().unwrap().starts_with(path)
        };
        self.sandbox.exchanges().lines().filter(is).count()
    }

    /// Passes, with ten minutes between them, until nothing is open and nothing moved.
    async fn settle(&self, reporter: &Reporter) {
        // A commit whose caller was dropped may still land a moment later: quiet is several quiet looks.
        let mut quiet = 0;
        for _ in 0..80 {
            quiet = if reporter.pass().await.unwrap() == Flushed::default() { quiet + 1 } else { 0 };
            if quiet == 5 {
                return;
            }
            self.pass_time(SignedDuration::from_mins(10));
            // The sandbox's delays are real time.
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        panic!("still open: {:#?}", self.reports().await);
    }

    /// The one promise: what Stripe holds, what our records say it holds, and what was used are the same.
    async fn assert_exact(&self, tenant: &Tenant, used: u64) {
        assert_eq!(self.metered(tenant), used, "{} at Stripe", tenant.id);
        let confirmed = self.records.delivered_total(&Self::account(tenant)).await.unwrap();
        assert_eq!(confirmed, used, "{} in the records", tenant.id);
    }

    /// Every exchange so far is one that Stripe's own specification allows.
    fn judge(&self) {
        let verdict = judge(&self.sandbox.exchanges());
        assert!(matches!(verdict, Verdict::Clean(1..) | Verdict::Skipped), "{verdict:?}");
    }
}

fn meters() -> Meters {
    Meters::from([(METER.into(), Target { event: METER.into(), kind: MeterKind::Counter })])
}

fn client(url: &str, key: &str) -> Client {
    let mut config = transport::Config::new(url.parse().unwrap(), Secret::new(key.to_owned()));
    config.attempt_timeout = Duration::from_millis(300);
    config.call_timeout = Duration::from_secs(1);
    config.breaker.cool_off = Duration::from_millis(20);
    Client::new(Arc::new(Transport::new(config).unwrap()))
}

#[tokio::test]
async fn units_arrive_once_under_every_single_fault() {
    let server_error = |status| Effect::ErrorBefore { status, should_retry: None };
    let after = |status, should_retry| Effect::ErrorAfter { status, should_retry };
    let faults = [
        Effect::LostAnswer,
        Effect::Hangup,
        Effect::Outage,
        server_error(500),
        server_error(503),
        after(500, None),
        after(502, Some(true)),
        after(500, Some(false)),
        Effect::RateLimited { reason: "global-rate".into() },
        Effect::RateLimited { reason: "resource-specific".into() },
        Effect::LockTimeout,
        Effect::Concurrency,
        Effect::Delay { ms: 500 },
        Effect::SlowAnswer { ms: 500 },
    ];
    let mut world = World::start().await;
    let tenants = world.tenants(3).await;
    let reporter = world.reporter();
    let mut used = 0;
    for (units, effect) in (7..).zip(faults) {
        for tenant in &tenants {
            world.consume(tenant, units).await;
        }
        used += units;
        world.break_events(effect.clone(), 4);
        world.settle(&reporter).await;
        for tenant in &tenants {
            assert_eq!(world.metered(tenant), used, "{effect:?}");
            world.assert_exact(tenant, used).await;
        }
        world.sandbox.clear_faults();
    }
    assert!(world.states().await.iter().all(|state| *state == ReportState::Delivered));
    world.judge();
}

/// Every fault at once, by chance, while usage goes on.
async fn storm(world: &mut World, reporters: &[Reporter], seed: u64) {
    let effects = [
        Effect::LostAnswer,
        Effect::Hangup,
        Effect::Outage,
        Effect::ErrorBefore { status: 500, should_retry: None },
        Effect::ErrorAfter { status: 500, should_retry: None },
        Effect::LockTimeout,
        Effect::SlowAnswer { ms: 400 },
    ];
    for (seed, effect) in (seed..).zip(effects) {
        let fault = Fault::new(effect).on("POST", EVENTS).by_chance(8, seed);
        world.sandbox.fault(fault).unwrap();
    }
    let tenants = world.tenants(6).await;
    let mut used = vec![0; tenants.len()];
    for round in 0..12 {
        for ((n, tenant), used) in (0..).zip(&tenants).zip(&mut used) {
            let units = 1 + (round * 7 + n * 13) % 50;
            world.consume(tenant, units).await;
            *used += units;
        }
        let passes = reporters.iter().map(Reporter::pass);
        for pass in futures_util::future::join_all(passes).await {
            pass.unwrap();
        }
        world.pass_time(SignedDuration::from_mins(2));
    }
    world.sandbox.clear_faults();
    world.settle(&reporters[0]).await;
    for (tenant, used) in tenants.iter().zip(used) {
        world.assert_exact(tenant, used).await;
    }
}

#[tokio::test]
async fn units_arrive_once_in_a_storm_of_faults() {
    let mut world = World::start().await;
    let reporter = world.reporter();
    storm(&mut world, &[reporter], 1).await;
    world.judge();
}

#[tokio::test]
async fn units_arrive_once_with_two_reporters_in_the_storm() {
    let mut world = World::start().await;
    let second = Records::open(&world.url).await.unwrap();
    let other = client(&world.sandbox.url(), &world.sandbox.secret_key);
    let reporters = [world.reporter(), world.reporter_with(second, other, Duration::ZERO)];
    storm(&mut world, &reporters, 99).await;
    world.judge();
}

#[tokio::test]
async fn a_reporter_that_dies_anywhere_is_followed_by_another() {
    let mut world = World::start().await;
    let tenant = world.tenant("acme").await;
    let mut used = 0;
    for n in 0..40 {
        world.consume(&tenant, n + 1).await;
        used += n + 1;
        // Dropped after so many milliseconds, wherever it is then.
        let reporter = world.reporter();
        let life = tokio::time::timeout(Duration::from_millis(n % 10), reporter.flush_now(Duration::from_secs(60)));
        drop(life.await);
    }
    world.settle(&world.reporter()).await;
    world.assert_exact(&tenant, used).await;
}

/// Where a reporter can be killed, between any two of its steps.
const CRASH_POINTS: [&str; 6] = [
    "seal.before",
    "seal.before_commit",
    "seal.after_commit",
    "report.after_first_try",
    "report.after_answer",
    "report.after_delivered",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reporter_killed_at_any_crash_point_is_followed_by_another() {
    let mut world = World::start().await;
    let tenants = world.tenants(3).await;
    let mut used = 0;
    // The first pass of each point, then a later one: another customer's.
    for (units, (point, skip)) in (1..).zip(CRASH_POINTS.into_iter().flat_map(|point| [(point, 0), (point, 2)])) {
        for tenant in &tenants {
            world.consume(tenant, units).await;
        }
        used += units;
        world.kill_reporter_at(point, skip);
        world.settle(&world.reporter()).await;
        for tenant in &tenants {
            world.assert_exact(tenant, used).await;
        }
    }
    world.judge();
}

/// The process that is killed: run by the test above, by itself it has nothing to do.
#[tokio::test]
#[ignore = "a part of another test, in a process of its own"]
async fn killed_at_a_crash_point() {
    let Ok(url) = std::env::var("TOLLGATE_TEST_RECORDS") else { return };
    let variable = |name: &str| std::env::var(name).unwrap();
    let clock = Clock::manual(variable("TOLLGATE_TEST_NOW").parse().unwrap());
    let client = client(&variable("TOLLGATE_TEST_STRIPE"), "sk_test_sandbox");
    let records = Records::open(&url).await.unwrap();
    let config = report::Config { flush: Duration::ZERO, beat: Duration::from_millis(20), concurrency: 1 };
    let reporter = Reporter::new(records, client, clock, config, meters());
    reporter.flush_now(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_day_without_stripe_is_made_up_for() {
    let mut world = World::start().await;
    let tenants = world.tenants(3).await;
    let reporter = world.reporter();
    world.sandbox.fault(Fault::new(Effect::Outage)).unwrap();
    for _ in 0..26 {
        for tenant in &tenants {
            world.consume(tenant, 10).await;
        }
        reporter.pass().await.unwrap();
        world.pass_time(SignedDuration::from_hours(1));
    }
    assert!(tenants.iter().all(|tenant| world.metered(tenant) == 0));
    assert_eq!(world.reports().await.len(), 3, "what comes meanwhile waits for one report, it does not make a hundred");
    world.sandbox.clear_faults();
    world.settle(&reporter).await;
    for tenant in &tenants {
        world.assert_exact(tenant, 260).await;
    }
    world.judge();
}

/// One report whose first attempt ends as `effect` says, then nothing gets through until the identifier is forgotten.
async fn forgotten(effect: Effect) -> (World, Tenant, Reporter) {
    let mut world = World::start().await;
    let tenant = world.tenant("acme").await;
    let reporter = world.reporter();
    world.consume(&tenant, 100).await;
    world.settle(&reporter).await;
    world.pass_time(SignedDuration::from_secs(5));
    world.consume(&tenant, 11).await;
    world.break_events(effect, 1);
    assert_eq!(reporter.pass().await.unwrap().left, 1);
    world.pass_time(SignedDuration::from_hours(30));
    (world, tenant, reporter)
}

#[tokio::test]
async fn a_late_report_that_arrived_is_not_sent_again() {
    let (world, tenant, reporter) = forgotten(Effect::LostAnswer).await;
    let sent = world.exchanges("POST", EVENTS);
    world.settle(&reporter).await;
    world.assert_exact(&tenant, 111).await;
    assert_eq!(world.exchanges("POST", EVENTS), sent, "nothing was sent");
    assert_eq!(world.exchanges("GET", "/v1/billing/meters/"), 2, "two readings");
    world.judge();
}

#[tokio::test]
async fn a_late_report_that_never_arrived_is_sent_under_a_new_identifier() {
    let (world, tenant, reporter) = forgotten(Effect::Hangup).await;
    let before = world.reports().await[0].identifier.clone();
    world.settle(&reporter).await;
    world.assert_exact(&tenant, 111).await;
    let after = &world.reports().await[0];
    assert_eq!((after.state, after.value), (ReportState::Delivered, 11));
    assert_ne!(after.identifier, before);
    world.judge();
}

#[tokio::test]
async fn a_late_report_waits_until_the_summaries_agree() {
    let (world, tenant, reporter) = forgotten(Effect::LostAnswer).await;
    // The first reading does not show the event yet, so that a single one would send it again.
    world
        .sandbox
        .fault(Fault::new(Effect::Lag { seconds: 200_000 }).times(1).on("GET", "/v1/billing/meters/*"))
        .unwrap();
    reporter.pass().await.unwrap();
    world.settle(&reporter).await;
    world.assert_exact(&tenant, 111).await;
    assert_eq!(world.exchanges("GET", "/v1/billing/meters/"), 3, "0, then 11 twice");
}

#[tokio::test]
async fn a_late_report_that_fits_neither_truth_is_left_for_a_person() {
    let (world, tenant, reporter) = forgotten(Effect::Hangup).await;
    let report = world.reports().await.remove(0);
    let foreign = Event {
        event_name: METER.into(),
        customer: tenant.stripe_customer_id.clone().unwrap(),
        value: 3,
        identifier: "somebody-elses".into(),
        timestamp: report.at.as_second(),
    };
    world.client.create_meter_event(&foreign).await.unwrap();
    let sent = world.exchanges("POST", EVENTS);
    for _ in 0..20 {
        reporter.pass().await.unwrap();
        world.pass_time(SignedDuration::from_mins(10));
    }
    assert_eq!(world.reports().await[0].state, ReportState::Pending);
    assert_eq!(world.exchanges("POST", EVENTS), sent, "nothing was sent");
    assert_eq!(world.exchanges("GET", "/v1/billing/meters/"), 2, "reads are rationed");
}

#[tokio::test]
async fn an_identifier_that_stripe_has_is_a_delivery() {
    let mut world = World::start().await;
    let tenant = world.tenant("acme").await;
    world.consume(&tenant, 42).await;
    let report = world.records.seal(&World::account(&tenant), world.clock.now(), world.clock.now()).await;
    let report = report.unwrap().unwrap();
    let event = Event {
        event_name: METER.into(),
        customer: tenant.stripe_customer_id.clone().unwrap(),
        value: 42,
        identifier: report.identifier,
        timestamp: report.at.as_second(),
    };
    // Under another idempotency key: what answers is the event's identifier, not a replay.
    let answer = world.client.transport().call(&event.request(), IdempotencyKey::random().unwrap()).await;
    answer.unwrap();
    let done = world.reporter().pass().await.unwrap();
    assert_eq!(done, Flushed { delivered: 1, delivered_units: 42, ..Flushed::default() });
    world.assert_exact(&tenant, 42).await;
    world.judge();
}

#[tokio::test]
async fn a_refused_report_is_a_dead_letter_and_holds_up_nobody() {
    let mut world = World::start().await;
    let bad = world.tenant_of("bad", Some("cus_does_not_exist".to_owned())).await;
    let good = world.tenant("good").await;
    world.consume(&bad, 5).await;
    world.consume(&good, 6).await;
    let done = world.reporter().flush_now(Duration::from_secs(5)).await.unwrap();
    assert_eq!(done, Flushed { sealed: 2, delivered: 1, delivered_units: 6, rejected: 1, left: 0 });
    world.assert_exact(&good, 6).await;
    let letter = world.reports().await.into_iter().find(|r| r.state == ReportState::Rejected).unwrap();
    assert_eq!((letter.tenant.as_str(), letter.value), ("bad", 5));
    assert!(letter.detail.is_some_and(|why| why.contains("400")), "says why");
    // The next report of that tenant is a report of its own.
    world.consume(&bad, 1).await;
    assert_eq!(world.reporter().pass().await.unwrap().rejected, 1);
    world.judge();
}

#[tokio::test]
async fn usage_without_a_customer_is_kept_until_there_is_one() {
    let mut world = World::start().await;
    let tenant = world.tenant_of("acme", None).await;
    world.consume(&tenant, 5).await;
    let reporter = world.reporter();
    assert_eq!(reporter.flush_now(Duration::from_secs(5)).await.unwrap(), Flushed::default());
    let customer = world.client.create_customer(&NewCustomer::default(), IdempotencyKey::random().unwrap()).await;
    let patch = TenantPatch { stripe_customer_id: Some(Some(customer.unwrap().id)), ..TenantPatch::default() };
    let tenant = world.records.update_tenant("acme", patch, world.clock.now()).await.unwrap().unwrap();
    world.settle(&reporter).await;
    world.assert_exact(&tenant, 5).await;
}

#[tokio::test]
async fn a_wrong_key_makes_no_dead_letters() {
    let mut world = World::start().await;
    let tenants = world.tenants(3).await;
    for tenant in &tenants {
        world.consume(tenant, 9).await;
    }
    let wrong = client(&world.sandbox.url(), "sk_test_revoked");
    let done = world.reporter_with(world.records.clone(), wrong, Duration::ZERO).pass().await.unwrap();
    assert_eq!((done.sealed, done.delivered, done.rejected, done.left), (3, 0, 0, 3));
    assert!(world.states().await.iter().all(|state| *state == ReportState::Pending));
    world.settle(&world.reporter()).await;
    for tenant in &tenants {
        world.assert_exact(tenant, 9).await;
    }
}

#[tokio::test]
async fn reports_of_one_tenant_are_a_window_apart() {
    let mut world = World::start().await;
    let tenant = world.tenant("acme").await;
    let reporter = world.reporter_with(world.records.clone(), world.client.clone(), Duration::from_secs(60));
    let mut reports = Vec::new();
    for _ in 0..300 {
        world.consume(&tenant, 1).await;
        reporter.pass().await.unwrap();
        reports.push(world.exchanges("POST", EVENTS));
        world.pass_time(SignedDuration::from_secs(1));
    }
    assert_eq!(*reports.last().unwrap(), 4, "in five minutes, the last window still open");
    assert_eq!(reporter.flush_now(Duration::from_secs(5)).await.unwrap().left, 0);
    world.assert_exact(&tenant, 300).await;
}

#[tokio::test]
async fn a_customer_that_hangs_holds_up_nobody() {
    let mut world = World::start().await;
    let tenants = world.tenants(4).await;
    // The first call hangs for as long as an attempt lives; the others must not wait for it.
    let mut config =
        transport::Config::new(world.sandbox.url().parse().unwrap(), Secret::new("sk_test_sandbox".into()));
    config.attempt_timeout = Duration::from_secs(20);
    let patient = Client::new(Arc::new(Transport::new(config).unwrap()));
    world.break_events(Effect::Delay { ms: 15_000 }, 1);
    for tenant in &tenants {
        world.consume(tenant, 3).await;
    }
    let reporter = world.reporter_with(world.records.clone(), patient, Duration::ZERO);
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let (reporter, cancel) = (reporter.clone(), cancel.clone());
        async move { reporter.run(cancel).await }
    });
    // One customer's first call is the one that hangs; three others get through, again and again.
    for sum in [3, 6, 9] {
        let through = async {
            while tenants.iter().filter(|tenant| world.metered(tenant) >= sum).count() < 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), through).await.expect("the others get through");
        for tenant in &tenants {
            world.consume(tenant, 3).await;
        }
    }
    assert_eq!(tenants.iter().filter(|tenant| world.metered(tenant) == 0).count(), 1);
    running.abort();
    cancel.cancel();
}

#[tokio::test]
async fn running_until_cancelled_delivers_and_ends() {
    let mut world = World::start().await;
    let tenants = world.tenants(20).await;
    for tenant in &tenants {
        world.consume(tenant, 4).await;
    }
    let cancel = CancellationToken::new();
    let reporter = world.reporter();
    let running = tokio::spawn({
        let cancel = cancel.clone();
        async move { reporter.run(cancel).await }
    });
    let all = async {
        while tenants.iter().any(|tenant| world.metered(tenant) < 4) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("all delivered");
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("ends when told").unwrap();
    for tenant in &tenants {
        world.assert_exact(tenant, 4).await;
    }
}

#[tokio::test]
async fn flushing_now_gives_up_in_time_and_says_what_is_left() {
    let mut world = World::start().await;
    let tenants = world.tenants(2).await;
    for tenant in &tenants {
        world.consume(tenant, 8).await;
    }
    world.sandbox.fault(Fault::new(Effect::Outage).on("POST", EVENTS)).unwrap();
    let reporter = world.reporter();
    let begun = std::time::Instant::now();
    let done = reporter.flush_now(Duration::from_secs(1)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(done, Flushed { sealed: 2, left: 2, ..Flushed::default() });
    world.sandbox.clear_faults();
    world.settle(&reporter).await;
    for tenant in &tenants {
        world.assert_exact(tenant, 8).await;
    }
}

#[tokio::test]
async fn a_meter_that_aggregates_otherwise_is_not_taken() {
    let world = World::start().await;
    let again = world.client.ensure_meter("API units", METER, MeterKind::Counter).await.unwrap();
    assert_eq!(world.client.meters().await.unwrap(), [again]);
    let other = world.client.ensure_meter("API units", METER, MeterKind::Gauge).await.unwrap_err();
    assert!(other.to_string().contains("aggregates by sum, not last"), "{other}");
    world.judge();
}

#[tokio::test]
async fn lists_are_read_to_their_end() {
    let world = World::start().await;
    for n in 0..120 {
        let event = format!("event_{n}");
        world.client.create_meter(&event, &event, MeterKind::Counter, IdempotencyKey::random().unwrap()).await.unwrap();
    }
    assert_eq!(world.client.meters().await.unwrap().len(), 121);
    assert!(world.client.meter_by_event("event_0").await.unwrap().is_some());
    assert_eq!(world.client.customer("cus_nobody").await.unwrap(), None);
    world.judge();
}
