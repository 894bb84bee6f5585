//! Configuration, prices and routes as requests see them; made whole, swapped whole.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use http::HeaderValue;

use super::identify;
use crate::accounts::Prices;
use crate::config::settings::{HostPattern, Identity, Settings, Upstream};
use crate::journal::Names;
use crate::meter::Terms;
use crate::units::NameId;
use crate::upstream::Origin;

/// What holds for one request from its head to its end.
#[derive(Debug)]
pub struct Snapshot {
    /// Meters, plans, routes and their version.
    pub prices: Arc<Prices>,
    /// By route index: the route's name in the journal.
    pub route_names: Vec<NameId>,
    /// By route index: the route's name as a metric's label.
    pub route_labels: Vec<Arc<str>>,
    /// By route index: `X-Tollgate-Cost` of a response that costs.
    pub costs: Vec<HeaderValue>,
    /// By route index.
    pub terms: Vec<Arc<Terms>>,
    /// By meter index: the meter's name in the journal.
    pub meter_names: Vec<NameId>,
    /// What routes without charges are filed under: the first meter.
    pub free_meter: NameId,
    /// How a tenant is recognised.
    pub identity: Identity,
    /// Where a 402 sends people.
    pub upgrade_url: Option<Arc<str>>,
    upstreams: Vec<Routed>,
}

/// An upstream and whose turn it is.
#[derive(Debug)]
pub struct Routed {
    /// As configured.
    pub settings: Upstream,
    origins: Vec<Origin>,
    turn: AtomicUsize,
}

impl Routed {
    /// The origins take turns.
    #[must_use]
    pub fn next_origin(&self) -> &Origin {
        let turn = match self.origins.len() {
            1 => 0,
            several => self.turn.fetch_add(1, Relaxed) % several,
        };
        &self.origins[turn]
    }
}

impl Snapshot {
    /// Interns names in this node's journal and orders the upstreams.
    ///
    /// # Errors
    /// When a new name cannot be written to the journal's directory.
    pub fn new(settings: &Settings, prices: Arc<Prices>, names: &Names) -> io::Result<Self> {
        let pricing = &prices.pricing;
        let routes = pricing.routes.routes();
        let meter_names = pricing.meters.iter().map(|m| names.intern(&m.name)).collect::<io::Result<Vec<_>>>()?;
        let terms = |charge_on, on_abort| Arc::new(Terms { charge_on, on_abort });
        Ok(Self {
            route_names: routes.iter().map(|r| names.intern(&r.name)).collect::<io::Result<_>>()?,
            route_labels: routes.iter().map(|route| Arc::clone(&route.name)).collect(),
            costs: routes.iter().map(|route| HeaderValue::from(route.bound())).collect(),
            terms: routes.iter().map(|route| terms(route.charge_on.clone(), route.on_abort)).collect(),
            free_meter: match meter_names.first() {
                Some(first) => *first,
                None => names.intern("none")?,
            },
            meter_names,
            identity: settings.identity.clone(),
            upgrade_url: settings.self_service.as_ref().map(|prefix| format!("{prefix}/plans").into()),
            upstreams: by_precision(&settings.upstreams),
            prices,
        })
    }

    /// The upstream for `host` (a port is ignored) and `path`: the most precise host, then the longest prefix.
    #[must_use]
    pub fn upstream(&self, host: &str, path: &str) -> Option<&Routed> {
        if let [only] = self.upstreams.as_slice()
            && only.settings.host == HostPattern::Any
            && only.settings.path == "/"
        {
            return Some(only);
        }
        let host = without_port(host);
        self.upstreams.iter().find(|one| serves_host(&one.settings.host, host) && serves_path(&one.settings.path, path))
    }

    /// Whether forwarding headers of `peer` are believed.
    #[must_use]
    pub fn is_trusted(&self, peer: IpAddr) -> bool {
        identify::is_trusted(&self.identity, peer)
    }
}

fn by_precision(upstreams: &[Upstream]) -> Vec<Routed> {
    let rank = |upstream: &Upstream| match &upstream.host {
        HostPattern::Exact(_) => (0, 0, usize::MAX - upstream.path.len()),
        HostPattern::Suffix(suffix) => (1, usize::MAX - suffix.len(), usize::MAX - upstream.path.len()),
        HostPattern::Any => (2, 0, usize::MAX - upstream.path.len()),
    };
    let mut sorted = upstreams.to_vec();
    sorted.sort_by_key(rank);
    let routed = |settings: Upstream| {
        let origins = settings.origins.iter().map(Origin::of).collect();
        Routed { settings, origins, turn: AtomicUsize::new(0) }
    };
    sorted.into_iter().map(routed).collect()
}

/// `host:port` and `[v6]:port` without the port (RFC 3986, section 3.2.2).
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => host.split(':').next().unwrap_or(host),
    }
}

fn serves_host(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(exact) => exact.eq_ignore_ascii_case(host),
        HostPattern::Suffix(suffix) => host
            .len()
            .checked_sub(suffix.len())
            .and_then(|at| host.get(at..))
            .is_some_and(|end| host.len() > suffix.len() && end.eq_ignore_ascii_case(suffix)),
    }
}

/// A prefix ends on a segment border: `/api` serves `/api` and `/api/x`, not `/apix`.
fn serves_path(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_without_port_and_case() {
        let exact = HostPattern::Exact("api.example.com".into());
        let suffix = HostPattern::Suffix(".example.com".into());
        assert!(serves_host(&exact, without_port("API.example.com:8080")));
        assert!(!serves_host(&exact, "example.com"));
        assert!(serves_host(&suffix, "a.b.example.com"));
        assert!(!serves_host(&suffix, ".example.com"));
        assert!(!serves_host(&suffix, "badexample.com"));
        assert_eq!(without_port("[2001:db8::1]:443"), "2001:db8::1");
    }

    #[test]
    fn prefixes_end_on_segment_borders() {
        let cases = [("/", "/x", true), ("/api", "/api", true), ("/api", "/api/x", true), ("/api", "/apix", false)];
        for (prefix, path, serves) in cases {
            assert_eq!(serves_path(prefix, path), serves, "{prefix} {path}");
        }
    }
}
