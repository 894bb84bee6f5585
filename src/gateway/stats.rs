//! What one worker counts: plain numbers per request, handed to the metrics once a second.
//!
//! A histogram's samples are kept per bucket as count and sum, and handed on as so many samples of the bucket's mean:
//! the exported buckets and sums are the same as if each had been recorded by itself.

use std::time::Duration;

use http::StatusCode;
use metrics::{counter, histogram};

use super::{Refusal, Snapshot};
use crate::telemetry::{OVERHEAD_BUCKETS_S, REQUEST_BUCKETS_S};

/// Label of requests that were refused before their path was matched.
const NO_ROUTE: &str = "none";

/// Numbers since the last hand-over.
#[derive(Default)]
pub struct Stats {
    /// Names of routes change with the prices.
    version: u64,
    /// By route index; the last is for no route.
    routes: Vec<OfRoute>,
    refusals: Vec<(&'static str, u64)>,
    overhead: Samples,
    labels: Vec<std::sync::Arc<str>>,
}

#[derive(Default)]
struct OfRoute {
    /// By status and outcome; a route has few.
    requests: Vec<(u16, &'static str, u64)>,
    seconds: Samples,
}

/// Count and sum per bucket.
#[derive(Default)]
struct Samples(Vec<(u32, Duration)>);

impl Samples {
    fn add(&mut self, sample: Duration, bounds_s: &[f64]) {
        let bucket = bounds_s.partition_point(|bound| *bound < sample.as_secs_f64());
        if self.0.is_empty() {
            self.0.resize(bounds_s.len() + 1, (0, Duration::ZERO));
        }
        let (count, sum) = &mut self.0[bucket];
        *count += 1;
        *sum += sample;
    }

    fn hand_over(&mut self, histogram: &metrics::Histogram) {
        for (count, sum) in &mut self.0 {
            if *count > 0 {
                let mean = *sum / *count;
                histogram.record_many(mean, usize::try_from(*count).unwrap_or(usize::MAX));
                (*count, *sum) = (0, Duration::ZERO);
            }
        }
    }
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
        let of_route = self.route(snapshot, route);
        of_route.count(status, "forwarded");
        of_route.seconds.add(took, REQUEST_BUCKETS_S);
        self.overhead.add(took.saturating_sub(origin), OVERHEAD_BUCKETS_S);
    }

    /// A refusal of ours.
    pub fn refused(&mut self, snapshot: &Snapshot, route: Option<usize>, refusal: &Refusal) {
        self.route(snapshot, route).count(refusal.status(), "refused");
        let code = refusal.code();
        match self.refusals.iter_mut().find(|(of, _)| *of == code) {
            Some((_, count)) => *count += 1,
            None => self.refusals.push((code, 1)),
        }
    }

    fn route(&mut self, snapshot: &Snapshot, route: Option<usize>) -> &mut OfRoute {
        if self.version != snapshot.prices.version || self.routes.is_empty() {
            self.hand_over();
            self.version = snapshot.prices.version;
            self.labels.clone_from(&snapshot.route_labels);
            self.routes.clear();
            self.routes.resize_with(self.labels.len() + 1, OfRoute::default);
        }
        let last = self.routes.len() - 1;
        &mut self.routes[route.unwrap_or(last).min(last)]
    }

    /// Hands everything counted to the metrics.
    pub fn hand_over(&mut self) {
        for (index, of_route) in self.routes.iter_mut().enumerate() {
            if !of_route.requests.is_empty() {
                of_route.hand_over(self.labels.get(index).map_or(NO_ROUTE, |label| label));
            }
        }
        for (code, count) in self.refusals.drain(..) {
            counter!("tollgate_refusals_total", "code" => code).increment(count);
        }
        self.overhead.hand_over(&histogram!("tollgate_overhead_seconds"));
    }
}

impl OfRoute {
    fn count(&mut self, status: StatusCode, outcome: &'static str) {
        let key = (status.as_u16(), outcome);
        match self.requests.iter_mut().find(|(status, outcome, _)| (*status, *outcome) == key) {
            Some((_, _, count)) => *count += 1,
            None => self.requests.push((key.0, key.1, 1)),
        }
    }

    fn hand_over(&mut self, route: &str) {
        for (status, outcome, count) in self.requests.drain(..) {
            let (route, status) = (route.to_owned(), status.to_string());
            counter!("tollgate_requests_total", "route" => route, "status" => status, "outcome" => outcome)
                .increment(count);
        }
        self.seconds.hand_over(&histogram!("tollgate_request_seconds", "route" => route.to_owned()));
    }
}
