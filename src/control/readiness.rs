//! What must hold before this node may take traffic, as named conditions that their owners report on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// All conditions of this node. Cheap to clone; clones share the conditions.
///
/// A condition is missing from the moment it is registered until its owner says otherwise, so a part that has not
/// started yet keeps the node from being ready.
#[derive(Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<&'static str, State>>>,
}

/// Whether a condition holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Met,
    Missing(String),
}

impl Readiness {
    /// No conditions: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the condition `name`, missing until [`Condition::met`]; registering a name again starts it afresh.
    #[must_use = "the condition stays missing until its handle says that it is met"]
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition { name, all: self.clone() };
        condition.missing("starting");
        condition
    }

    /// Every condition that does not hold, by name, with what is wrong; empty = ready.
    #[must_use]
    pub fn missing(&self) -> BTreeMap<&'static str, String> {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions
            .iter()
            .filter_map(|(name, state)| match state {
                State::Met => None,
                State::Missing(why) => Some((*name, why.clone())),
            })
            .collect()
    }

    fn set(&self, name: &'static str, state: State) {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).insert(name, state);
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("missing", &self.missing()).finish()
    }
}

/// The owner's handle on one condition.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    all: Readiness,
}

impl Condition {
    /// It holds now.
    pub fn met(&self) {
        self.all.set(self.name, State::Met);
    }

    /// It does not hold, because of `why` (shown to operators).
    pub fn missing(&self, why: impl Into<String>) {
        self.all.set(self.name, State::Missing(why.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_while_every_condition_is_met() {
        let readiness = Readiness::new();
        assert!(readiness.missing().is_empty());
        let records = readiness.condition("records");
        let journal = readiness.condition("journal");
        records.met();
        assert_eq!(readiness.missing(), BTreeMap::from([("journal", "starting".to_owned())]));
        journal.met();
        assert!(readiness.missing().is_empty());
        journal.missing("the disk is full");
        assert_eq!(readiness.missing(), BTreeMap::from([("journal", "the disk is full".to_owned())]));
    }
}
