//! What a compiler does not check: which room may name which, how long a file may get, what must not be left lying.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each room and the rooms it may name. `gateway` never names `records` or `stripe`; `pricing`, `units` and `period`
/// name (next to) nothing; only `app` sees everything. A new entry wants a reason in its commit.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("clock", &[]),
    ("drain", &[]),
    ("listen", &[]),
    ("telemetry", &[]),
    ("testing", &[]),
    ("upstream", &[]),
    ("period", &["units"]),
    ("pricing", &["units"]),
    ("journal", &["testing", "units"]),
    ("ledger", &["clock", "journal", "records", "testing", "units"]),
    ("records", &["journal", "ledger", "period", "pricing", "testing", "units"]),
    ("accounts", &["clock", "ledger", "period", "pricing", "records", "units"]),
    ("meter", &["accounts", "config", "journal", "ledger", "pricing", "units", "upstream"]),
    (
        "gateway",
        &["accounts", "clock", "config", "journal", "ledger", "meter", "pricing", "telemetry", "units", "upstream"],
    ),
    ("serve", &["config", "drain", "gateway", "upstream"]),
    // `ledger` and `records` for what their URLs look like: parsed once, by whoever connects.
    ("config", &["journal", "ledger", "pricing", "records"]),
    ("stripe", &["clock", "config", "period", "pricing", "records", "testing", "units"]),
    ("sandbox", &["clock"]),
    ("control", &["clock", "config", "period", "pricing", "records", "telemetry", "units"]),
    ("cli", &["app", "config", "pricing", "records", "sandbox", "telemetry"]),
    (
        "app",
        &[
            "accounts",
            "clock",
            "config",
            "control",
            "drain",
            "gateway",
            "journal",
            "ledger",
            "listen",
            "meter",
            "pricing",
            "records",
            "sandbox",
            "serve",
            "stripe",
            "telemetry",
            "units",
            "upstream",
        ],
    ),
];

/// Above this a file is more than one room.
const LINES_AT_MOST: usize = 640;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(&root.join(folder), &mut found);
    assert!(!found.is_empty());
    found
}

/// `src/gateway/admit.rs` is in the room `gateway`.
fn room(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The code without its unit tests, which may name what they like.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap()
}

/// Rooms that the code names; comments may point where they like.
fn named(text: &str) -> BTreeSet<String> {
    let text: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let word = |rest: &str| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    text.match_indices("crate::").map(|(at, found)| word(&text[at + found.len()..])).filter(|w| !w.is_empty()).collect()
}

#[test]
fn each_room_names_only_the_rooms_it_may() {
    let table: BTreeMap<&str, &[&str]> = MAY_NAME.iter().copied().collect();
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources("src") {
        let room = room(&path);
        if room == "lib" || room == "main" {
            continue;
        }
        let allowed = table.get(room.as_str()).unwrap_or_else(|| panic!("{room} is not in the table"));
        for other in named(without_tests(&text)).into_iter().filter(|other| *other != room) {
            assert!(allowed.contains(&other.as_str()), "{}: `{room}` may not name `{other}`", path.display());
            used.entry(room.clone()).or_default().insert(other);
        }
    }
    let rooms: BTreeSet<_> = sources("src").iter().map(|(path, _)| room(path)).collect();
    for (room, _) in MAY_NAME {
        assert!(rooms.contains(*room), "{room} is in the table and not in the tree");
    }
}

#[test]
fn the_map_in_lib_rs_shows_every_room() {
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for (room, _) in MAY_NAME {
        assert!(lib.contains(&format!("[`{room}`]")), "{room} is missing in the table of src/lib.rs");
        assert!(lib.contains(&format!("pub mod {room};")), "{room} is not a module");
    }
}

#[test]
fn files_are_rooms_not_halls() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")).chain(sources("benches")) {
        let lines = text.lines().count();
        assert!(lines <= LINES_AT_MOST, "{} has {lines} lines: what are its parts called?", path.display());
    }
}

#[test]
fn nothing_is_left_lying() {
    for (path, text) in sources("src") {
        for left in ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX", "#[ignore]"] {
            assert!(!without_tests(&text).contains(left), "{left} in {}", path.display());
        }
        let tests_at_the_end = text.find("#[cfg(test)]\nmod tests {").is_none_or(|at| text[at..].ends_with("}\n"));
        assert!(tests_at_the_end, "{}: tests come last", path.display());
    }
}

#[test]
fn unsafe_code_is_in_one_file() {
    let allowed = Path::new("src/journal/map.rs");
    for (path, text) in sources("src") {
        let inside = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
        let holds = text.contains("unsafe {") || text.contains("unsafe fn") || text.contains("unsafe impl");
        assert!(!holds || inside == allowed, "unsafe code in {}", inside.display());
    }
}

#[test]
fn the_top_level_is_what_the_owner_named() {
    let allowed: BTreeSet<&str> = [
        ".ci",
        ".git",
        ".github",
        ".gitignore",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "benches",
        "clippy.toml",
        "config",
        "deny.toml",
        "deploy",
        "fuzz",
        "rustfmt.toml",
        "src",
        "target",
        "tests",
        "var",
    ]
    .into();
    for entry in std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(allowed.contains(name.as_str()), "{name} at the top level");
    }
}
