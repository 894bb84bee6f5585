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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Account, PeriodId, TenantNum};

    /// A ledger of one account with cap 100 and two live nodes, and what it is asked in turn.
    struct Game {
        state: AccountState,
        now_ms: i64,
        nodes: u32,
        ctr: u64,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Got {
        ceiling: u64,
        used: u64,
        recall: bool,
        exhausted: bool,
    }

    fn node(name: &str) -> NodeId {
        NodeId(name.into())
    }

    fn ask(ctr: u64, (used, hold): (u64, u64), (need, want): (u64, u64), plan: (u64, Option<u64>)) -> Ask {
        let account = Account { tenant: TenantNum(1), period: PeriodId(0), meter: "m".into() };
        Ask { account, ctr, used, hold, need, want, plan_version: plan.0, cap: plan.1 }
    }

    impl Game {
        fn new() -> Self {
            Self { state: AccountState::begin([]), now_ms: 0, nodes: 2, ctr: 0 }
        }

        fn says(&mut self, name: &str, ask: &Ask) -> Answer {
            settle_account(&mut self.state, &node(name), ask, self.now_ms, self.nodes)
        }

        /// `name` has used so much, holds so much, and asks for so much, on plan version 1 with cap 100.
        fn settles(&mut self, name: &str, numbers: (u64, u64), need: u64, want: u64) -> Got {
            self.on_plan(name, numbers, (need, want), (1, Some(100)))
        }

        fn on_plan(&mut self, name: &str, numbers: (u64, u64), asked: (u64, u64), plan: (u64, Option<u64>)) -> Got {
            self.ctr += 1;
            match self.says(name, &ask(self.ctr, numbers, asked, plan)) {
                Answer::Settled { ceiling, used, recall, exhausted, .. } => Got { ceiling, used, recall, exhausted },
                Answer::Old => panic!("a new ctr is never old"),
                Answer::Closed { .. } => panic!("the rules know no generations"),
            }
        }
    }

    #[test]
    fn grants_shrink_towards_the_cap_and_need_reaches_the_last_unit() {
        let mut game = Game::new();
        assert_eq!(game.settles("a", (0, 0), 1, 1000).ceiling, 25);
        assert_eq!(game.settles("b", (0, 0), 1, 1000).ceiling, 18);
        assert_eq!(game.settles("a", (25, 25), 50, 1000).ceiling, 75);
        assert_eq!(game.settles("b", (18, 18), 0, 1000).ceiling, 19, "a quarter of 7");
        assert_eq!(game.settles("a", (75, 75), 6, 6), Got { ceiling: 81, used: 93, recall: false, exhausted: false });
        assert_eq!(game.settles("b", (19, 19), 0, 9), Got { ceiling: 19, used: 94, recall: false, exhausted: false });
        let last = game.settles("a", (81, 81), 1, 1);
        assert_eq!((last.ceiling, last.exhausted), (81, true));
    }

    #[test]
    fn a_lone_node_gets_what_it_wants() {
        let mut game = Game { nodes: 1, ..Game::new() };
        assert_eq!(game.settles("a", (0, 0), 0, 60).ceiling, 60);
        assert_eq!(game.settles("a", (10, 60), 0, 60).ceiling, 100);
        assert_eq!(game.settles("a", (20, 20), 90, 10).ceiling, 100, "want is never less than need");
        game.nodes = 0;
        assert_eq!(game.settles("a", (20, 20), 0, 5).ceiling, 25, "nobody registered is one node");
    }

    #[test]
    fn only_a_newer_message_counts() {
        let mut game = Game::new();
        let second = ask(2, (5, 30), (0, 0), (1, Some(100)));
        assert!(matches!(game.says("a", &second), Answer::Settled { ctr: 2, ceiling: 30, .. }));
        let after = game.state.clone();
        for late in [second, ask(1, (0, 99), (50, 50), (9, Some(1)))] {
            assert_eq!(game.says("a", &late), Answer::Old);
            assert_eq!(game.state, after);
        }
        let other_node = ask(1, (0, 0), (1, 1), (1, Some(100)));
        assert!(matches!(game.says("b", &other_node), Answer::Settled { .. }));
    }

    #[test]
    fn use_never_falls_and_a_ceiling_covers_it() {
        let mut game = Game::new();
        assert_eq!(game.settles("a", (10, 40), 0, 0).ceiling, 40);
        let back = game.settles("a", (5, 3), 0, 0);
        assert_eq!((back.ceiling, back.used), (10, 10));
    }

    #[test]
    fn what_was_flushed_is_held_by_those_who_flushed_it() {
        let state = AccountState::begin([(node("a"), 30), (node("gone"), 65)]);
        let mut game = Game { state, ..Game::new() };
        assert_eq!(game.settles("b", (0, 0), 10, 10), Got { ceiling: 5, used: 95, recall: true, exhausted: false });
    }

    #[test]
    fn the_highest_plan_version_wins() {
        let mut game = Game::new();
        game.settles("a", (0, 0), 10, 10);
        assert_eq!(game.on_plan("b", (0, 0), (5, 5), (3, Some(12))).ceiling, 2);
        assert_eq!(game.on_plan("a", (10, 10), (5, 5), (2, Some(100))).ceiling, 10, "an older plan changes nothing");
        assert_eq!(game.on_plan("a", (10, 10), (5, 5), (3, Some(100))).ceiling, 10, "nor the same version again");
        assert_eq!(game.on_plan("a", (10, 10), (5, 5), (4, Some(100))).ceiling, 15);
    }

    #[test]
    fn after_a_downgrade_nothing_is_granted_until_enough_is_given_back() {
        let mut game = Game { nodes: 1, ..Game::new() };
        game.settles("a", (0, 0), 0, 50);
        assert_eq!(
            game.on_plan("b", (0, 0), (5, 5), (2, Some(20))),
            Got { ceiling: 0, used: 0, recall: false, exhausted: false }
        );
        assert_eq!(game.on_plan("a", (10, 50), (0, 0), (2, Some(20))).ceiling, 50, "its ceiling is its own to lower");
        assert!(game.on_plan("a", (10, 50), (0, 0), (2, Some(20))).recall);
        assert_eq!(game.on_plan("a", (10, 10), (0, 0), (2, Some(20))).ceiling, 10);
        assert_eq!(game.on_plan("b", (0, 0), (5, 5), (2, Some(20))).ceiling, 5);
    }

    #[test]
    fn without_a_cap_only_use_is_kept() {
        let mut game = Game::new();
        let free = game.on_plan("a", (7, u64::MAX), (5, 500), (1, None));
        assert_eq!(free, Got { ceiling: u64::MAX, used: 7, recall: false, exhausted: false });
        assert_eq!(game.state.held(), 7);
        let other = game.on_plan("b", (0, 0), (90, 90), (2, Some(100)));
        assert_eq!((other.ceiling, other.used), (90, 7));
        let unlimited = game.on_plan("a", (9, u64::MAX), (0, 0), (1, None));
        assert_eq!(unlimited.ceiling, u64::MAX, "what it believes it holds is charged to it");
        assert_eq!(game.on_plan("b", (90, 90), (1, 1), (2, Some(100))).ceiling, 90);
    }

    #[test]
    fn a_short_node_has_the_others_recalled_for_a_second() {
        let mut game = Game::new();
        game.settles("a", (0, 90), 0, 0);
        assert_eq!(game.settles("b", (0, 0), 20, 20), Got { ceiling: 10, used: 0, recall: false, exhausted: false });
        assert!(game.settles("a", (0, 90), 0, 0).recall);
        game.now_ms = HUNGER_MS;
        assert!(!game.settles("a", (0, 90), 0, 0).recall);
    }

    #[test]
    fn two_nodes_short_of_more_than_half_the_rest_do_not_block_each_other() {
        let mut game = Game::new();
        game.settles("a", (47, 47), 0, 0);
        game.settles("b", (47, 50), 0, 0);
        assert_eq!(game.settles("a", (47, 47), 5, 5).ceiling, 50, "three of the five");
        assert_eq!(
            game.settles("b", (47, 47), 5, 5).ceiling,
            48,
            "not its turn: two of the three it gives back are kept"
        );
        assert_eq!(game.settles("a", (47, 50), 2, 2).ceiling, 52, "served");
        assert_eq!(game.settles("b", (47, 47), 1, 1).ceiling, 48, "and the last one is for the other");
    }

    #[test]
    fn a_need_that_cannot_be_met_keeps_nothing_from_others() {
        let mut game = Game::new();
        game.settles("a", (97, 97), 5, 5);
        assert_eq!(game.state.turn, None);
        assert_eq!(game.settles("a", (97, 97), 0, 0).ceiling, 97);
        assert_eq!(game.settles("b", (0, 0), 1, 1).ceiling, 1);
    }

    #[test]
    fn a_turn_passes_on_when_its_time_is_over() {
        let mut game = Game::new();
        game.settles("dead", (0, 60), 0, 0);
        game.settles("a", (20, 20), 0, 0);
        game.settles("b", (10, 10), 0, 0);
        let turn_of = |game: &Game| game.state.turn.clone().map(|turn| turn.node);
        assert_eq!(game.settles("a", (20, 20), 30, 30).ceiling, 30);
        assert_eq!(turn_of(&game), Some(node("a")));
        assert_eq!(game.settles("a", (20, 20), 0, 0).ceiling, 20);
        assert_eq!(turn_of(&game), None, "who needs nothing has no turn");
        game.settles("a", (20, 20), 30, 30);
        assert_eq!(game.settles("b", (10, 10), 15, 15).ceiling, 10);
        game.now_ms = HUNGER_MS;
        assert_eq!(game.settles("a", (20, 30), 20, 20).ceiling, 30);
        assert_eq!(game.settles("a", (20, 20), 0, 0).ceiling, 20);
        assert_eq!(game.settles("b", (10, 10), 10, 10).ceiling, 20, "all that the dead node does not hold");
    }
}
