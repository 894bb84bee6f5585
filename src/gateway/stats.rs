//! Counters and histograms of one worker, with their handles kept: no look-up by name per request.

use std::collections::HashMap;
use std::time::Duration;

use http::StatusCode;
use metrics::{Counter, Histogram, counter, histogram};

use super::{Refusal, Snapshot};

/// Label of requests whose path matched no rule because it was refused before.
const NO_ROUTE: &str = "none";

/// Handles, made on first use.
#[derive(Default)]
pub struct Stats {
    /// Names of routes change with the prices: handles are kept for one version.
    version: u64,
    requests: HashMap<(Option<usize>, u16, &'static str), Counter>,
    refusals: HashMap<&'static str, Counter>,
    seconds: HashMap<Option<usize>, Histogram>,
    overhead: Option<Histogram>,
}

impl Stats {
    /// A response from an origin.
    pub fn answered(
        &mut self,
        snapshot: &Snapshot,
        route: Option<usize>,
        status: StatusCode,
        took: Duration,
        origin: Duration,
    ) {
        self.count(snapshot, route, status, "forwarded");
        let label = || label(snapshot, route);
        let seconds = self.seconds.entry(route);
        seconds.or_insert_with(|| histogram!("tollgate_request_seconds", "route" => label())).record(took);
        let overhead = self.overhead.get_or_insert_with(|| histogram!("tollgate_overhead_seconds"));
        overhead.record(took.saturating_sub(origin));
    }

    /// A refusal of ours.
    pub fn refused(&mut self, snapshot: &Snapshot, route: Option<usize>, refusal: &Refusal, _took: Duration) {
        self.count(snapshot, route, refusal.status(), "refused");
        let code = refusal.code();
        let refusals = self.refusals.entry(code);
        refusals.or_insert_with(|| counter!("tollgate_refusals_total", "code" => code)).increment(1);
    }

    fn count(&mut self, snapshot: &Snapshot, route: Option<usize>, status: StatusCode, outcome: &'static str) {
        if self.version != snapshot.prices.version {
            self.version = snapshot.prices.version;
            self.requests.clear();
            self.seconds.clear();
        }
        let fresh = || {
            let (route, status) = (label(snapshot, route), status.as_str().to_owned());
            counter!("tollgate_requests_total", "route" => route, "status" => status, "outcome" => outcome)
        };
        self.requests.entry((route, status.as_u16(), outcome)).or_insert_with(fresh).increment(1);
    }
}

fn label(snapshot: &Snapshot, route: Option<usize>) -> String {
    route.and_then(|index| snapshot.route_labels.get(index)).map_or(NO_ROUTE, |name| name).to_owned()
}
