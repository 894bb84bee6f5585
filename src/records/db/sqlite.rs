//! A file: one writer at a time, readers beside it.

use sqlx::AnyPool;
use sqlx::any::AnyPoolOptions;

use super::{PATIENCE, RecordsError, unavailable};

/// Readers at once; WAL lets them read while a writer writes.
const READERS: u32 = 4;

/// Write-ahead log, waiting for other processes' locks, 8 MiB of cache. No memory mapping: a broken disk is to be an
/// error, not a signal.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 10000; PRAGMA foreign_keys = ON; \
                       PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8192;";
const SYNC_FULL: &str = "PRAGMA synchronous = FULL;";
const SYNC_NORMAL: &str = "PRAGMA synchronous = NORMAL;";
const READ_ONLY: &str = "PRAGMA query_only = ON;";

/// Connections that write for a power cut, that write for the death of the process, and that read. The file and its
/// directory are made if they are missing.
pub(super) async fn pools(url: &str) -> Result<[AnyPool; 3], RecordsError> {
    let url = creating(url)?;
    Ok([pool(&url, 1, SYNC_FULL).await?, pool(&url, 1, SYNC_NORMAL).await?, pool(&url, READERS, READ_ONLY).await?])
}

async fn pool(url: &str, connections: u32, pragmas: &'static str) -> Result<AnyPool, RecordsError> {
    let options = AnyPoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(PRAGMAS).execute(&mut *connection).await?;
                sqlx::raw_sql(pragmas).execute(&mut *connection).await?;
                Ok(())
            })
        });
    Ok(options.connect(url).await?)
}

/// The same URL, creating: its directory made, and `mode=rwc` unless it says otherwise.
fn creating(url: &str) -> Result<String, RecordsError> {
    let path = url.strip_prefix("sqlite:").ok_or_else(|| unavailable("not a sqlite: URL"))?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let (file, query) = path.split_once('?').unwrap_or((path, ""));
    if file.is_empty() || file.starts_with(":memory:") || query.contains("mode=memory") {
        return Err(unavailable(format!("{url}: the records need a file")));
    }
    let file = std::path::absolute(file).map_err(|error| unavailable(format!("{file}: {error}")))?;
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).map_err(|error| unavailable(format!("{}: {error}", parent.display())))?;
    }
    let mode = if query.contains("mode=") { query.to_owned() } else { format!("mode=rwc&{query}") };
    Ok(format!("sqlite://{}?{}", escaped(&file.display().to_string()), mode.trim_end_matches('&')))
}

/// A path as part of a URL; spaces and the like the URL parser escapes itself.
fn escaped(path: &str) -> String {
    path.replace('%', "%25").replace('#', "%23")
}
