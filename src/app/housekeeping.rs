//! What runs beside the traffic: shipping, reports, changed files, forgetting what is idle.

use std::collections::HashSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::task::TaskTracker;

use super::Core;
use crate::accounts::Accounts;
use crate::control::{Change, Condition};
use crate::drain::Drain;
use crate::journal::Health;
use crate::records::{Changed, RecordsError};
use crate::telemetry::{Metrics, names};

/// Keys' last use is noted, and idle keys and tenants leave memory, this often.
const SWEEP: Duration = Duration::from_secs(30);
/// The node says that it is alive this often.
const BEAT: Duration = Duration::from_secs(1);

/// How far back changes are read: clocks of nodes may differ by a minute, and commits land late.
const CHANGES_FROM: SignedDuration = SignedDuration::from_mins(2);

pub(super) fn spawn(tasks: &TaskTracker, core: &Core, drain: &Drain, metrics: Metrics, journal: Condition) {
    // What finishes the work of others runs until they have ended.
    tasks.spawn(drain.cut.clone().run_until_cancelled_owned(ship(core.clone())));
    tasks.spawn(metrics.upkeep(drain.cut.clone()));
    tasks.spawn(drain.stop.clone().run_until_cancelled_owned(beat(core.clone())));
    tasks.spawn(drain.cut.clone().run_until_cancelled_owned(watch_journal(core.clone(), journal)));
    tasks.spawn(drain.stop.clone().run_until_cancelled_owned(sweep(core.clone())));
    tasks.spawn(drain.stop.clone().run_until_cancelled_owned(follow_files(core.clone())));
    tasks.spawn(drain.stop.clone().run_until_cancelled_owned(follow_changes(core.clone())));
    if let Some(billing) = core.billing.clone() {
        let stop = drain.stop.clone();
        tasks.spawn(async move { billing.run(stop).await });
    }
}

async fn ship(core: Core) {
    let mut beat = tokio::time::interval(core.node.batch());
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let mut shipper = core.shipper.lock().await;
        if let Err(error) = shipper.ship().await {
            tracing::warn!(%error, "the journal waits: it could not be flushed");
        }
        metrics::gauge!(names::JOURNAL_PENDING_RECORDS).set(u32::try_from(shipper.pending()).unwrap_or(u32::MAX));
    }
}

async fn beat(core: Core) {
    let mut beat = tokio::time::interval(BEAT);
    loop {
        beat.tick().await;
        if let Err(error) = core.records.beat_node(core.journal.node(), core.clock.now()).await {
            tracing::warn!(%error, "the records do not answer");
        }
    }
}

/// A node whose journal takes no records refuses metered work: it says so where load balancers and alerts look.
async fn watch_journal(core: Core, condition: Condition) {
    let mut beat = tokio::time::interval(core.node.batch());
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let health = core.journal.health();
        match health {
            Health::Ok => condition.met(),
            Health::Full => condition.missing("the journal's disk is full: metered requests are refused"),
            Health::Failing => condition.missing("the journal's disk fails: metered requests are refused"),
        }
        metrics::gauge!(names::JOURNAL_UP).set(u32::from(health == Health::Ok));
    }
}

async fn sweep(core: Core) {
    let mut beat = tokio::time::interval(SWEEP);
    loop {
        beat.tick().await;
        let accounts = &core.gateway.accounts;
        let used: Vec<_> = accounts
            .take_used_keys()
            .into_iter()
            .filter_map(|(key, at_ms)| Some((key, Timestamp::from_millisecond(at_ms).ok()?)))
            .collect();
        if !used.is_empty()
            && let Err(error) = core.records.touch_keys(&used).await
        {
            tracing::warn!(%error, keys = used.len(), "when keys were last used could not be noted");
        }
        accounts.sweep();
    }
}

/// Takes out of memory what another node changed, within a second or two of its commit.
async fn follow_changes(core: Core) {
    let mut beat = tokio::time::interval(BEAT);
    let mut seen = HashSet::new();
    loop {
        beat.tick().await;
        let from = core.clock.now() - CHANGES_FROM;
        match core.records.changes_since(from).await {
            Ok(changes) => {
                for change in changes {
                    if seen.contains(&change) {
                        continue;
                    }
                    match propagate(&core.gateway.accounts, change_of(change)).await {
                        Ok(()) => {
                            seen.insert(change);
                        }
                        Err(error) => tracing::warn!(%error, ?change, "a change could not be read; again in a second"),
                    }
                }
                seen.retain(|change| change.at_ms() >= from.as_millisecond());
            }
            Err(error) => tracing::debug!(%error, "what other nodes changed is not known at the moment"),
        }
    }
}

fn change_of(changed: Changed) -> Change {
    match changed {
        Changed::Tenant(num, _) => Change::Tenant(num),
        Changed::Key(sha256, _) => Change::Key(sha256),
    }
}

async fn follow_files(core: Core) {
    let (sender, mut changes) = tokio::sync::mpsc::channel(1);
    let watching = tokio::spawn(core.reloader.watch().run(sender));
    while let Some(loaded) = changes.recv().await {
        // The outcome is logged and kept for `GET /api/v1/config` by the reloader.
        drop(core.reloader.take(loaded).await);
    }
    watching.abort();
}

/// Tells the data plane of this node what was changed: by the admin API before it answers, or by another node.
///
/// # Errors
/// When the change could not be read: the old state stays until [`follow_changes`] comes to it again.
pub(super) async fn propagate(accounts: &Accounts, change: Change) -> Result<(), RecordsError> {
    match change {
        Change::Key(hash) => {
            accounts.forget_key(&hash).await;
            Ok(())
        }
        Change::Tenant(num) => accounts.refresh_tenant(num).await,
    }
}
