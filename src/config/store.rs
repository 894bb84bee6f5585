//! The `store` section: records, ledger, journal.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::Fields;
use super::env::Env;
use super::given::{self, Given};
use super::scalar::{COUNT, DURATION, Kind, SIZE, TEXT};
use super::settings::{LedgerUrl, Secret, Store};
use crate::journal;
use crate::ledger::redis::{self, Absent};

/// The `store` section of `top`.
pub(super) fn read(top: &Fields<'_>, env: &Env) -> Store {
    let fields = top.section("store", &["records", "ledger", "journal"]);
    let ledger = fields.section("ledger", &["url", "batch", "rebuild"]);
    let batch = |beat: &Duration| (Duration::from_millis(10)..=Duration::from_secs(10)).contains(beat);
    Store {
        records: records(&fields, env),
        ledger: ledger_url(&ledger, env),
        absent: absent(&ledger.section("rebuild", &["absent"])),
        batch: ledger.or_if("batch", &DURATION, Duration::from_millis(250), "10ms to 10s", batch),
        journal: journal(&fields),
    }
}

const RECORDS: &str =
    "sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE, as a text, { env: NAME } or { file: PATH }";

/// The database: `sqlite:` and a path (relative to the file, or to the working directory if it comes from
/// `DATABASE_URL`), or a PostgreSQL server, whose password makes the whole a secret.
fn records(store: &Fields<'_>, env: &Env) -> Secret {
    let directory = store.of.checker.source.directory();
    let given = Given::find(store, "records", env, "DATABASE_URL");
    let Some(given) = given else { return Secret::new(sqlite(directory, "var/tollgate.db")) };
    let (url, elsewhere) = match &given {
        Given::File(cursor) if cursor.is_map() => match given::secret(cursor, env) {
            Some(secret) => (secret.expose().to_owned(), true),
            None => return Secret::new(String::new()),
        },
        Given::File(_) | Given::Variable { .. } => (given.text(), false),
    };
    if let Some(path) = sqlite_path(&url) {
        return Secret::new(sqlite(base(&given, directory), path));
    }
    let is_server = ["postgres", "postgresql"].contains(&url.split(':').next().unwrap_or_default());
    match (is_server, elsewhere) {
        (true, _) if crate::records::is_postgres_url(&url) => {}
        (true, _) => given.wrong_secret("this address of a PostgreSQL server cannot be read", RECORDS),
        (false, true) => given.wrong_secret("this is not the address of a database", RECORDS),
        (false, false) => given.wrong(&format!("{} is not the address of a database", given.found()), RECORDS),
    }
    Secret::new(url)
}

fn sqlite_path(url: &str) -> Option<&str> {
    let path = url.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
    path.filter(|path| is_path(path))
}

fn base<'p>(given: &Given<'_>, directory: &'p Path) -> &'p Path {
    match given {
        Given::File(_) => directory,
        Given::Variable { .. } => Path::new(""),
    }
}

/// A file: money does not live in memory, and the options of an `sqlite:` URL are ours to set.
fn is_path(path: &str) -> bool {
    !path.is_empty() && !path.starts_with(':') && !path.contains(['?', '#']) && !path.ends_with('/')
}

fn sqlite(directory: &Path, path: &str) -> String {
    format!("sqlite:{}", directory.join(path).display())
}

fn ledger_url(ledger: &Fields<'_>, env: &Env) -> LedgerUrl {
    let Some(given) = Given::find(ledger, "url", env, "REDIS_URL") else { return LedgerUrl::Embedded };
    let text = given.text();
    if text == "embedded" {
        return LedgerUrl::Embedded;
    }
    let problem = match text.parse::<redis::Url>() {
        Ok(url) => return LedgerUrl::Redis(url),
        Err(error) if text.contains("://") => format!("{} is not a ledger: {error}", given.found()),
        Err(_) => format!("{} is not a ledger", given.found()),
    };
    given.wrong(&problem, &format!("embedded; or {}", redis::SHAPES));
    LedgerUrl::Embedded
}

const PATIENCE: Kind<Duration> = Kind {
    name: "a duration",
    allowed: "wait, or 1s to 1h",
    parse: |scalar| (DURATION.parse)(scalar).filter(|patience| (1..=3600).contains(&patience.as_secs())),
};

fn absent(rebuild: &Fields<'_>) -> Absent {
    if rebuild.get("absent").is_some_and(|cursor| cursor.text() == "wait") {
        return Absent::Wait;
    }
    Absent::After(rebuild.or("absent", &PATIENCE, Duration::from_secs(30)))
}

fn journal(store: &Fields<'_>) -> journal::Config {
    let fields = store.section("journal", &["path", "sync", "keep", "keep_size", "segment_records"]);
    let path: PathBuf = fields.or("path", &TEXT, "var/journal".to_owned()).into();
    let records = |count: &usize| (1024..=16 << 20).contains(count);
    let segment = fields.or_if("segment_records", &COUNT, 64 << 10, "1024 to 16777216", records);
    journal::Config {
        path: store.of.checker.source.directory().join(path),
        sync: sync(&fields),
        keep: fields.or("keep", &DURATION, Duration::from_secs(24 * 3600)),
        keep_bytes: fields.or("keep_size", &SIZE, 1 << 30),
        segment_records: u32::try_from(segment).unwrap_or(u32::MAX),
    }
}

const BEAT: Kind<Duration> = Kind {
    name: "an interval",
    allowed: "strict, or 1ms to 10s",
    parse: |scalar| (DURATION.parse)(scalar).filter(|beat| (1..=10_000).contains(&beat.as_millis())),
};

fn sync(journal: &Fields<'_>) -> journal::Sync {
    let default = Duration::from_millis(50);
    if journal.get("sync").is_some_and(|cursor| cursor.text() == "strict") {
        return journal::Sync::Strict;
    }
    journal::Sync::Every(journal.or("sync", &BEAT, default))
}
