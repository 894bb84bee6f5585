//! Who may call: tenants and keys in memory, loaded from the records on a miss, forgotten when idle.
//!
//! An answer "unknown" is remembered for a moment, so that guessing costs the records nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::ledger::Node;
use crate::pricing::{Pricing, Scope};
use crate::records::{Key, Records, RecordsError, Tenant};
use crate::units::{KeyNum, TenantNum};

pub mod tenant;

pub use tenant::{Entry, State};

/// SHA-256 of a key's secret.
pub type KeyHash = [u8; 32];

/// An unknown key stays unknown for so long.
const UNKNOWN_MS: i64 = 1_000;
/// Unknown keys remembered at most; beyond that each is looked up.
const UNKNOWN_AT_MOST: usize = 100_000;
/// A key or tenant leaves memory after so long without a request.
const IDLE_MS: i64 = 600_000;
/// A look-up in the records takes at most so long.
const LOAD_DEADLINE: Duration = Duration::from_secs(2);
/// Look-ups of one key happen once; keys share this many queues.
const STRIPES: usize = 64;

/// Prices and their version; replaced whole on reload.
#[derive(Debug)]
pub struct Prices {
    /// What things cost.
    pub pricing: Arc<Pricing>,
    /// Rises with each change of the files.
    pub version: u64,
}

/// A key in memory.
#[derive(Debug)]
pub struct KeyEntry {
    /// Number in the records.
    pub num: KeyNum,
    /// Whose.
    pub tenant: Arc<Entry>,
    /// What it opens.
    pub scopes: Scopes,
    /// No longer valid from then on, Unix milliseconds.
    pub expires_ms: Option<i64>,
    /// Last request, Unix milliseconds.
    pub last_used_ms: AtomicI64,
    /// The part of `last_used_ms` that the records know.
    noted_ms: AtomicI64,
    /// Requests per key, where the plan says so.
    pub limiter: tenant::LimiterCell,
}

/// What a key opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scopes {
    /// Everything.
    All,
    /// What one of these covers.
    Only(Vec<Scope>),
}

impl Scopes {
    /// A scope that does not parse opens nothing: it was checked when the key was made, so another version wrote it.
    fn of(texts: &[String]) -> Self {
        if texts.is_empty() {
            return Self::All;
        }
        Self::Only(texts.iter().filter_map(|text| Scope::parse(text).ok()).collect())
    }

    /// Whether a request is among it, in every reading of its path.
    #[must_use]
    pub fn cover(&self, method: &http::Method, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(scopes) => scopes.iter().any(|scope| scope.covers(method, path)),
        }
    }
}

#[derive(Clone, Debug)]
enum Slot {
    Known(Arc<KeyEntry>),
    Refused(Refusal, /* until, Unix ms */ i64),
}

/// Why a credential is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody's.
    Unknown,
    /// Was revoked.
    Revoked,
    /// Has expired.
    Expired,
}

/// A look-up failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// The records did not answer; nothing is known about the credential.
    #[error("the records did not answer: {0}")]
    Unavailable(Arc<str>),
}

impl From<RecordsError> for LookupError {
    fn from(error: RecordsError) -> Self {
        Self::Unavailable(error.to_string().into())
    }
}

/// Keys and tenants in memory, shared by all workers.
pub struct Accounts {
    records: Records,
    node: Arc<Node>,
    clock: Clock,
    control: Handle,
    keys: DashMap<KeyHash, Slot, RandomState>,
    tenants: DashMap<TenantNum, Arc<Entry>>,
    by_id: DashMap<Arc<str>, TenantNum>,
    stripes: Vec<tokio::sync::Mutex<()>>,
}

impl Accounts {
    /// Nobody in memory yet. Look-ups run on `control`, the runtime of the records.
    #[must_use]
    pub fn new(records: Records, node: Arc<Node>, clock: Clock, control: Handle) -> Self {
        Self {
            records,
            node,
            clock,
            control,
            keys: DashMap::with_hasher(RandomState::default()),
            tenants: DashMap::new(),
            by_id: DashMap::new(),
            stripes: (0..STRIPES).map(|_| tokio::sync::Mutex::new(())).collect(),
        }
    }

    /// Who presents `secret`.
    ///
    /// # Errors
    /// [`LookupError`] when memory does not know and the records do not answer.
    pub async fn by_secret(&self, secret: &[u8]) -> Result<Result<Arc<KeyEntry>, Refusal>, LookupError> {
        let hash: KeyHash = Sha256::digest(secret).into();
        let now_ms = self.clock.now_ms();
        if let Some(known) = self.remembered(&hash, now_ms) {
            return Ok(known);
        }
        let _turn = self.stripe(&hash).lock().await;
        if let Some(known) = self.remembered(&hash, now_ms) {
            return Ok(known);
        }
        let records = self.records.clone();
        let found = self.on_control(async move { records.key_by_hash(&hash).await }).await?;
        Ok(self.remember(hash, found, now_ms))
    }

    fn remembered(&self, hash: &KeyHash, now_ms: i64) -> Option<Result<Arc<KeyEntry>, Refusal>> {
        match &*self.keys.get(hash)? {
            Slot::Known(key) if key.expires_ms.is_some_and(|at| at <= now_ms) => Some(Err(Refusal::Expired)),
            Slot::Known(key) => Some(Ok(Arc::clone(key))),
            Slot::Refused(why, until_ms) => (now_ms < *until_ms).then_some(Err(*why)),
        }
    }

    fn remember(&self, hash: KeyHash, found: Option<(Key, Tenant)>, now_ms: i64) -> Result<Arc<KeyEntry>, Refusal> {
        let judged = match found {
            None => Err(Refusal::Unknown),
            Some((key, _)) if key.revoked_at.is_some() => Err(Refusal::Revoked),
            Some((key, _)) if key.expires_at.is_some_and(|at| at.as_millisecond() <= now_ms) => Err(Refusal::Expired),
            Some((key, tenant)) => Ok(self.key_entry(&key, tenant)),
        };
        match &judged {
            Ok(key) => drop(self.keys.insert(hash, Slot::Known(Arc::clone(key)))),
            Err(why) if self.keys.len() < UNKNOWN_AT_MOST => {
                self.keys.insert(hash, Slot::Refused(*why, now_ms + UNKNOWN_MS));
            }
            Err(_) => {}
        }
        judged
    }

    fn key_entry(&self, key: &Key, tenant: Tenant) -> Arc<KeyEntry> {
        Arc::new(KeyEntry {
            num: key.num,
            tenant: self.entry(tenant),
            scopes: Scopes::of(&key.scopes),
            expires_ms: key.expires_at.map(jiff::Timestamp::as_millisecond),
            last_used_ms: AtomicI64::new(i64::MIN),
            noted_ms: AtomicI64::new(i64::MIN),
            limiter: tenant::LimiterCell::default(),
        })
    }

    /// The tenant in memory, made of `row` if it is not there.
    fn entry(&self, row: Tenant) -> Arc<Entry> {
        let num = row.num;
        self.by_id.insert(row.id.as_str().into(), num);
        let fresh = || Arc::new(Entry::new(row));
        Arc::clone(&self.tenants.entry(num).or_insert_with(fresh))
    }

    /// The tenant called `id`, for trusted peers and the default tenant; `None` if there is none.
    ///
    /// # Errors
    /// [`LookupError`] when memory does not know and the records do not answer.
    pub async fn by_id(&self, id: &str) -> Result<Option<Arc<Entry>>, LookupError> {
        if let Some(num) = self.by_id.get(id).map(|num| *num)
            && let Some(entry) = self.tenants.get(&num)
        {
            return Ok(Some(Arc::clone(&entry)));
        }
        let (records, id) = (self.records.clone(), id.to_owned());
        let found = self.on_control(async move { records.tenant(&id).await }).await?;
        Ok(found.map(|row| self.entry(row)))
    }

    /// The tenant's state for a request now, under the prices that hold for it: plan, access, period and budgets.
    #[must_use]
    pub fn state(&self, entry: &Entry, prices: &Prices, now_ms: i64) -> Arc<State> {
        entry.state(prices, &self.node, now_ms)
    }

    async fn on_control<T: Send + 'static>(
        &self,
        load: impl Future<Output = Result<T, RecordsError>> + Send + 'static,
    ) -> Result<T, LookupError> {
        let loaded = self.control.spawn(tokio::time::timeout(LOAD_DEADLINE, load)).await;
        match loaded {
            Ok(Ok(found)) => Ok(found?),
            Ok(Err(_)) => Err(LookupError::Unavailable("no answer in time".into())),
            Err(_) => Err(LookupError::Unavailable("shutting down".into())),
        }
    }

    /// A key changed: the next request reads it afresh. Waits for a look-up that may have read it before the change.
    pub async fn forget_key(&self, hash: &KeyHash) {
        let _turn = self.stripe(hash).lock().await;
        self.keys.remove(hash);
    }

    fn stripe(&self, hash: &KeyHash) -> &tokio::sync::Mutex<()> {
        &self.stripes[usize::from(hash[0]) % STRIPES]
    }

    /// A tenant changed: takes over its row as it is in the records now; a deleted one is forgotten with its keys.
    ///
    /// # Errors
    /// When the records cannot be read; the old state stays.
    pub async fn refresh_tenant(&self, num: TenantNum) -> Result<(), RecordsError> {
        let Some(entry) = self.tenants.get(&num).map(|entry| Arc::clone(&entry)) else { return Ok(()) };
        // By its name: a deleted tenant keeps its number but not its name.
        match self.records.tenant(&entry.id()).await? {
            Some(row) if row.num == num => entry.replace(row),
            Some(_) | None => self.forget_tenant(num),
        }
        Ok(())
    }

    fn forget_tenant(&self, num: TenantNum) {
        self.tenants.remove(&num);
        self.by_id.retain(|_, of| *of != num);
        self.keys.retain(|_, slot| !matches!(slot, Slot::Known(key) if key.tenant.num == num));
    }

    /// Keys used since the last call, with the time of their last request.
    #[must_use]
    pub fn take_used_keys(&self) -> Vec<(KeyNum, i64)> {
        let mut used = Vec::new();
        for slot in &self.keys {
            if let Slot::Known(key) = slot.value() {
                let last_ms = key.last_used_ms.load(Relaxed);
                if key.noted_ms.swap(last_ms, Relaxed) != last_ms {
                    used.push((key.num, last_ms));
                }
            }
        }
        used
    }

    /// Forgets keys and tenants without a request for ten minutes.
    pub fn sweep(&self) {
        let now_ms = self.clock.now_ms();
        let since_ms = now_ms - IDLE_MS;
        self.keys.retain(|_, slot| match slot {
            Slot::Known(key) => key.last_used_ms.load(Relaxed) >= since_ms,
            Slot::Refused(_, until_ms) => now_ms < *until_ms,
        });
        self.tenants.retain(|_, entry| Arc::strong_count(entry) > 1 || entry.used_since(since_ms));
        self.by_id.retain(|_, num| self.tenants.contains_key(num));
    }

    /// Keys in memory, unknown ones included.
    #[must_use]
    pub fn keys_held(&self) -> usize {
        self.keys.len()
    }
}
