//! Deliveries of events that are waiting for their endpoints.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::faults::Chance;
use super::shelf::Shelf;
use super::webhook_endpoints::Endpoint;

/// Deliveries waiting; beyond that the oldest are given up.
const MAX_WAITING: usize = 200_000;

/// How events are delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delivering {
    /// Nothing goes out while this is set.
    pub hold: bool,
    /// What waits goes out in any order.
    pub shuffle: bool,
    /// So many of 100 events are delivered twice.
    pub duplicate_percent: u8,
    /// The beginning of its chances: the same seed, the same order and the same duplicates.
    pub seed: u64,
    /// Pauses before each retry, milliseconds; as many retries.
    pub retry_ms: Vec<u64>,
}

impl Default for Delivering {
    /// In order, once, three retries within seconds. (Stripe's own retries of a test account are hours apart.)
    fn default() -> Self {
        Self { hold: false, shuffle: false, duplicate_percent: 0, seed: 1, retry_ms: vec![200, 1_000, 5_000] }
    }
}

/// One event for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) event: String,
    pub(super) endpoint: String,
    /// 0 for the first attempt.
    pub(super) attempt: usize,
}

/// What waits.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: VecDeque<Delivery>,
    /// Events with deliveries that were not acknowledged yet, and how many.
    pending: BTreeMap<String, usize>,
    delivering: Delivering,
    chance: Chance,
}

impl Outbox {
    pub(super) fn new() -> Self {
        let delivering = Delivering::default();
        let chance = Chance::new(delivering.seed);
        Self { waiting: VecDeque::new(), pending: BTreeMap::new(), delivering, chance }
    }

    /// Queues an event for every endpoint that wants its kind.
    pub(super) fn offer(&mut self, endpoints: &Shelf<Endpoint>, kind: &str, event: &str) {
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.wants(kind)) {
            let twice = self.chance.percent() < self.delivering.duplicate_percent;
            let delivery = Delivery { event: event.to_owned(), endpoint: endpoint.id.clone(), attempt: 0 };
            if twice {
                self.push(delivery.clone());
            }
            self.push(delivery);
        }
    }

    /// Queues one delivery, counted as pending until it [`Outbox::ended`].
    pub(super) fn push(&mut self, delivery: Delivery) {
        if self.waiting.len() >= MAX_WAITING
            && let Some(oldest) = self.waiting.pop_front()
        {
            tracing::warn!(event = %oldest.event, "too many deliveries wait: the oldest is given up");
            self.ended(&oldest);
        }
        *self.pending.entry(delivery.event.clone()).or_default() += 1;
        self.waiting.push_back(delivery);
    }

    /// Takes the next delivery, unless all are held.
    pub(super) fn next(&mut self) -> Option<Delivery> {
        if self.delivering.hold {
            return None;
        }
        if self.delivering.shuffle && self.waiting.len() > 1 {
            let n = self.chance.below(self.waiting.len());
            self.waiting.swap(0, n);
        }
        self.waiting.pop_front()
    }

    /// A delivery that failed waits once more.
    pub(super) fn again(&mut self, delivery: &Delivery) {
        self.waiting.push_back(Delivery { attempt: delivery.attempt + 1, ..delivery.clone() });
    }

    /// A delivery that was acknowledged in an earlier run.
    pub(super) fn forget(&mut self, event: &str, endpoint: &str) {
        let place = self.waiting.iter().position(|waiting| waiting.event == event && waiting.endpoint == endpoint);
        if let Some(delivery) = place.and_then(|place| self.waiting.remove(place)) {
            self.ended(&delivery);
        }
    }

    /// How many wait to go out.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A delivery was acknowledged, or given up.
    pub(super) fn ended(&mut self, delivery: &Delivery) {
        if let Some(left) = self.pending.get_mut(&delivery.event) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.pending.remove(&delivery.event);
            }
        }
    }

    /// Deliveries of an event that were not acknowledged yet.
    pub(super) fn pending(&self, event: &str) -> usize {
        self.pending.get(event).copied().unwrap_or_default()
    }

    /// Deliveries not acknowledged yet, of all events.
    pub(super) fn unfinished(&self) -> usize {
        self.pending.values().sum()
    }

    /// How long to wait before the next attempt; `None` when there is none.
    pub(super) fn retry_after_ms(&self, delivery: &Delivery) -> Option<u64> {
        self.delivering.retry_ms.get(delivery.attempt).copied()
    }

    pub(super) fn set(&mut self, delivering: Delivering) {
        self.chance = Chance::new(delivering.seed);
        self.delivering = delivering;
    }

    pub(super) fn delivering(&self) -> &Delivering {
        &self.delivering
    }
}
