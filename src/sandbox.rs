//! The Stripe stand-in: real HTTP on loopback, Stripe's answers, and faults on demand.
//!
//! | file | what |
//! |---|---|
//! | `http`, `control`, `hooks` | sockets and connections; `/_sandbox/…`, the part that is not Stripe's; deliveries to webhook endpoints |
//! | `engine` | one call: faults, authentication, idempotency, execution, record of the exchange |
//! | `faults`, `idempotency`, `exchanges`, `auth`, `answer` | each step of that by itself |
//! | `route`, `store`, `lookup` | which operation a path names; everything an account holds; any object by its id |
//! | `customers`, `products`, `prices`, `meters`, `meter_events`, `meter_totals`, `summaries` | what is sold and used |
//! | `cards`, `payment_methods`, `setup_intents`, `coupons`, `promotion_codes`, `discounts` | what is paid with, and less |
//! | `subscriptions`, `subscription_…`, `changes` | a subscription: its states, and what changing it costs |
//! | `billing`, `invoices`, `invoice_…`, `collect`, `preview` | from a subscription to an invoice to money |
//! | `renewal`, `agenda`, `test_clocks` | time passes: what is due happens in order |
//! | `checkout`, `portal`, `portal_configurations`, `page`, `…_page` | the hosted pages and what they are about |
//! | `events`, `announce`, `outbox`, `webhook_endpoints`, `thin_events` | what happened, and who is told |
//! | `usage_records` | usage as it was before `2025-03-31.basil` |
//! | `state` | the account in a file |
//! | `cycle`, `proration`, `tiers`, `series`, `decimal` | periods, parts of periods, prices, aggregation. Pure |
//! | `form`, `params`, `errors`, `shelf`, `expand`, `unfold`, `search` | bracket forms, typed parameters, Stripe's error envelope, ordered objects with cursors, expansion, search |
//!
//! Everything below `http` and `control` is synchronous and takes `now`; the account is in memory, behind one mutex, and
//! every part of it has a bound (see the constants named `MAX_…`). It listens without TLS and its control paths ask
//! for no credential: bind it to loopback only.

mod agenda;
mod announce;
mod answer;
mod auth;
mod billing;
mod cards;
mod changes;
mod checkout;
mod checkout_page;
mod collect;
mod control;
mod coupons;
mod customers;
mod cycle;
mod decimal;
#[cfg(test)]
mod desk;
mod discounts;
mod engine;
mod errors;
mod events;
mod exchanges;
mod expand;
mod faults;
mod form;
mod hooks;
mod http;
mod idempotency;
mod invoice_api;
mod invoice_items;
mod invoice_lines;
mod invoice_page;
mod invoices;
mod lookup;
mod meter_events;
mod meter_totals;
mod meters;
#[cfg(test)]
mod months;
mod outbox;
mod page;
mod params;
mod payment_methods;
mod portal;
mod portal_configurations;
mod portal_page;
mod preview;
mod price_draft;
mod prices;
mod products;
mod promotion_codes;
mod proration;
mod renewal;
mod route;
mod search;
mod series;
mod setup_intents;
mod shelf;
mod state;
mod store;
mod subscription_create;
mod subscription_end;
mod subscription_items;
mod subscription_list;
mod subscription_update;
mod subscriptions;
mod summaries;
mod test_clocks;
mod thin_events;
mod tiers;
mod unfold;
mod usage_records;
mod webhook_endpoints;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use engine::Engine;

pub use collect::DunningEnd;
pub use faults::{Effect, Fault, FaultRefused, Filter};
pub use meter_events::{LateError, Validation};
pub use meter_totals::MeterTotal;
pub use outbox::Delivering;

/// How long [`Sandbox::stop`] waits for open connections.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Where the stand-in listens, what time it is there, and who may call it.
#[derive(Clone)]
pub struct Config {
    /// Address to bind; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Its time: windows, `created`, defaults. A manual clock makes a day pass in a test.
    pub clock: Clock,
    /// The one key that is accepted (`sk_test_…`); `None` accepts every key that begins so.
    pub secret_key: Option<String>,
    /// When meter events with a bad content are refused.
    pub validation: Validation,
    /// Where the account is kept between two runs; `None` forgets it.
    pub state: Option<PathBuf>,
}

impl Config {
    /// A free port on loopback, the key `sk_test_sandbox`, refusals at once.
    #[must_use]
    pub fn on_loopback(clock: Clock) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            clock,
            secret_key: Some("sk_test_sandbox".to_owned()),
            validation: Validation::Now,
            state: None,
        }
    }
}

/// A running stand-in. Dropping it closes the listener and every connection; [`Sandbox::stop`] also waits for them.
pub struct Sandbox {
    /// Where it listens.
    pub addr: SocketAddr,
    /// A key it accepts.
    pub secret_key: String,
    shared: Arc<Shared>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// Starts the stand-in on the current Tokio runtime.
///
/// # Errors
/// The address cannot be bound, or the state file cannot be read or written.
pub async fn start(config: Config) -> io::Result<Sandbox> {
    let listener = tokio::net::TcpListener::bind(config.listen).await?;
    let addr = listener.local_addr()?;
    let secret_key = config.secret_key.clone().unwrap_or_else(|| "sk_test_sandbox".to_owned());
    let shared = Arc::new(Shared::new(config, format!("http://{addr}"))?);
    let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(hooks::tick(Arc::clone(&shared), closing.clone()));
    tasks.spawn(hooks::deliver(Arc::clone(&shared), closing.clone(), tasks.clone()));
    tasks.spawn(http::accept(listener, Arc::clone(&shared), closing.clone(), tasks.clone()));
    Ok(Sandbox { addr, secret_key, shared, closing, tasks })
}

/// Runs the stand-in alone until the process is told to stop; any `sk_test_…` key is accepted.
///
/// # Errors
/// The address cannot be bound, the state file cannot be used, or the process cannot listen for Ctrl-C.
pub async fn serve_forever(listen: SocketAddr, state: Option<PathBuf>) -> io::Result<()> {
    let sandbox = start(Config { listen, secret_key: None, state, ..Config::on_loopback(Clock::System) }).await?;
    tracing::info!(addr = %sandbox.addr, "Stripe sandbox is listening; any sk_test_ key is accepted");
    tokio::signal::ctrl_c().await?;
    sandbox.stop().await;
    Ok(())
}

impl Sandbox {
    /// The base URL for a Stripe client: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Makes something go wrong from now on; returns the fault's number.
    ///
    /// # Errors
    /// The fault itself is wrong, or too many are armed already.
    pub fn fault(&self, fault: Fault) -> Result<u64, FaultRefused> {
        self.shared.lock().faults.arm(fault)
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// When bad meter events are refused, from now on.
    pub fn set_validation(&self, validation: Validation) {
        let settings = state::Settings { validation: Some(validation), ..state::Settings::default() };
        self.shared.lock().set(&settings);
    }

    /// How events are delivered, from now on.
    pub fn set_delivering(&self, delivering: Delivering) {
        let settings = state::Settings { webhooks: Some(delivering), ..state::Settings::default() };
        self.shared.lock().set(&settings);
        self.shared.mail.notify_one();
    }

    /// What becomes of subscriptions whose last retry has failed, from now on.
    pub fn set_dunning_end(&self, end: DunningEnd) {
        let settings = state::Settings { dunning_end: Some(end), ..state::Settings::default() };
        self.shared.lock().set(&settings);
    }

    /// Deliveries that no endpoint has acknowledged yet, those given up included.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.shared.lock().store.outbox.unfinished()
    }

    /// Units that meter events for `event_name` and `customer` add up to, cancelled events left out.
    ///
    /// A negative sum is 0 here, as on Stripe's invoices; [`Sandbox::meter_totals`] has the exact one.
    #[must_use]
    pub fn meter_total(&self, event_name: &str, customer: &str) -> u64 {
        let sum = self.shared.lock().store.meter_total(event_name, customer);
        u64::try_from(sum.max(0)).unwrap_or(u64::MAX)
    }

    /// Every event name and customer with accepted events, in order.
    #[must_use]
    pub fn meter_totals(&self) -> Vec<MeterTotal> {
        self.shared.lock().store.meter_totals()
    }

    /// Events that were accepted and found wrong later (see [`Validation::Later`]), oldest first.
    #[must_use]
    pub fn late_errors(&self) -> Vec<LateError> {
        self.shared.lock().store.usage.late_errors.iter().cloned().collect()
    }

    /// The exchanges recorded so far as JSON lines: `method`, `path`, `content_type`, `body`, `status`, `response`.
    #[must_use]
    pub fn exchanges(&self) -> String {
        let recorded = self.shared.lock().exchanges.snapshot();
        exchanges::json_lines(&recorded)
    }

    /// Moves the stand-in's time forward. A manual clock moves for everyone who holds it; beside the system's clock
    /// only the stand-in runs ahead.
    pub fn advance(&self, by: Duration) {
        self.shared.advance(by);
    }

    /// Closes the listener, lets calls in progress end, and waits for them, 5 seconds at most.
    pub async fn stop(self) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!("the Stripe sandbox still had open connections when it stopped");
        }
    }
}

impl fmt::Debug for Sandbox {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.closing.cancel();
        self.tasks.close();
    }
}

/// What every connection shares.
struct Shared {
    time: Time,
    engine: Mutex<Engine>,
    /// There may be deliveries to make.
    mail: Notify,
}

impl Shared {
    fn new(config: Config, base_url: String) -> io::Result<Self> {
        let mut engine = Engine::new(config.secret_key, config.validation);
        engine.store.base_url = base_url;
        let ahead_ms = config.state.map_or(Ok(0), |path| engine.restore(&path))?;
        let time = Time { clock: config.clock, ahead_ms: AtomicI64::new(ahead_ms) };
        Ok(Self { time, engine: Mutex::new(engine), mail: Notify::new() })
    }

    /// Moves time forward; what is due by then happens at once.
    fn advance(&self, by: Duration) {
        let ahead_ms = self.time.advance(by);
        let now_ms = self.time.now_ms();
        {
            let mut engine = self.lock();
            if ahead_ms > 0 {
                engine.keep(&state::Entry::Ahead { by_ms: ahead_ms });
            }
            engine.tick(now_ms);
        }
        self.mail.notify_one();
    }

    /// Time passes by itself.
    fn tick(&self) {
        let now_ms = self.time.now_ms();
        self.lock().tick(now_ms);
    }

    /// Never held across an await. A panic elsewhere leaves the state usable for the tests that look at it.
    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sandbox's time: a clock, and how far the sandbox runs ahead of it.
#[derive(Debug)]
struct Time {
    clock: Clock,
    ahead_ms: AtomicI64,
}

impl Time {
    fn now_ms(&self) -> i64 {
        self.clock.now_ms().saturating_add(self.ahead_ms.load(Ordering::Acquire))
    }

    /// How much further the sandbox runs ahead of its clock: nothing where the clock itself can be moved.
    fn advance(&self, by: Duration) -> i64 {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let moved = Timestamp::from_millisecond(self.clock.now_ms().saturating_add(by_ms)).unwrap_or(Timestamp::MAX);
        if self.clock.set(moved) {
            return 0;
        }
        self.ahead_ms.fetch_add(by_ms, Ordering::AcqRel);
        by_ms
    }
}
