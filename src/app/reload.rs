//! Changed files take effect without a dropped request; a bad file changes nothing.

use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwap;

use super::billing::Billing;
use crate::accounts::Prices;
use crate::clock::Clock;
use crate::config::watch::Watch;
use crate::config::{self, ConfigErrors, Env, Loaded};
use crate::control::{Active, ReloadFailure};
use crate::gateway::{Gateway, Snapshot};
use crate::journal::Journal;
use crate::records::Records;

/// A configuration as the control plane and the data plane see it.
pub(super) struct Activated {
    pub(super) active: Active,
    pub(super) snapshot: Arc<Snapshot>,
}

/// Numbers a configuration and makes it ready for requests.
pub(super) async fn activate(
    loaded: &Loaded,
    records: &Records,
    journal: &Arc<Journal>,
    clock: &Clock,
) -> anyhow::Result<Activated> {
    let version = records.config_version(&loaded.sha256, clock.now()).await?;
    let pricing = Arc::new(loaded.pricing.clone());
    let prices = Arc::new(Prices { pricing: Arc::clone(&pricing), version });
    let snapshot = {
        let (settings, journal) = (loaded.settings.clone(), Arc::clone(journal));
        // New names are synced to the disk before they are used.
        tokio::task::spawn_blocking(move || Snapshot::new(&settings, prices, journal.names())).await?
    };
    let active = Active {
        settings: Arc::new(loaded.settings.clone()),
        pricing,
        version,
        sha256: loaded.sha256.clone(),
        loaded_at: clock.now(),
        last_error: None,
    };
    metrics::gauge!("tollgate_config_version").set(u32::try_from(version).unwrap_or(u32::MAX));
    Ok(Activated { active, snapshot: Arc::new(snapshot.context("writing names to the journal")?) })
}

/// Puts changed files in force, one at a time.
pub(super) struct Reloader {
    active: Arc<ArcSwap<Active>>,
    loaded: Loaded,
    env: Env,
    gateway: Arc<Gateway>,
    records: Records,
    journal: Arc<Journal>,
    billing: Option<Arc<Billing>>,
    turn: tokio::sync::Mutex<()>,
}

impl Reloader {
    pub(super) fn new(
        active: Active,
        loaded: Loaded,
        env: Env,
        gateway: Arc<Gateway>,
        records: Records,
        journal: &Arc<Journal>,
        billing: Option<Arc<Billing>>,
    ) -> Self {
        let active = Arc::new(ArcSwap::from_pointee(active));
        let turn = tokio::sync::Mutex::new(());
        Self { active, loaded, env, gateway, records, journal: Arc::clone(journal), billing, turn }
    }

    pub(super) fn active(&self) -> Arc<ArcSwap<Active>> {
        Arc::clone(&self.active)
    }

    /// Notices changes against what the process started with.
    pub(super) fn watch(&self) -> Watch {
        Watch::new(&self.loaded, self.env.clone())
    }

    /// Reads the files again. Returns the version now in force.
    ///
    /// # Errors
    /// Every mistake in them; the old configuration stays.
    pub(super) async fn reload(&self) -> anyhow::Result<u64> {
        let (path, env) = (self.loaded.settings_path.clone(), self.env.clone());
        let loaded = tokio::task::spawn_blocking(move || config::load(&path, &env)).await?;
        self.take(loaded).await
    }

    /// Takes over what was read.
    ///
    /// # Errors
    /// Every mistake in it; the old configuration stays.
    pub(super) async fn take(&self, loaded: Result<Loaded, ConfigErrors>) -> anyhow::Result<u64> {
        let _turn = self.turn.lock().await;
        let taken = match loaded {
            Ok(loaded) => self.put_in_force(&loaded).await,
            Err(errors) => Err(errors.into()),
        };
        if let Err(error) = &taken {
            self.note_failure(error);
        }
        taken
    }

    async fn put_in_force(&self, loaded: &Loaded) -> anyhow::Result<u64> {
        let before = self.active.load_full();
        if before.sha256 == loaded.sha256 {
            if before.last_error.is_some() {
                self.active.store(Arc::new(Active { last_error: None, ..(*before).clone() }));
            }
            return Ok(before.version);
        }
        let next = activate(loaded, &self.records, &self.journal, &self.gateway.clock).await?;
        warn_of_restarts(&before, &next.active);
        let version = next.active.version;
        self.gateway.snapshot.store(next.snapshot);
        if let Some(billing) = &self.billing {
            billing.set_pricing(&next.active.pricing).await;
        }
        self.active.store(Arc::new(next.active));
        tracing::info!(version, "the changed configuration is in force");
        Ok(version)
    }

    fn note_failure(&self, error: &anyhow::Error) {
        let detail = format!("{error:#}");
        tracing::warn!("the changed configuration is refused, the old one stays:\n{detail}");
        let failure = ReloadFailure { at: self.gateway.clock.now(), detail };
        self.active.rcu(|active| Active { last_error: Some(failure.clone()), ..(**active).clone() });
    }
}

/// Prices, routes, upstreams and identity change at once; sockets and stores do not.
fn warn_of_restarts(before: &Active, after: &Active) {
    let (old, new) = (&before.settings, &after.settings);
    let fixed = [
        ("listen", old.proxy == new.proxy && old.admin == new.admin),
        ("workers", old.workers == new.workers),
        ("limits", old.limits == new.limits),
        ("store", old.store == new.store),
        ("stripe.mode", old.stripe.mode == new.stripe.mode),
        ("admin", old.admin_tokens == new.admin_tokens),
    ];
    for (key, _) in fixed.iter().filter(|(_, same)| !same) {
        tracing::warn!(key, "this change takes effect at the next start");
    }
}
