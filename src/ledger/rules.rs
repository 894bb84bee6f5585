//! What a settle does to one account: the rules that every ledger follows, without I/O or a clock.
//!
//! Two facts carry the cap. A node's ceiling here is never below what that node holds, since it rises here before the
//! node hears of it and falls here only after the node has lowered its own. And after a grant the ceilings of all nodes
//! together are at most the cap.

use std::collections::BTreeMap;

use super::{Answer, Ask};
use crate::units::NodeId;

/// How long holders are asked to give back what they have not spent after a node went short, milliseconds.
pub const HUNGER_MS: i64 = 1_000;

/// One account as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountState {
    /// Version of the plan that `cap` is from; 0 until a node has said one.
    pub plan_version: u64,
    /// Hard cap in units; `None` = none.
    pub cap: Option<u64>,
    /// A node was short; until then all others are asked to give back. Unix milliseconds.
    pub hungry_until_ms: i64,
    /// Whose need is gathered first.
    pub turn: Option<Turn>,
    /// Every node that ever used the account.
    pub holds: BTreeMap<NodeId, Hold>,
}

/// A node that got less than it needs, though together the others hold enough. What is given back is kept for it:
/// otherwise two nodes that need five each, with six left, would hold three each and refuse for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose turn.
    pub node: NodeId,
    /// Units it still lacks.
    pub lack: u64,
    /// The turn's end, Unix milliseconds; then another node's turn comes before its next.
    pub until_ms: i64,
}

/// One node's part of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// Units it has used.
    pub used: u64,
    /// Up to so many it may use; `>= used`.
    pub ceiling: u64,
    /// Last settle that was applied.
    pub ctr: u64,
}

impl AccountState {
    /// An account at its first settle: nodes hold nothing but what they have flushed.
    #[must_use]
    pub fn begin(flushed: impl IntoIterator<Item = (NodeId, u64)>) -> Self {
        let hold = |total| Hold { used: total, ceiling: total, ctr: 0 };
        Self {
            plan_version: 0,
            cap: Some(0),
            hungry_until_ms: 0,
            turn: None,
            holds: flushed.into_iter().map(|(node, total)| (node, hold(total))).collect(),
        }
    }

    /// Units used by all nodes.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.holds.values().fold(0, |sum, hold| sum.saturating_add(hold.used))
    }

    /// Units that nodes may use, all together: `<= cap` after every grant.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.holds.values().fold(0, |sum, hold| sum.saturating_add(hold.ceiling))
    }

    /// Units that would be free for `node` if all others gave back what they have not used.
    fn within_reach(&self, node: &NodeId, cap: u64) -> u64 {
        let kept = |(other, hold): (&NodeId, &Hold)| if other == node { hold.ceiling } else { hold.used };
        self.holds.iter().map(kept).fold(cap, u64::saturating_sub)
    }

    /// Units kept from `node` because it is another's turn.
    fn kept_for_others(&self, node: &NodeId, cap: u64, now_ms: i64) -> u64 {
        let turn = self.turn.as_ref().filter(|turn| turn.node != *node && now_ms < turn.until_ms);
        turn.filter(|turn| turn.lack <= self.within_reach(&turn.node, cap)).map_or(0, |turn| turn.lack)
    }

    fn grant(&self, node: &NodeId, ask: &Ask, cap: u64, now_ms: i64, nodes: u32) -> u64 {
        let free = cap.saturating_sub(self.held()).saturating_sub(self.kept_for_others(node, cap, now_ms));
        // Shares shrink as the cap comes near, so that the last units are not spread over holders in vain.
        let share = if nodes <= 1 { free } else { ask.need.max(free / (2 * u64::from(nodes))) };
        ask.want.max(ask.need).min(free).min(share)
    }

    /// Notes whether `node` is still short of `lack` units.
    fn note_hunger(&mut self, node: &NodeId, lack: u64, cap: u64, now_ms: i64) {
        if lack > 0 {
            self.hungry_until_ms = now_ms.saturating_add(HUNGER_MS);
        }
        let wanted = lack > 0 && lack <= self.within_reach(node, cap);
        match &mut self.turn {
            Some(turn) if turn.node == *node && !wanted => self.turn = None,
            Some(turn) if turn.node == *node && now_ms < turn.until_ms => turn.lack = lack,
            Some(turn) if now_ms < turn.free_for(node) => {}
            Some(_) | None if wanted => {
                let until_ms = now_ms.saturating_add(HUNGER_MS);
                self.turn = Some(Turn { node: node.clone(), lack, until_ms });
            }
            Some(_) | None => {}
        }
    }

    fn recalls(&self, node: &NodeId, now_ms: i64) -> bool {
        let own_turn = self.turn.as_ref().is_some_and(|turn| turn.node == *node && now_ms < turn.until_ms);
        now_ms < self.hungry_until_ms && !own_turn
    }
}

impl Turn {
    /// From when `node` may have the next turn: another at the end of this one, its owner a turn's length later.
    fn free_for(&self, node: &NodeId) -> i64 {
        if self.node == *node { self.until_ms.saturating_add(HUNGER_MS) } else { self.until_ms }
    }
}

/// Applies what `node` says about an account at `now_ms`, with `nodes` nodes alive.
///
/// Only a `ctr` above the last one changes anything: a message that comes twice, late or out of order is
/// [`Answer::Old`].
pub fn settle_account(state: &mut AccountState, node: &NodeId, ask: &Ask, now_ms: i64, nodes: u32) -> Answer {
    if state.holds.get(node).is_some_and(|hold| ask.ctr <= hold.ctr) {
        return Answer::Old;
    }
    if ask.plan_version > state.plan_version || state.plan_version == 0 {
        (state.plan_version, state.cap) = (ask.plan_version, ask.cap);
    }
    let hold = state.holds.entry(node.clone()).or_default();
    hold.ctr = ask.ctr;
    hold.used = hold.used.max(ask.used);
    match state.cap {
        Some(cap) => capped(state, node, ask, cap, now_ms, nodes),
        None => uncapped(state, node, ask),
    }
}

fn capped(state: &mut AccountState, node: &NodeId, ask: &Ask, cap: u64, now_ms: i64, nodes: u32) -> Answer {
    let held = set_ceiling(state, node, ask.hold);
    let granted = state.grant(node, ask, cap, now_ms, nodes);
    let ceiling = set_ceiling(state, node, held.saturating_add(granted));
    state.note_hunger(node, ask.need.saturating_sub(granted), cap, now_ms);
    let used = state.used();
    Answer::Settled {
        ctr: ask.ctr,
        ceiling,
        used,
        plan_version: state.plan_version,
        recall: state.recalls(node, now_ms),
        exhausted: used >= cap,
    }
}

/// Nothing is granted where nothing is limited: only use is kept, for the day when a cap comes.
fn uncapped(state: &mut AccountState, node: &NodeId, ask: &Ask) -> Answer {
    set_ceiling(state, node, 0);
    state.turn = None;
    Answer::Settled {
        ctr: ask.ctr,
        ceiling: u64::MAX,
        used: state.used(),
        plan_version: state.plan_version,
        recall: false,
        exhausted: false,
    }
}

/// A ceiling is never below what is used.
fn set_ceiling(state: &mut AccountState, node: &NodeId, ceiling: u64) -> u64 {
    let hold = state.holds.entry(node.clone()).or_default();
    hold.ceiling = ceiling.max(hold.used);
    hold.ceiling
}
