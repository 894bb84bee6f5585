//! The journal as a whole, on a real directory.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::units::{KeyNum, NameId, PeriodId, TenantNum};

/// A directory that goes with the test, and a journal in it with small segments.
struct Bench {
    _dir: tempfile::TempDir,
    config: Config,
}

impl Bench {
    fn new(segment_records: u32) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = Config {
            path: dir.path().join("journal"),
            // Never by itself: tests sync when they mean it.
            sync: Sync::Every(Duration::from_secs(3600)),
            keep: Duration::from_secs(60),
            keep_bytes: u64::MAX,
            segment_records,
        };
        Self { _dir: dir, config }
    }

    fn open(&self) -> Journal {
        Journal::open(&self.config).expect("the journal opens")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.config.path.join(name)
    }

    fn segment(&self, first_seq: u64) -> PathBuf {
        self.path(&format!("worker-0000/{first_seq:020}.seg"))
    }

    /// Writes `count` records with worker 0's next writer and closes.
    fn fill(&self, count: u64) {
        let journal = self.open();
        append_all(&mut journal.writer(0, 0).expect("a writer"), count);
    }

    /// As if the machine had restarted since.
    fn restart_machine(&self) {
        std::fs::write(self.path("kernel"), "another\n").expect("written");
    }

    /// Forgets what was noted as synced, as a power cut right after the writing would.
    fn forget_marks(&self) {
        for (_, path) in segment::starts(&self.path("worker-0000")).expect("listed") {
            patch(&path, 64, &[0; 16]);
        }
    }
}

fn draft(units: u64) -> Draft {
    Draft {
        at_ms: 1_700_000_000_000 + i64::try_from(units).expect("small"),
        tenant: TenantNum(1),
        key: KeyNum(2),
        period: PeriodId(3),
        units,
        meter: NameId(1),
        route: NameId(2),
        status: 200,
        outcome: Outcome::Completed,
        requests: 1,
    }
}

/// Appends records whose units are their number; waits for the keeper where it is behind.
fn append_all(writer: &mut Writer, count: u64) {
    for _ in 0..count {
        append_one(writer);
    }
}

fn append_one(writer: &mut Writer) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(seq) = writer.append(&[draft(7)]) {
            return seq;
        }
        assert!(Instant::now() < deadline, "the keeper makes segments");
        std::thread::yield_now();
    }
}

fn read_all(journal: &Journal) -> Vec<u64> {
    let records = journal.reader(0).read(1, u64::MAX, usize::MAX).expect("read");
    assert!(records.iter().all(|record| record.units == 7));
    records.iter().map(|record| record.seq).collect()
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).expect("open").write_all_at(bytes, at).expect("written");
}

fn slot(index: u32) -> u64 {
    segment::offset_of(index)
}

#[test]
fn records_are_read_back_and_numbering_goes_on_after_a_restart() {
    let bench = Bench::new(16);
    bench.fill(40);
    bench.fill(3);
    let journal = bench.open();
    assert_eq!((journal.boot(), journal.written(0), journal.durable(0)), (3, 43, 43));
    assert_eq!(journal.workers(), [0]);
    assert_eq!(read_all(&journal), (1..=43).collect::<Vec<_>>());
    let some = journal.reader(0).read(10, 40, 12).expect("read");
    assert_eq!(some.iter().map(|record| record.seq).collect::<Vec<_>>(), (10..=21).collect::<Vec<_>>());
    assert_eq!(journal.reader(7).read(1, 9, 9).expect("nothing"), []);
}

#[test]
fn a_reader_follows_the_writer() {
    let bench = Bench::new(16);
    let journal = bench.open();
    let (mut writer, mut reader) = (journal.writer(0, 0).expect("a writer"), journal.reader(0));
    for seq in 1..=100 {
        assert_eq!(append_one(&mut writer), seq);
        let read = reader.read(seq, seq, 10).expect("read");
        assert_eq!(read.iter().map(|record| record.seq).collect::<Vec<_>>(), [seq]);
        assert_eq!(reader.read(seq + 1, u64::MAX, 10).expect("nothing yet"), []);
    }
}

#[test]
fn the_node_stays_the_same_and_starts_are_counted() {
    let bench = Bench::new(16);
    let first = bench.open();
    let node = first.node().clone();
    assert!(node.0.starts_with("node_") && node.0.len() == 21, "{node:?}");
    assert_eq!(first.boot(), 1);
    drop(first);
    drop(bench.open());
    let third = bench.open();
    assert_eq!((third.node(), third.boot()), (&node, 3));
    assert_ne!(Bench::new(16).open().node(), &node);
}

#[test]
fn slots_commit_in_any_order_and_give_back_what_they_do_not_use() {
    let bench = Bench::new(16);
    let journal = bench.open();
    let writer = journal.writer(0, 0).expect("a writer").local();
    // Two segments of 16 are ready: 32 records, however they are promised.
    let mut slots: Vec<_> = (0..16).map(|_| writer.reserve(2).expect("room")).collect();
    assert_eq!(slots.pop().expect("one").commit(&[draft(7), draft(7)]), 2);
    assert_eq!(slots.swap_remove(0).commit(&[draft(7)]), 3);
    slots.truncate(10);
    // 3 written, 20 promised.
    let more: Vec<_> = (0..9).map(|_| writer.reserve(1).expect("given back")).collect();
    assert!(matches!(writer.reserve(1), Err(Full)));
    drop(more);
    for slot in slots.into_iter().rev() {
        slot.commit(&[draft(7), draft(7)]);
    }
    assert_eq!(read_all(&journal), (1..=23).collect::<Vec<_>>());
}

#[test]
fn a_refusal_ends_when_the_keeper_has_made_room() {
    let bench = Bench::new(16);
    let journal = bench.open();
    let mut writer = journal.writer(0, 0).expect("a writer");
    append_all(&mut writer, 500);
    assert_eq!(journal.health(), Health::Ok);
    assert_eq!(read_all(&journal).len(), 500);
}

#[test]
#[should_panic(expected = "room is reserved for every record")]
fn more_records_than_reserved_are_a_defect() {
    let bench = Bench::new(16);
    let journal = bench.open();
    let writer = journal.writer(0, 0).expect("a writer").local();
    writer.reserve(1).expect("room").commit(&[draft(7), draft(7)]);
}

#[test]
fn durable_rises_with_a_sync_only() {
    let bench = Bench::new(16);
    let journal = bench.open();
    let mut writer = journal.writer(0, 0).expect("a writer");
    append_all(&mut writer, 20);
    assert_eq!((journal.written(0), journal.durable(0)), (20, 0));
    journal.sync().expect("synced");
    assert_eq!((journal.written(0), journal.durable(0)), (20, 20));
}

#[tokio::test]
async fn waiting_for_a_record_brings_it_to_the_disk() {
    let bench = Bench::new(16);
    let journal = bench.open();
    let writer = journal.writer(0, 0).expect("a writer").local();
    let seq = writer.reserve(1).expect("room").commit(&[draft(7)]);
    let limit = Duration::from_secs(20);
    assert_eq!(tokio::time::timeout(limit, journal.wait_durable(0, seq)).await, Ok(Ok(())));
    assert_eq!(journal.durable(0), seq);
    let seq = writer.reserve(1).expect("room").commit(&[draft(7)]);
    assert_eq!(tokio::time::timeout(limit, writer.durable(seq)).await, Ok(Ok(())));
    assert_eq!(journal.wait_durable(9, 1).await, Err(Closed));
    let never = writer.durable(seq + 1);
    drop(journal);
    assert_eq!(tokio::time::timeout(limit, never).await, Ok(Err(Closed)));
}

#[test]
fn dropping_the_journal_syncs_but_leaves_it_locked_to_the_last_writer() {
    let bench = Bench::new(16);
    let journal = bench.open();
    let mut writer = journal.writer(0, 0).expect("a writer");
    append_all(&mut writer, 3);
    drop(journal);
    let error = Journal::open(&bench.config).expect_err("still locked").to_string();
    assert!(error.contains("in use by process"), "{error}");
    append_one(&mut writer);
    drop(writer);
    assert_eq!(bench.open().written(0), 4);
}

#[test]
fn one_writer_per_worker() {
    let bench = Bench::new(16);
    let journal = bench.open();
    let _writer = journal.writer(3, 0).expect("a writer");
    assert!(matches!(journal.writer(3, 0), Err(OpenError::Taken(3))));
    assert!(journal.writer(4, 0).is_ok());
    assert_eq!(journal.workers(), [3, 4]);
}

#[test]
fn a_torn_last_record_is_cleared_and_its_number_used_again() {
    let bench = Bench::new(16);
    bench.fill(20);
    patch(&bench.segment(17), slot(4), &[1; 30]);
    let journal = bench.open();
    assert_eq!(journal.written(0), 20);
    let mut writer = journal.writer(0, 0).expect("a writer");
    assert_eq!(append_one(&mut writer), 21);
    assert_eq!(read_all(&journal), (1..=21).collect::<Vec<_>>());
}

#[test]
fn a_torn_record_at_a_segments_first_place_is_cleared() {
    let bench = Bench::new(16);
    bench.fill(16);
    patch(&bench.segment(17), slot(0), &[1; 30]);
    bench.fill(10);
    assert_eq!(read_all(&bench.open()), (1..=26).collect::<Vec<_>>());
}

#[test]
fn a_hole_is_damage_while_the_machine_has_been_up() {
    let bench = Bench::new(16);
    bench.fill(20);
    bench.forget_marks();
    patch(&bench.segment(17), slot(1), &[0; 64]);
    let error = Journal::open(&bench.config).expect_err("damaged");
    let OpenError::Corrupt { path, offset, detail } = &error else { panic!("{error}") };
    assert_eq!((path, *offset), (&bench.segment(17), slot(1)));
    assert!(detail.starts_with("record 18 is not whole, but 2 records behind it are"), "{detail}");
}

#[test]
fn a_hole_left_by_a_power_cut_ends_the_journal_there() {
    let bench = Bench::new(16);
    bench.fill(40);
    bench.forget_marks();
    bench.restart_machine();
    patch(&bench.segment(17), slot(1), &[0; 64]);
    let journal = bench.open();
    assert_eq!(journal.written(0), 17);
    assert_eq!(read_all(&journal), (1..=17).collect::<Vec<_>>());
    let mut writer = journal.writer(0, 0).expect("a writer");
    append_all(&mut writer, 30);
    drop((writer, journal));
    assert_eq!(read_all(&bench.open()), (1..=47).collect::<Vec<_>>());
}

#[test]
fn a_synced_record_is_never_given_up() {
    let bench = Bench::new(16);
    bench.fill(20);
    bench.restart_machine();
    patch(&bench.segment(17), slot(1), &[0; 64]);
    let error = Journal::open(&bench.config).expect_err("damaged").to_string();
    assert!(error.contains("record 18 is not whole, but 20 had been synced"), "{error}");
}

#[test]
fn a_missing_segment_is_damage() {
    let bench = Bench::new(16);
    bench.fill(40);
    std::fs::remove_file(bench.segment(17)).expect("removed");
    let error = Journal::open(&bench.config).expect_err("damaged").to_string();
    assert!(error.contains("it begins with record 33, but 17 is next"), "{error}");
}

#[test]
fn what_does_not_belong_there_is_named() {
    let bench = Bench::new(16);
    bench.fill(1);
    std::fs::write(bench.path("notes.txt"), "mine").expect("written");
    let error = Journal::open(&bench.config).expect_err("foreign").to_string();
    assert!(error.contains("notes.txt does not belong to a journal"), "{error}");

    let other = Bench::new(16);
    other.fill(20);
    std::fs::copy(other.segment(1), bench.segment(1)).expect("copied");
    std::fs::remove_file(bench.path("notes.txt")).expect("removed");
    assert!(matches!(Journal::open(&bench.config), Err(OpenError::Foreign { .. })));
}

#[test]
fn lost_small_files_are_errors_once_there_are_records() {
    for (name, detail) in [("id", "missing"), ("boot", "missing")] {
        let bench = Bench::new(16);
        bench.fill(1);
        std::fs::remove_file(bench.path(name)).expect("removed");
        let error = Journal::open(&bench.config).expect_err("unreadable").to_string();
        assert!(error.contains(detail) && error.contains(name), "{error}");
    }
    let bench = Bench::new(16);
    drop(bench.open());
    std::fs::write(bench.path("boot"), "many\n").expect("written");
    let error = Journal::open(&bench.config).expect_err("unreadable").to_string();
    assert!(error.contains(r#"it holds "many""#), "{error}");
}

#[test]
fn a_newer_format_is_not_touched() {
    let bench = Bench::new(16);
    bench.fill(1);
    patch(&bench.segment(1), 8, &[9]);
    assert!(matches!(Journal::open(&bench.config), Err(OpenError::Version { version: 9, .. })));
}

#[test]
fn impossible_segment_sizes_are_refused() {
    assert!(matches!(Journal::open(&Bench::new(0).config), Err(OpenError::SegmentSize(0))));
    assert!(Journal::open(&Bench::new(u32::MAX).config).is_err());
}

#[test]
fn segments_of_another_size_follow_on() {
    let mut bench = Bench::new(16);
    bench.fill(20);
    bench.config.segment_records = 5;
    bench.fill(50);
    bench.config.segment_records = 32;
    bench.fill(50);
    assert_eq!(read_all(&bench.open()), (1..=120).collect::<Vec<_>>());
}

#[test]
fn numbers_the_ledger_has_counted_are_never_given_out_again() {
    let bench = Bench::new(16);
    bench.fill(20);
    let journal = bench.open();
    let mut writer = journal.writer(0, 100).expect("a writer");
    assert_eq!((journal.written(0), journal.durable(0)), (100, 100));
    assert_eq!(append_one(&mut writer), 101);
    drop((writer, journal));
    let journal = bench.open();
    assert_eq!(journal.written(0), 101);
    let records = journal.reader(0).read(101, 200, 9).expect("read");
    assert_eq!(records.iter().map(|record| record.seq).collect::<Vec<_>>(), [101]);
    assert_eq!(journal.reader(0).read(50, 200, 9).expect_err("a gap").kind(), io::ErrorKind::NotFound);
    assert!(matches!(journal.writer(0, 99), Err(OpenError::Missing { first_seq: 101, flushed_seq: 99, .. })));
    assert_eq!(append_one(&mut journal.writer(0, 101).expect("a writer")), 102);
}

#[test]
fn a_lost_worker_directory_goes_on_behind_what_was_counted() {
    let bench = Bench::new(16);
    let journal = bench.open();
    let mut writer = journal.writer(0, 64).expect("a writer");
    append_all(&mut writer, 40);
    drop((writer, journal));
    let journal = bench.open();
    assert_eq!(journal.written(0), 104);
    assert_eq!(append_one(&mut journal.writer(0, 64).expect("a writer")), 105);
}

#[test]
fn trim_deletes_what_is_counted_and_old_and_nothing_else() {
    let bench = Bench::new(16);
    let journal = bench.open();
    let mut writer = journal.writer(0, 0).expect("a writer");
    append_all(&mut writer, 64);
    journal.sync().expect("synced");
    let written_ms = draft(7).at_ms;
    let cases = [(64, written_ms + 60_000, 0), (15, i64::MAX, 0), (40, written_ms + 60_001, 2), (64, i64::MAX, 1)];
    for (flushed_seq, now_ms, deleted) in cases {
        assert_eq!(journal.trim(0, flushed_seq, now_ms).expect("trimmed"), deleted, "{flushed_seq} at {now_ms}");
    }
    assert!(bench.segment(49).exists(), "the segment with the last record stays");
    assert_eq!(journal.reader(0).read(48, 64, 99).expect_err("trimmed").kind(), io::ErrorKind::NotFound);
    assert_eq!(journal.reader(0).read(49, 64, 99).expect("kept").len(), 16);
    append_one(&mut writer);
    assert_eq!(journal.trim(0, 64, i64::MAX).expect("trimmed"), 1);
    drop((writer, journal));
    let journal = bench.open();
    assert!(matches!(journal.writer(0, 10), Err(OpenError::Missing { first_seq: 65, flushed_seq: 10, .. })));
    assert_eq!(append_one(&mut journal.writer(0, 64).expect("a writer")), 66);
}

#[test]
fn trim_keeps_to_its_bytes() {
    let mut bench = Bench::new(16);
    bench.config.keep_bytes = 3 * segment::offset_of(16);
    let journal = bench.open();
    let mut writer = journal.writer(0, 0).expect("a writer");
    append_all(&mut writer, 100);
    journal.sync().expect("synced");
    journal.trim(0, 100, 0).expect("trimmed");
    assert!(!bench.segment(1).exists() && bench.segment(97).exists());
    // Unsynced or uncounted, nothing goes, however many bytes.
    assert_eq!(journal.trim(0, 0, i64::MAX).expect("trimmed"), 0);
}

#[test]
fn another_nodes_journal_is_read_without_touching_it() {
    let bench = Bench::new(16);
    bench.fill(40);
    bench.open().names().intern("GET /signals").expect("interned");
    patch(&bench.segment(33), slot(8), &[1; 30]);
    let before = snapshot(&bench.config.path);
    let live = Journal::open_foreign(&bench.config.path).expect("opened");
    assert_eq!((live.workers(), live.last(0), live.last(1), live.dropped(0)), (vec![0], 40, 0, 0));
    assert_eq!(live.names().get(NameId(1)).as_deref(), Some("GET /signals"));
    assert_eq!(live.reader(0).read(1, live.last(0), usize::MAX).expect("read").len(), 40);
    assert!(live.names().intern("new").is_err());
    assert_eq!(snapshot(&bench.config.path), before);
    assert!(Journal::open_foreign(&bench.path("worker-0000")).is_err());
}

fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for path in segment::entries(dir).expect("listed") {
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else {
            files.push((path.clone(), std::fs::read(&path).expect("read")));
        }
    }
    files.sort();
    files
}

/// What may have happened to the unsynced end of a journal.
#[derive(Clone, Debug)]
enum Damage {
    Flip { record: u64, bit: u32 },
    Zero { record: u64 },
    Cut { record: u64, bytes: u64 },
    Scribble { record: u64, bytes: Vec<u8> },
}

const RECORDS: u64 = 60;

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (1..=RECORDS, 0..512_u32).prop_map(|(record, bit)| Damage::Flip { record, bit }),
        (1..=RECORDS).prop_map(|record| Damage::Zero { record }),
        (1..=RECORDS, 0..64_u64).prop_map(|(record, bytes)| Damage::Cut { record, bytes }),
        (1..=RECORDS, proptest::collection::vec(any::<u8>(), 64))
            .prop_map(|(record, bytes)| Damage::Scribble { record, bytes }),
    ]
}

impl Damage {
    fn record(&self) -> u64 {
        let (Self::Flip { record, .. }
        | Self::Zero { record }
        | Self::Cut { record, .. }
        | Self::Scribble { record, .. }) = self;
        *record
    }

    /// Does it; the first record that is no longer whole.
    fn apply(&self, bench: &Bench) -> u64 {
        let record = self.record();
        let index = u32::try_from((record - 1) % 16).expect("small");
        let path = bench.segment(record - u64::from(index));
        match self {
            Self::Flip { bit, .. } => {
                let at = slot(index) + u64::from(bit / 8);
                let bytes = std::fs::read(&path).expect("read");
                let byte = bytes.get(usize::try_from(at).expect("small")).copied().unwrap_or(0);
                patch(&path, at, &[byte ^ (1 << (bit % 8))]);
            }
            Self::Zero { .. } => patch(&path, slot(index), &[0; 64]),
            Self::Cut { bytes, .. } => {
                let file = OpenOptions::new().write(true).open(&path).expect("open");
                file.set_len(slot(index) + bytes).expect("cut");
            }
            Self::Scribble { bytes, .. } => patch(&path, slot(index), bytes),
        }
        record
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn after_a_power_cut_the_longest_whole_prefix_stays(damages in proptest::collection::vec(damage(), 1..4)) {
        let bench = Bench::new(16);
        bench.fill(RECORDS);
        bench.forget_marks();
        bench.restart_machine();
        // One per record: two could undo each other.
        let damages: BTreeMap<_, _> = damages.into_iter().map(|damage| (damage.record(), damage)).collect();
        let whole = damages.values().map(|damage| damage.apply(&bench)).min().expect("at least one") - 1;
        let journal = bench.open();
        prop_assert_eq!(journal.written(0), whole);
        let mut writer = journal.writer(0, 0).expect("a writer");
        append_all(&mut writer, 5);
        drop((writer, journal));
        prop_assert_eq!(read_all(&bench.open()), (1..=whole + 5).collect::<Vec<_>>());
    }

    #[test]
    fn while_the_machine_is_up_damage_is_an_error_or_the_end(damage in damage()) {
        let bench = Bench::new(16);
        bench.fill(RECORDS);
        bench.forget_marks();
        let first = damage.apply(&bench);
        let followers = match damage {
            Damage::Cut { .. } => (first - 1) / 16 < (RECORDS - 1) / 16,
            Damage::Flip { .. } | Damage::Zero { .. } | Damage::Scribble { .. } => first < RECORDS,
        };
        match Journal::open(&bench.config) {
            Ok(journal) => prop_assert!(!followers && journal.written(0) == first - 1),
            Err(OpenError::Corrupt { .. }) => prop_assert!(followers),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}

/// Prints nanoseconds; only an optimised build says anything:
/// `cargo test --release --lib journal::tests::timing -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn timing() {
    let bench = Bench::new(65_536);
    let journal = bench.open();
    let writer = journal.writer(0, 0).expect("a writer").local();
    let rounds = 100_000;
    let per_round = |what: &str, round: &dyn Fn(u64)| {
        let began = Instant::now();
        (0..rounds).for_each(round);
        println!("{what}: {} ns", began.elapsed().as_nanos() / u128::from(rounds));
    };
    per_round("reserve and drop", &|_| drop(writer.reserve(1).expect("room")));
    per_round("encode", &|n| {
        std::hint::black_box(codec::encode(&draft(n).at(n + 1), 7));
    });
    per_round("reserve and commit", &|n| {
        writer.reserve(1).expect("room").commit(&[draft(n)]);
    });
}
