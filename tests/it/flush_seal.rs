//! The path of money against a reference: journals whose batches come twice, stale, with gaps and other borders,
//! sealers and senders that die between any two steps, answers that are lost. Every unit is in exactly one report.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use tollgate::journal::{Batch, Outcome, Row};
use tollgate::records::{Answer, NewTenant, Page, Records, Report, ReportFilter, ReportState, TenantPatch};
use tollgate::units::{Account, KeyNum, NodeId, PeriodId, TenantNum};

use crate::random::Random;

const STEPS: usize = 700;
const JOURNALS: [(&str, u16); 4] = [("a", 0), ("a", 1), ("b", 0), ("c", 0)];
const PERIODS: [i64; 2] = [1_795_000_000, 1_797_592_000];
/// Two tenants share a customer; one has none until the middle.
const TENANTS: [Option<&str>; 4] = [Some("cus_1"), Some("cus_1"), Some("cus_2"), None];

#[tokio::test]
async fn every_unit_is_in_exactly_one_report() {
    let mut random = Random::seeded("every_unit_is_in_exactly_one_report");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut world = World::new(crate::support::postgres::database_for(folder.path())).await;
    for step in 0..STEPS {
        if step == STEPS / 2 {
            world.give_customer().await;
        }
        world.step(&mut random).await;
        if step % 20 == 0 {
            world.check().await;
        }
    }
    world.calm().await;
    world.check().await;
    world.check_all_reported().await;
}

struct World {
    url: String,
    records: Records,
    tenants: Vec<TenantNum>,
    now: i64,
    /// The reference: each journal's records, from sequence number 1.
    journals: BTreeMap<(&'static str, u16), Vec<(Account, u64)>>,
    /// Batches that were made and may come at any time, again and again.
    made: Vec<Batch>,
    /// Stripe: what it took, once per identifier.
    stripe: BTreeMap<String, (String, u64)>,
    /// Reports as a sender remembers them, perhaps out of date.
    remembered: Vec<Report>,
}

impl World {
    async fn new(url: String) -> Self {
        let records = Records::open(&url).await.expect("a new database opens");
        let mut tenants = Vec::new();
        for (n, customer) in (0..).zip(TENANTS) {
            let new = NewTenant {
                id: format!("t{n}"),
                name: String::new(),
                email: None,
                plan: "pro".to_owned(),
                stripe_customer_id: customer.map(str::to_owned),
            };
            records.create_tenant(new, time(0)).await.expect("a tenant is made");
            let tenant = records.tenant(&format!("t{n}")).await.expect("it can be read").expect("it was made");
            tenants.push(tenant.num);
        }
        let journals = JOURNALS.into_iter().map(|journal| (journal, Vec::new())).collect();
        let (made, stripe, remembered) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { url, records, tenants, now: 0, journals, made, stripe, remembered }
    }

    async fn give_customer(&self) {
        let patch = TenantPatch { stripe_customer_id: Some(Some("cus_4".to_owned())), ..TenantPatch::default() };
        self.records.update_tenant("t3", patch, time(self.now)).await.expect("the tenant is there");
    }

    async fn step(&mut self, random: &mut Random) {
        self.now += 1;
        match random.below(100) {
            0..25 => self.work(random),
            25..45 => self.make_batch(random).await,
            45..65 => self.flush_some(random).await,
            65..78 => self.seal_some(random).await,
            78..97 => self.send_some(random).await,
            _ => self.restart().await,
        }
    }

    /// Exchanges end.
    fn work(&mut self, random: &mut Random) {
        let journal = JOURNALS[random.index(JOURNALS.len())];
        let records = self.journals.get_mut(&journal).expect("every journal is there");
        for _ in 0..=random.below(8) {
            let account = Account {
                tenant: self.tenants[random.index(self.tenants.len())],
                period: PeriodId(PERIODS[random.index(2)]),
                meter: if random.chance(70) { "api_units".into() } else { "tokens".into() },
            };
            records.push((account, random.below(10)));
        }
    }

    /// Usually the next range, sometimes any other.
    async fn make_batch(&mut self, random: &mut Random) {
        let journal = JOURNALS[random.index(JOURNALS.len())];
        let written = self.journals[&journal].len();
        let flushed = self.flushed(journal).await;
        let from = if random.chance(70) { flushed + 1 } else { 1 + random.index(written + 1) };
        if from <= written {
            let to = from + random.index(written - from + 1);
            self.made.push(self.batch(journal, from, to));
        }
    }

    fn batch(&self, journal: (&'static str, u16), from: usize, to: usize) -> Batch {
        let row = |(account, units): &(Account, u64)| Row {
            tenant: account.tenant,
            period: account.period,
            meter: account.meter.clone(),
            route: "GET /".into(),
            hour_s: account.period.0 / 3600 * 3600,
            status: 200,
            outcome: Outcome::Completed,
            key: KeyNum::NONE,
            units: *units,
            requests: 1,
        };
        let rows = self.journals[&journal][from - 1..to].iter().map(row).collect();
        Batch { node: NodeId(journal.0.into()), worker: journal.1, from: seq(from), to: seq(to), rows }
    }

    /// Some batches, some of them twice, in any order; the flusher may die at any moment.
    async fn flush_some(&mut self, random: &mut Random) {
        if self.made.is_empty() {
            return;
        }
        let mut batches: Vec<_> =
            (0..=random.below(6)).map(|_| self.made[random.index(self.made.len())].clone()).collect();
        random.shuffle(&mut batches);
        if random.chance(20) {
            self.made.swap_remove(random.index(self.made.len()));
        }
        let flush = self.records.flush(&batches, time(self.now));
        if let Some(flushed) = or_die(random, flush).await {
            assert_eq!(flushed.expect("the flush is applied").len(), batches.len());
        }
    }

    /// Sealers, at times two at once, who may die at any moment.
    async fn seal_some(&mut self, random: &mut Random) {
        let account = Account {
            tenant: self.tenants[random.index(self.tenants.len())],
            period: PeriodId(PERIODS[random.index(2)]),
            meter: if random.chance(70) { "api_units".into() } else { "tokens".into() },
        };
        let seal = || self.records.seal(&account, time(self.now), time(self.now));
        if random.chance(30) {
            let (one, two) = tokio::join!(seal(), seal());
            let sealed = one.expect("a seal").into_iter().chain(two.expect("a seal")).count();
            assert!(sealed <= 1, "two sealers took the same units");
        } else if let Some(sealed) = or_die(random, seal()).await {
            sealed.expect("a seal");
        }
    }

    /// A sender: notes, sends, hears (or not), notes what it heard; it may die after each.
    async fn send_some(&mut self, random: &mut Random) {
        let open = self.records.open_reports(time(self.now), 50).await.expect("open reports");
        let distinct: BTreeSet<_> = open.iter().map(|report| (customer(report), &report.account.meter)).collect();
        assert_eq!(distinct.len(), open.len(), "one unanswered report per customer and meter");
        if open.is_empty() {
            return;
        }
        let report = open[random.index(open.len())].clone();
        self.remembered.push(report.clone());
        let stale = self.remembered[random.index(self.remembered.len())].clone();
        let report = if random.chance(80) { report } else { stale };
        let Some(Ok(Some(tried))) = or_die(random, self.records.first_try(&report, time(self.now))).await else {
            return;
        };
        self.send(random, tried).await;
    }

    async fn send(&mut self, random: &mut Random, report: Report) {
        let taken = self.stripe.contains_key(&report.identifier);
        let answer = match random.below(10) {
            0 if !taken => Answer::Rejected("refused".to_owned()),
            0 | 1 => Answer::Unknown("lost on the way".to_owned()),
            2 => {
                self.take(&report);
                Answer::UnknownAfter5xx("500 after it was taken".to_owned())
            }
            _ => {
                self.take(&report);
                Answer::Delivered
            }
        };
        let refused = matches!(answer, Answer::Rejected(_));
        if or_die(random, self.records.answered(&report, answer, time(self.now))).await.is_some() && refused {
            self.records.reidentify(&report, time(self.now)).await.expect("what was refused may be renamed");
        }
    }

    /// Stripe takes an identifier once.
    fn take(&mut self, report: &Report) {
        let known = self.stripe.entry(report.identifier.clone()).or_insert((customer(report), report.value));
        assert_eq!(*known, (customer(report), report.value), "one identifier, one body");
    }

    async fn restart(&mut self) {
        self.records.close().await;
        self.records = Records::open(&self.url).await.expect("the database opens again");
    }

    async fn flushed(&self, (node, worker): (&str, u16)) -> usize {
        let flushed = self.records.flushed_seq(&NodeId(node.into()), worker).await.expect("it can be read");
        usize::try_from(flushed).expect("a small number")
    }

    /// What the reference says is counted: everything up to each journal's `flushed_seq`.
    async fn counted(&self) -> BTreeMap<Account, u64> {
        let mut counted = BTreeMap::new();
        for (journal, records) in &self.journals {
            for (account, units) in &records[..self.flushed(*journal).await] {
                *counted.entry(account.clone()).or_default() += units;
            }
        }
        counted
    }

    /// A commit whose caller died may still be on its way; behind a write of our own it has arrived.
    async fn arrive(&self) {
        self.records.config_version("same", time(self.now)).await.expect("a write of our own");
    }

    async fn check(&self) {
        self.arrive().await;
        let counted = self.counted().await;
        let reported = self.reported().await;
        for (account, units) in &counted {
            let totals = self.records.totals(&NodeId("a".into()), account).await.expect("totals");
            assert_eq!(totals.all, *units, "{account:?}");
            assert!(reported.get(account).is_none_or(|reported| reported <= units), "{account:?}");
            self.check_history(account).await;
        }
    }

    async fn check_history(&self, account: &Account) {
        let usage = self.records.period_usage(account.tenant, account.period).await.expect("usage");
        let delivered = self.records.delivered_total(account).await.expect("delivered");
        let totals = self.records.totals(&NodeId("a".into()), account).await.expect("totals");
        let found = usage.iter().find(|usage| usage.meter == *account.meter).map(|usage| (usage.used, usage.reported));
        assert!(found == Some((totals.all, delivered)) || totals.all == 0, "{account:?}: {found:?}");
        assert_eq!(totals.reported, delivered);
    }

    async fn reports(&self) -> Vec<Report> {
        let (mut reports, mut after) = (Vec::new(), None);
        loop {
            let page = Page { limit: 37, after };
            let listed = self.records.reports(ReportFilter::default(), page).await.expect("reports");
            reports.extend(listed.data);
            after = listed.next;
            if after.is_none() {
                return reports;
            }
        }
    }

    async fn reported(&self) -> BTreeMap<Account, u64> {
        let mut sums = BTreeMap::new();
        for report in self.reports().await {
            *sums.entry(report.account).or_default() += report.value;
        }
        sums
    }

    /// Faults stop: everything is flushed, sealed and sent.
    async fn calm(&mut self) {
        self.arrive().await;
        for journal in JOURNALS {
            let (from, to) = (self.flushed(journal).await + 1, self.journals[&journal].len());
            if from <= to {
                let batch = self.batch(journal, from, to);
                self.records.flush(&[batch], time(self.now)).await.expect("the flush is applied");
            }
        }
        for _ in 0..200 {
            self.report_what_is_due().await;
        }
    }

    async fn report_what_is_due(&mut self) {
        for due in self.records.due_accounts(time(self.now), 100).await.expect("due accounts") {
            let sealed = self.records.seal(&due.account, time(self.now), time(self.now)).await.expect("a seal");
            assert_eq!(sealed.map(|report| report.value).unwrap_or_default(), due.unreported);
        }
        for report in self.records.open_reports(time(self.now), 100).await.expect("open reports") {
            let tried = self.records.first_try(&report, time(self.now)).await.expect("an attempt");
            self.take(&tried.expect("an open report may be sent"));
            let answered = self.records.answered(&report, Answer::Delivered, time(self.now)).await;
            answered.expect("the answer is kept").expect("it is the first");
        }
    }

    async fn check_all_reported(&self) {
        let counted: BTreeMap<_, _> = self.counted().await.into_iter().filter(|(_, units)| *units > 0).collect();
        assert_eq!(self.reported().await, counted, "every unit in exactly one report");
        let reports = self.reports().await;
        // One that was rejected, its sender dead before it was renamed, waits for a person.
        let waiting: u64 = reports.iter().filter(|report| report.state == ReportState::Rejected).map(|r| r.value).sum();
        let delivered: u64 = self.stripe.values().map(|(_, units)| units).sum();
        assert_eq!(delivered + waiting, counted.values().sum::<u64>(), "Stripe has each report once");
        assert!(reports.iter().all(|report| report.state != ReportState::Pending));
    }
}

/// Lets `step` run to its end, or drops it somewhere on its way.
async fn or_die<T>(random: &mut Random, step: impl Future<Output = T>) -> Option<T> {
    if random.chance(70) {
        return Some(step.await);
    }
    tokio::time::timeout(Duration::from_micros(random.below(1500)), step).await.ok()
}

fn customer(report: &Report) -> String {
    report.stripe_customer_id.clone().expect("a sealed report has its customer")
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(PERIODS[0] + second).expect("a time of this century")
}

fn seq(n: usize) -> u64 {
    u64::try_from(n).expect("a small number")
}
