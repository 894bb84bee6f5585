//! The one place that builds the parts and connects them: `serve`, `demo`, tests and benchmarks all start here.
//!
//! Two kinds of threads: one current-thread runtime per worker for the data plane, and one runtime, "control", for
//! everything that may wait: records, ledger, reporter, admin API, sandbox.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::accounts::Accounts;
use crate::clock::Clock;
use crate::config::settings::{LedgerUrl, Settings};
use crate::config::{Env, Loaded};
use crate::control::{self, ControlState, Readiness};
use crate::drain::Drain;
use crate::gateway::Gateway;
use crate::journal::Journal;
use crate::ledger::embedded::Embedded;
use crate::ledger::redis::{PassError, Rebuild, Redis};
use crate::ledger::{Ledger, Node, Parts, Shipper};
use crate::records::{Ended, Records};
use crate::telemetry::Metrics;
use crate::units::NodeId;

pub mod billing;
pub mod housekeeping;
mod port;
mod records;
pub mod reload;
pub mod signals;
pub mod workers;

use billing::Billing;
use port::AdminPort;
use reload::Reloader;
pub use signals::Signals;
use workers::Workers;

/// Requests in flight get so long to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// A request waits for a settle at most so long. The embedded ledger is on the same disk: nothing is gained by giving up
/// early, and a slow disk must not refuse a paying client.
const EMBEDDED_WAIT: Duration = Duration::from_secs(2);
/// The same for a ledger across the network: one exchange, or the wait for others to give back.
const REDIS_WAIT: Duration = Duration::from_millis(60);
/// Threads of the control runtime.
const CONTROL_THREADS: usize = 2;

/// What the configuration does not say.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where configuration overrides come from, now and at each reload.
    pub env: Env,
    /// Time.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self { env: Env::empty(), clock: Clock::System }
    }
}

/// A gateway at work. [`Running::stop`] drains it.
pub struct Running {
    core: Core,
    proxy: SocketAddr,
    admin: SocketAddr,
    workers: Workers,
    background: tokio_util::task::TaskTracker,
    drain: Drain,
    control: Runtime,
}

/// The parts that others are built on.
#[derive(Clone)]
struct Core {
    records: Records,
    journal: Arc<Journal>,
    node: Arc<Node>,
    gateway: Arc<Gateway>,
    shipper: Arc<tokio::sync::Mutex<Shipper>>,
    billing: Option<Arc<Billing>>,
    reloader: Arc<Reloader>,
    clock: Clock,
}

/// Starts everything; returns when the node takes traffic.
///
/// # Errors
/// The first part that cannot start, with what to do about it.
pub fn start(loaded: Loaded, options: &Options) -> anyhow::Result<Running> {
    let metrics = Metrics::install()?;
    crate::stripe::tls_provider();
    let control = Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("the control runtime")?;
    let settings = loaded.settings.clone();
    let readiness = Readiness::new();
    let taking_traffic = readiness.condition("workers");
    let journal = readiness.condition("journal");
    let drain = Drain::default();
    let background = tokio_util::task::TaskTracker::new();
    let records_there = readiness.condition("records");
    let admin = AdminPort::bind(settings.admin)?;
    let admin_address = admin.0.local_addr()?;
    let (core, ledgering) = control.block_on(async {
        let waiting = admin.while_waiting(&readiness, &metrics)?;
        let built = build(loaded, options, control.handle(), &records_there).await;
        waiting.end().await;
        built
    })?;
    let state = control_state(&core, options, readiness, metrics.clone());
    {
        let _inside = control.enter();
        ledgering.spawn(&background, &core.node, &drain);
        background.spawn(control::serve(admin.listener()?, state, drain.stop.clone()));
        housekeeping::spawn(&background, &core, &drain, metrics, journal);
    }
    let (proxy, listeners) = crate::listen::bind(settings.proxy, settings.workers)?;
    let workers = Workers::start(listeners, &core, &settings, &drain, &control)?;
    taking_traffic.met();
    tracing::info!(%proxy, admin = %admin_address, workers = settings.workers, "taking traffic");
    Ok(Running { core, proxy, admin: admin_address, workers, background, drain, control })
}

async fn build(
    loaded: Loaded,
    options: &Options,
    control: &tokio::runtime::Handle,
    records_there: &control::Condition,
) -> anyhow::Result<(Core, Ledgering)> {
    let settings = &loaded.settings;
    let clock = options.clock.clone();
    let records = records::open(settings.store.records.expose(), records_there).await?;
    let journal = Arc::new(Journal::open(&settings.store.journal).context("store.journal")?);
    records.register_node(journal.node(), journal.boot(), clock.now()).await?;
    let ledger = Chosen::of(settings, &records, &clock).await?;
    let (node, queue) = Node::new(ledger.parts(settings, &records, &journal, &clock));
    let shipper = recover(&node).await?;
    let rebuild = ledger.rebuild(settings, &records, &node, journal.node()).await?;
    let billing = Billing::start(settings, &loaded.pricing, &records, &clock).await?.map(Arc::new);
    let accounts = Arc::new(Accounts::new(records.clone(), Arc::clone(&node), clock.clone(), control.clone()));
    let first = reload::activate(&loaded, &records, &journal, &clock).await?;
    let gateway = Arc::new(Gateway {
        snapshot: Arc::new(arc_swap::ArcSwap::new(first.snapshot)),
        accounts,
        node: Arc::clone(&node),
        clock: clock.clone(),
        body_timeout: loaded.settings.limits.body_timeout,
        header_bytes: loaded.settings.limits.header_bytes,
    });
    let reloader = Reloader::new(
        first.active,
        loaded,
        options.env.clone(),
        Arc::clone(&gateway),
        records.clone(),
        &journal,
        billing.clone(),
    );
    let reloader = Arc::new(reloader);
    let shipper = Arc::new(tokio::sync::Mutex::new(shipper));
    let core = Core { records, journal, node, gateway, shipper, billing, reloader, clock };
    Ok((core, Ledgering { queue, rebuild }))
}

/// What keeps the node and its ledger together, to be run beside the traffic.
struct Ledgering {
    queue: crate::ledger::node::Queue,
    rebuild: Option<Rebuild>,
}

impl Ledgering {
    fn spawn(self, tasks: &tokio_util::task::TaskTracker, node: &Arc<Node>, drain: &Drain) {
        tasks.spawn(Arc::clone(node).run_settler(self.queue, drain.cut.child_token()));
        if let Some(rebuild) = self.rebuild {
            tasks.spawn(drain.cut.clone().run_until_cancelled_owned(rebuild.run()));
        }
    }
}

/// The ledger of the settings.
#[derive(Clone)]
enum Chosen {
    Embedded(Embedded),
    Redis(Arc<Redis>),
}

impl Chosen {
    async fn of(settings: &Settings, records: &Records, clock: &Clock) -> anyhow::Result<Self> {
        match &settings.store.ledger {
            LedgerUrl::Embedded => Ok(Self::Embedded(Embedded::new(records.clone(), clock.clone()))),
            LedgerUrl::Redis(url) => {
                let redis = Redis::new(url.clone(), records.clone(), clock.clone());
                // One that is away is waited for beside the traffic; one that must not be used ends the start.
                redis.connect().await.with_context(|| format!("store.ledger.url: {url}"))?;
                Ok(Self::Redis(Arc::new(redis)))
            }
        }
    }

    fn parts(&self, settings: &Settings, records: &Records, journal: &Arc<Journal>, clock: &Clock) -> Parts {
        let (ledger, wait, fence): (Arc<dyn Ledger>, _, _) = match self.clone() {
            Self::Embedded(embedded) => (Arc::new(embedded), EMBEDDED_WAIT, false),
            Self::Redis(redis) => (redis, REDIS_WAIT, true),
        };
        Parts {
            ledger,
            records: records.clone(),
            journal: Arc::clone(journal),
            clock: clock.clone(),
            batch: settings.store.batch,
            wait,
            fence,
        }
    }

    /// Who looks after the ledger's generations, if it has any; it has made its first pass.
    async fn rebuild(
        self,
        settings: &Settings,
        records: &Records,
        node: &Arc<Node>,
        id: &NodeId,
    ) -> anyhow::Result<Option<Rebuild>> {
        let Self::Redis(redis) = self else { return Ok(None) };
        let mut rebuild = Rebuild::new(redis, Arc::clone(node), id.clone(), records.clone(), settings.store.absent);
        match rebuild.pass().await {
            Ok(()) => {}
            Err(error @ PassError::Foreign(_)) => return Err(error).context("store.ledger.url"),
            Err(error) => tracing::warn!(%error, "starting without a ledger that grants"),
        }
        Ok(Some(rebuild))
    }
}

/// Ships what an earlier run of this node left in its journal, before anything is admitted: base totals come from the
/// records, so they must hold it.
async fn recover(node: &Arc<Node>) -> anyhow::Result<Shipper> {
    let mut shipper = Shipper::new(Arc::clone(node)).await?;
    shipper.ship().await.context("shipping what the last run left in the journal")?;
    Ok(shipper)
}

fn control_state(core: &Core, options: &Options, readiness: Readiness, metrics: Metrics) -> ControlState {
    let node = Arc::clone(&core.node);
    let reloader = Arc::clone(&core.reloader);
    let accounts = Arc::clone(&core.gateway.accounts);
    ControlState {
        records: core.records.clone(),
        clock: options.clock.clone(),
        active: core.reloader.active(),
        changed: Arc::new(move |change| {
            let accounts = Arc::clone(&accounts);
            Box::pin(async move {
                if let Err(error) = housekeeping::propagate(&accounts, change).await {
                    tracing::warn!(%error, ?change, "a change could not be read; again in a second");
                }
            })
        }),
        live_used: Arc::new(move |account| node.used(account)),
        readiness,
        reload: Arc::new(move || {
            let reloader = Arc::clone(&reloader);
            Box::pin(async move { reloader.reload().await.map_err(|error| format!("{error:#}")) })
        }),
        metrics,
    }
}

impl Running {
    /// Where clients call.
    #[must_use]
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// Where the admin API is.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The records, for tests and benchmarks.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.core.records
    }

    /// Stripe's side, if it is switched on.
    #[must_use]
    pub fn billing(&self) -> Option<&Arc<Billing>> {
        self.core.billing.as_ref()
    }

    /// Carries everything that was completed into the records, now.
    ///
    /// # Errors
    /// When the journal or the records fail; nothing is lost.
    pub async fn flush_now(&self) -> anyhow::Result<()> {
        self.core.flush_now().await
    }

    /// Carries everything that was completed to Stripe, now.
    ///
    /// # Errors
    /// When any part of the way fails; nothing is lost, it goes on by itself.
    pub async fn report_now(&self) -> anyhow::Result<()> {
        self.core.flush_now().await?;
        match &self.core.billing {
            Some(billing) => billing.report_now().await,
            None => Ok(()),
        }
    }

    /// Cuts what [`Running::stop`] waits for.
    #[must_use]
    pub fn cutter(&self) -> CancellationToken {
        self.drain.cut.clone()
    }

    /// Ends in order: no new connections, requests in flight end, everything is settled and flushed.
    pub fn stop(self) {
        tracing::info!("draining");
        self.drain.begin();
        self.workers.join(&self.drain, DRAIN_DEADLINE);
        self.drain.cut.cancel();
        self.background.close();
        self.control.block_on(async {
            if tokio::time::timeout(DRAIN_DEADLINE, self.background.wait()).await.is_err() {
                tracing::warn!("background work did not end in time");
            }
            if let Err(error) = self.core.leave().await {
                tracing::warn!(%error, "stopping with an unflushed journal or unspent budget; the next start settles it");
            }
            if let Some(billing) = &self.core.billing {
                billing.stop().await;
            }
            self.core.records.close().await;
        });
        self.control.shutdown_timeout(Duration::from_secs(1));
        tracing::info!("stopped");
    }
}

impl Core {
    /// Flushes and gives back everything; only then a node is retired, and no ledger waits for it.
    async fn leave(&self) -> anyhow::Result<()> {
        let flushed = self.flush_now().await;
        let given_back = self.node.give_everything_back().await;
        flushed?;
        anyhow::ensure!(given_back, "the ledger took no note of what was given back");
        self.records.end_node(self.journal.node(), Ended::Retired).await?;
        Ok(())
    }

    async fn flush_now(&self) -> anyhow::Result<()> {
        self.journal.sync().context("syncing the journal")?;
        self.shipper.lock().await.ship().await?;
        Ok(())
    }
}

impl Core {
    fn flushed_seq(&self, control: &Runtime, worker: u16) -> anyhow::Result<u64> {
        Ok(control.block_on(self.records.flushed_seq(self.journal.node(), worker))?)
    }
}
