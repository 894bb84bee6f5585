//! Python packages and other programs that a bare machine need not have.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The folder of programs of `target/venv`, which `tests/venv` makes from `tests/requirements.txt`; `None` (said
/// loudly) where it cannot be made.
pub fn venv() -> Option<&'static Path> {
    static VENV: OnceLock<Option<PathBuf>> = OnceLock::new();
    VENV.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let made = Command::new(root.join("tests/venv")).stdin(Stdio::null()).output().unwrap();
        if made.status.success() {
            return Some(root.join("target/venv/bin"));
        }
        let why = String::from_utf8_lossy(&made.stderr);
        skipped(&format!("tests/venv cannot install what tests/requirements.txt names: {why}"));
        None
    })
    .as_deref()
}

/// The first of `names` that is a program on this machine.
pub fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| file.is_file())
}

/// Says that a test did not run, past the harness, which hides what a passing test says.
pub fn skipped(why: &str) {
    use std::io::Write as _;
    let mut unhidden = std::io::stderr();
    writeln!(unhidden, "\n!!! SKIPPED: {why} !!!\n").unwrap();
}

/// Runs a program with `input` to its end.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    use std::io::Write as _;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // In a thread: the program may fill its output before it has read everything. One that does not want its
        // input closes it.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}
