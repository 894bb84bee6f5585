//! Saying again what this node holds, to a ledger that has forgotten.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Node;
use crate::ledger::Answer;
use crate::units::Account;

/// Use older than this is in the records, if everything up to a later moment was shipped: more than a record waits for
/// the disk and for the shipper together, and than a clock is stepped.
const FLUSHED_AFTER_MS: i64 = 120_000;

impl Node {
    /// Keeps the settler from the ledger while the node enters a generation of it.
    pub(in crate::ledger) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Says of every account that `of` picks what this node holds and has used, and of those in `also` too; answers
    /// the accounts of which the ledger took no note.
    ///
    /// Left out is what a rebuilt ledger reads from the records itself: budgets that hold nothing and whose use has
    /// long been flushed.
    pub(in crate::ledger) async fn register(&self, of: impl Fn(&Account) -> bool, also: Vec<Account>) -> Vec<Account> {
        let since_ms = self.shipped_ms.load(Relaxed).min(self.parts.clock.now_ms()).saturating_sub(FLUSHED_AFTER_MS);
        let holders = self.budgets.iter().filter(|entry| of(entry.key()) && entry.is_loaded());
        let holders = holders.filter(|entry| !entry.is_at_rest(since_ms)).map(|entry| Arc::clone(entry.value()));
        let mut budgets: HashMap<_, _> = holders.map(|budget| (budget.account().clone(), budget)).collect();
        for account in also {
            // Its plan is told by the next request; until then it asks for nothing.
            let budget = self.budget(&account, 0, Some(0));
            budgets.insert(account, budget);
        }
        self.settle(&budgets.into_values().collect::<Vec<_>>()).await
    }

    /// What they have used is still to be said, also of those that are not used again.
    pub(super) fn say_again(&self, missed: Vec<Account>) -> Vec<Account> {
        self.active.lock().extend(missed.iter().cloned());
        missed
    }

    /// The fence moves on with every settle that the ledger took note of.
    pub(super) fn note_answered(&self, answers: &[Answer], sent: Duration) {
        if let Some(fence) = &self.fence
            && answers.iter().any(is_noted)
        {
            fence.answered(sent);
        }
    }
}

/// Whether the ledger counts what was said.
pub(super) fn is_noted(answer: &Answer) -> bool {
    match answer {
        Answer::Settled { .. } => true,
        Answer::Closed { noted } => *noted,
        Answer::Old => false,
    }
}
