//! The journal against SIGKILL and a full disk. The test binary runs itself again as the process that dies: see `Role`.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "the child speaks through its output, the tests say how they ran"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tollgate::journal::{self, Draft, Full, Health, Journal, LocalWriter, Outcome, Slot};
use tollgate::units::{KeyNum, NameId, PeriodId, TenantNum};

const DIR: &str = "TOLLGATE_IT_JOURNAL_DIR";
const FLUSHED: &str = "TOLLGATE_IT_JOURNAL_FLUSHED";
const WORKERS: u16 = 2;
/// Slots that a writer of the child holds at any time.
const OUTSTANDING: usize = 8;
const PATIENCE: Duration = Duration::from_secs(30);

fn config(path: PathBuf) -> journal::Config {
    journal::Config {
        path,
        sync: journal::Sync::Every(Duration::from_millis(2)),
        keep: Duration::ZERO,
        keep_bytes: u64::MAX,
        segment_records: 32,
    }
}

fn draft(units: u64) -> Draft {
    Draft {
        at_ms: 0,
        tenant: TenantNum(1),
        key: KeyNum::NONE,
        period: PeriodId(0),
        units,
        meter: NameId(1),
        route: NameId(2),
        status: 200,
        outcome: Outcome::Completed,
        requests: 1,
    }
}

fn reserve(writer: &LocalWriter, records: u32) -> Slot {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match writer.reserve(records) {
            Ok(slot) => return slot,
            Err(Full) => assert!(Instant::now() < deadline, "the keeper makes segments"),
        }
        std::thread::yield_now();
    }
}

/// A small generator of numbers: which ones does not matter, only that they differ.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }
}

/// Says something to the parent, at once.
fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).expect("the parent listens");
}

/// Appends for ever with many slots open, says each record once it is committed, and trims what is durable.
#[test]
#[ignore = "the process that is killed by the tests below"]
fn child_that_appends() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let flushed: Vec<u64> =
        std::env::var(FLUSHED).expect("set").split(',').map(|n| n.parse().expect("a number")).collect();
    let journal = Journal::open(&config(dir.into())).expect("the journal opens");
    say("");
    std::thread::scope(|scope| {
        for (worker, flushed) in (0..WORKERS).zip(flushed) {
            let journal = &journal;
            scope.spawn(move || append_for_ever(journal, worker, flushed));
        }
    });
}

fn append_for_ever(journal: &Journal, worker: u16, flushed: u64) {
    let writer = journal.writer(worker, flushed).expect("a writer").local();
    let mut dice = Dice(u64::from(journal.boot()) << 8 | u64::from(worker));
    let mut slots = Vec::new();
    let mut unique = u64::from(journal.boot()) << 32;
    loop {
        while slots.len() < OUTSTANDING {
            slots.push(reserve(&writer, 2));
        }
        let slot = slots.swap_remove(dice.below(OUTSTANDING));
        match dice.below(4) {
            0 => drop(slot),
            1 => {
                let last = slot.commit(&[draft(unique + 1), draft(unique + 2)]);
                say(&format!("ack {worker} {} {}\nack {worker} {last} {}", last - 1, unique + 1, unique + 2));
            }
            _ => {
                let last = slot.commit(&[draft(unique + 1)]);
                say(&format!("ack {worker} {last} {}", unique + 1));
            }
        }
        unique += 2;
        if dice.below(50) == 0 {
            let durable = journal.durable(worker);
            say(&format!("flushed {worker} {durable}"));
            journal.trim(worker, durable, i64::MAX).expect("trimmed");
        }
    }
}

/// What the parent knows about one worker's journal.
#[derive(Default)]
struct Known {
    /// Units by sequence number, as acknowledged.
    acks: BTreeMap<u64, u64>,
    flushed: u64,
}

struct Trial {
    _dir: tempfile::TempDir,
    path: PathBuf,
    known: Vec<Known>,
}

impl Trial {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("journal");
        Self { _dir: dir, path, known: (0..WORKERS).map(|_| Known::default()).collect() }
    }

    fn spawn(&self, crash_at: Option<&str>) -> Child {
        let flushed: Vec<_> = self.known.iter().map(|known| known.flushed.to_string()).collect();
        let mut command = myself("journal_crash::child_that_appends");
        command.env(DIR, &self.path).env(FLUSHED, flushed.join(",")).stdout(Stdio::piped());
        if let Some(point) = crash_at {
            command.env("TOLLGATE_CRASH_AT", point);
        }
        command.spawn().expect("the test binary starts again")
    }

    /// Runs a child until it has said `lines` lines, kills it, and hears the rest.
    fn kill_after(&mut self, lines: usize) {
        let mut child = self.spawn(None);
        let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
        for line in output.by_ref().take(lines) {
            self.hear(&line.expect("text"));
        }
        child.kill().expect("killed");
        output.for_each(|line| self.hear(&line.expect("text")));
        assert_eq!(child.wait().expect("ended").signal(), Some(9));
    }

    /// Runs a child until it dies at `point`.
    fn crash_at(&mut self, point: &str) {
        let mut child = self.spawn(Some(point));
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        output.for_each(|line| self.hear(&line.expect("text")));
        assert_eq!(child.wait().expect("ended").signal(), Some(9), "{point}");
    }

    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let number = |index: usize| words[index].parse::<u64>().expect("a number");
        match words.first() {
            Some(&"ack") => {
                let known = &mut self.known[usize::try_from(number(1)).expect("small")];
                assert_eq!(known.acks.insert(number(2), number(3)), None, "{line}: the number was given out before");
            }
            Some(&"flushed") => self.known[usize::try_from(number(1)).expect("small")].flushed = number(2),
            _ => {}
        }
    }

    /// Opens the journal again: all that was acknowledged is there, once, in order, and nothing else but what the child
    /// was just about to acknowledge.
    fn check(&self, context: &str) {
        let journal = Journal::open(&config(self.path.clone())).expect("the journal opens again");
        let mut seen = BTreeSet::new();
        for (worker, known) in (0..WORKERS).zip(&self.known) {
            let from = known.flushed + 1;
            let written = journal.written(worker);
            assert_eq!(journal.durable(worker), written, "{context}");
            let records = journal.reader(worker).read(from, written, usize::MAX).expect("read");
            let numbers: Vec<_> = records.iter().map(|record| record.seq).collect();
            assert_eq!(numbers, (from..=written).collect::<Vec<_>>(), "{context}: no gaps");
            let by_seq: BTreeMap<_, _> = records.iter().map(|record| (record.seq, record.units)).collect();
            for (seq, units) in known.acks.range(from..) {
                assert_eq!(by_seq.get(seq), Some(units), "{context}: worker {worker}, record {seq} was acknowledged");
            }
            assert!(records.iter().all(|record| seen.insert((worker, record.units))), "{context}: nothing twice");
            let last_ack = known.acks.keys().next_back().copied().unwrap_or(0);
            assert!(
                written <= last_ack.max(known.flushed) + 2,
                "{context}: {written} written, {last_ack} acknowledged"
            );
        }
    }
}

/// This binary, to run one of its ignored tests and nothing else.
fn myself(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary has a path"));
    command.args(arguments(test)).stdin(Stdio::null());
    command
}

fn arguments(test: &str) -> [&str; 5] {
    ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]
}

#[test]
fn killed_at_random_moments_nothing_acknowledged_is_lost() {
    let mut trial = Trial::new();
    let mut dice = Dice(7);
    for round in 0..12 {
        let lines = 1 + dice.below(700);
        trial.kill_after(lines);
        trial.check(&format!("round {round}, killed after {lines} lines"));
    }
    assert!(trial.known.iter().map(|known| known.acks.len()).sum::<usize>() > 1000, "the children worked");
    assert!(trial.known.iter().all(|known| known.flushed > 0), "the children trimmed");
}

#[test]
fn killed_at_each_point_of_the_journal_nothing_acknowledged_is_lost() {
    let points = ["journal.before_append", "journal.after_append", "journal.before_sync", "journal.after_sync"];
    let mut trial = Trial::new();
    for point in points.into_iter().chain(["trim.before", "trim.after_one"]) {
        // 31 and 32: around the end of a segment.
        for skip in [0, 1, 31, 32] {
            let point = format!("{point}:{skip}");
            trial.crash_at(&point);
            trial.check(&point);
        }
    }
}

/// Fills a small disk, frees it again.
#[test]
#[ignore = "the process that runs on a disk of 1 MiB for the test below"]
fn child_on_a_small_disk() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let dir = PathBuf::from(dir);
    let filler = dir.join("filler");
    std::fs::write(&filler, vec![1; 512 * 1024]).expect("room for the filler");
    let config = journal::Config { segment_records: 1024, ..config(dir.join("journal")) };
    let journal = Journal::open(&config).expect("the journal opens");
    let writer = journal.writer(0, 0).expect("a writer").local();
    // Promised before the disk was full: must still go in afterwards.
    let promised: Vec<_> = (0..100).map(|_| reserve(&writer, 1)).collect();

    let written = append_until_full(&journal, &writer);
    assert!(written > 2048, "{written} records were written before it was full");
    for slot in promised {
        slot.commit(&[draft(1)]);
    }
    let written = written + 100;
    journal.sync().expect("what is written can be synced on a full disk");
    assert_eq!((journal.written(0), journal.durable(0)), (written, written));
    assert_eq!(unfinished(&dir), 0, "a segment that did not fit leaves nothing behind");

    std::fs::remove_file(&filler).expect("removed");
    let seq = reserve(&writer, 1).commit(&[draft(1)]);
    assert_eq!(seq, written + 1, "it goes on by itself where it stopped");
    assert_eq!(journal.health(), Health::Ok);
    drop((writer, journal));
    let journal = Journal::open(&config).expect("the journal opens again");
    assert_eq!(journal.reader(0).read(1, seq, usize::MAX).expect("read").len(), usize::try_from(seq).expect("small"));
}

/// Appends until the journal refuses and says that it is full; the last record.
fn append_until_full(journal: &Journal, writer: &LocalWriter) -> u64 {
    let began = Instant::now();
    let mut written = 0;
    loop {
        match writer.reserve(1) {
            Ok(slot) => written = slot.commit(&[draft(1)]),
            Err(Full) if journal.health() == Health::Full && began.elapsed() > RETRIES => return written,
            Err(Full) => std::thread::yield_now(),
        }
        assert!(began.elapsed() < PATIENCE, "1 MiB is full some time");
    }
}

/// Long enough that the keeper has tried again and failed again.
const RETRIES: Duration = Duration::from_millis(600);

fn unfinished(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir.join("journal/worker-0000")).expect("listed");
    entries
        .filter(|entry| entry.as_ref().expect("an entry").path().extension().is_some_and(|name| name == "tmp"))
        .count()
}

#[test]
fn a_full_disk_refuses_loses_nothing_and_recovers() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let script = r#"mount -t tmpfs -o size=1m tmpfs "$1" || exit 99; shift; exec "$@""#;
    let unshare = |flags: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(flags).args(["sh", "-c", script, "sh"]).arg(dir.path());
        command.arg(std::env::current_exe().expect("this binary has a path"));
        command.args(arguments("journal_crash::child_on_a_small_disk")).env(DIR, dir.path()).output()
    };
    for flags in [&["--mount"][..], &["--mount", "--map-root-user"]] {
        let Ok(output) = unshare(flags) else { break };
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match output.status.code() {
            Some(0) => {
                assert!(text.contains("1 passed"), "{text}");
                eprintln!("full disk: tested on a tmpfs of 1 MiB (unshare {})", flags.join(" "));
                return;
            }
            // 1 is unshare's own refusal, 99 the mount's; a failed test is 101.
            Some(1 | 99) => {}
            _ => panic!("{text}"),
        }
    }
    eprintln!("FULL DISK NOT TESTED: this machine lets us mount no tmpfs, neither as root nor in a user namespace");
}
