//! Opening the records. A database server that is away is waited for: a node that starts with it in a cluster's
//! restart, or during its failover, must not need a person to start it again.

use std::time::Duration;

use anyhow::Context as _;

use crate::control::Condition;
use crate::records::{self, Records, RecordsError};

/// Pauses between attempts double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Opens the records at `url`; what it waits for stands in `there`.
///
/// # Errors
/// What waiting does not cure: a wrong password, database or version, a file that cannot be used.
pub(super) async fn open(url: &str, there: &Condition) -> anyhow::Result<Records> {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match Records::open(url).await {
            Ok(records) => {
                there.met();
                return Ok(records);
            }
            Err(error) => error,
        };
        if !(records::is_postgres_url(url) && may_pass(&error)) {
            return Err(error).context("store.records");
        }
        tracing::warn!(%error, again_in = ?pause, "waiting for the records");
        there.missing(error.to_string());
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn may_pass(error: &RecordsError) -> bool {
    match error {
        RecordsError::Unavailable(_) | RecordsError::Unknown(_) => true,
        RecordsError::Corrupt(_) | RecordsError::Invalid(_) => false,
    }
}
