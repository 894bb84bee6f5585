//! `tollgate.yaml`, checked and with defaults filled in.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Uri};

/// Where and how this node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Path of the pricing file, resolved.
    pub pricing: PathBuf,
    /// Address of the proxy port.
    pub proxy: SocketAddr,
    /// Address of the admin port.
    pub admin: SocketAddr,
    /// Data-plane threads; at least 1.
    pub workers: usize,
    /// Bounds on what clients may send.
    pub limits: Limits,
    /// In the file's order; at least one.
    pub upstreams: Vec<Upstream>,
    /// How a tenant is recognised.
    pub identity: Identity,
    /// Where state lives.
    pub store: Store,
    /// Stripe.
    pub stripe: Stripe,
    /// Who may use the admin API.
    pub admin_tokens: Vec<AdminToken>,
    /// Prefix of the tenant's own endpoints on the proxy port; `None` = off.
    pub self_service: Option<String>,
    /// `TOLLGATE_LOG`, a filter as `tracing_subscriber::EnvFilter` reads it; `None` = the default filter.
    pub log: Option<String>,
}

/// Bounds on what clients may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line and headers together, bytes.
    pub header_bytes: usize,
    /// Number of headers.
    pub headers: usize,
    /// From the first byte of a request (or the accept) to its complete head.
    pub header_timeout: Duration,
    /// Longest silence while a request body arrives.
    pub body_timeout: Duration,
    /// Connections of this process; 0 = no limit.
    pub connections: usize,
    /// Connections per client address; 0 = no limit.
    pub connections_per_address: usize,
}

/// An API behind us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// For logs and metrics.
    pub name: String,
    /// Which `Host` it serves.
    pub host: HostPattern,
    /// Path prefix it serves, on segment borders; `/` = all.
    pub path: String,
    /// `http://host:port`, at least one, no path.
    pub origins: Vec<Uri>,
    /// Deadlines.
    pub timeouts: Timeouts,
}

/// Which `Host` header matches; port ignored, case-insensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// `*`.
    Any,
    /// `api.example.com`.
    Exact(String),
    /// `*.example.com`, stored as `.example.com`.
    Suffix(String),
}

/// Deadlines of one exchange with an origin; `None` = no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connect.
    pub connect: Option<Duration>,
    /// From the end of the request body to the response head.
    pub first_byte: Option<Duration>,
    /// Longest silence within the response body.
    pub idle: Option<Duration>,
    /// The whole exchange.
    pub total: Option<Duration>,
}

/// How a tenant is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Headers a key may come in; for `Authorization` after `Bearer `.
    pub key_headers: Vec<HeaderName>,
    /// Query parameter a key may come in.
    pub key_query: Option<String>,
    /// Header by which a trusted peer names the tenant.
    pub tenant_header: HeaderName,
    /// Peers whose tenant header is believed.
    pub trusted: Vec<Cidr>,
    /// Tenant of everything that comes without a credential.
    pub default_tenant: Option<String>,
    /// Leave the credential in the request to the origin.
    pub forward_credentials: bool,
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Network address.
    pub addr: IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

/// Where state lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// `sqlite:path` or `postgres://…`; a secret for the password in it.
    pub records: Secret,
    /// Which ledger.
    pub ledger: LedgerUrl,
    /// How long a ledger that has forgotten waits for an absent node.
    pub absent: crate::ledger::redis::Absent,
    /// Beat of batches and settles.
    pub batch: Duration,
    /// This node's journal.
    pub journal: crate::journal::Config,
}

/// Which ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerUrl {
    /// In the records' database.
    Embedded,
    /// In Redis, for many nodes.
    Redis(crate::ledger::redis::Url),
}

/// Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripe {
    /// Which Stripe, if any.
    pub mode: StripeMode,
    /// `sk_…`; missing in `off`, made up in `sandbox`.
    pub secret_key: Option<Secret>,
    /// `pk_…`, for pages in the browser.
    pub publishable_key: Option<String>,
    /// `whsec_…`; several while one is being replaced.
    pub webhook_secrets: Vec<Secret>,
    /// Where the API is; `None` = Stripe's own, or the sandbox's.
    pub api_base: Option<Uri>,
    /// `Stripe-Version`.
    pub api_version: String,
    /// Least time between two reports of one tenant and meter.
    pub flush: Duration,
    /// ISO 4217, lower case.
    pub currency: String,
}

/// Which Stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StripeMode {
    /// No reports.
    Off,
    /// The stand-in, started by this process if no `api_base` is given.
    Sandbox,
    /// Stripe's test mode.
    Test,
    /// Money.
    Live,
}

/// Somebody who may use the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminToken {
    /// For the audit log.
    pub name: String,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
    /// What it may do.
    pub role: Role,
}

/// What an admin token may do; each includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Billing actions.
    Billing,
    /// Everything.
    Admin,
}

/// A secret: never in a log or a `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
