//! Stripe's own API description as the judge of recorded exchanges, and the Python both it and the clients need.
//!
//! The judge's files are not part of this repository: they are looked for in `../shared/stripe` beside it, or where
//! `TOLLGATE_STRIPE_SPEC` says. Where they are missing, judged tests say loudly that they were skipped.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What the judge found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every exchange is as Stripe describes it; how many there were.
    Clean(usize),
    /// Every violation, in words.
    Violations(String),
    /// The judge or its Python is not there; already said on standard error.
    Skipped,
}

/// Judges JSON lines of exchanges against Stripe's v1 description.
pub(crate) fn judge(exchanges: &str) -> Verdict {
    judge_by("spec3.trim.json", exchanges)
}

/// Judges them against another of Stripe's files: `legacy_usage_records.json`, `v2_meter_overlay.json`.
pub(crate) fn judge_by(spec: &str, exchanges: &str) -> Verdict {
    let Some(folder) = spec_folder() else {
        return skip("Stripe's API description is missing (../shared/stripe or TOLLGATE_STRIPE_SPEC)");
    };
    let Some(python) = python() else { return Verdict::Skipped };
    let (success, output) =
        run(Command::new(python).arg(folder.join("judge.py")).arg(folder.join(spec)), exchanges.as_bytes());
    if success {
        return Verdict::Clean(exchanges.lines().count());
    }
    let failures: Vec<&str> = output.lines().filter(|line| !line.starts_with("ok ")).collect();
    Verdict::Violations(failures.join("\n"))
}

/// A Python with `jsonschema` and Stripe's client, in `target/tmp`; `None` (said loudly) if it cannot be made.
pub(crate) fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(make_python).as_deref()
}

fn make_python() -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stripe-venv");
    let python = venv.join("bin/python");
    let has_all = |python: &Path| succeeds(Command::new(python).args(["-c", "import jsonschema, stripe"]));
    if has_all(&python) {
        return Some(python);
    }
    let made = succeeds(Command::new("python3").args(["-m", "venv"]).arg(&venv))
        && succeeds(Command::new(&python).args(["-m", "pip", "install", "-q", "jsonschema", "stripe"]))
        && has_all(&python);
    if !made {
        skip("python3 with jsonschema and stripe from PyPI could not be installed");
    }
    made.then_some(python)
}

fn spec_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("TOLLGATE_STRIPE_SPEC")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/stripe"), PathBuf::from);
    folder.join("judge.py").is_file().then_some(folder)
}

fn skip(why: &str) -> Verdict {
    // Not through `eprintln!`, which the test harness hides while a test passes.
    writeln!(std::io::stderr(), "\n!!! SKIPPED: {why} !!!\n").expect("standard error takes a line");
    Verdict::Skipped
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs a program with `input`; whether it succeeded, and all it said.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    // In a thread: the program may fill its output before it has read everything.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("the program ends");
    drop(writer.join());
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
