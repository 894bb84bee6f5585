//! Nodes that do whatever the protocol lets happen to them, against a reference that counts along.

use std::collections::BTreeMap;

use tollgate::ledger::{Answer, Ask};

use super::{Fixture, ask};
use crate::random::Random;

const ACCOUNTS: u64 = 3;
const STEPS: usize = 1500;

pub(super) async fn random_histories_keep_the_cap_and_lose_none_of_it(fixture: Fixture) {
    let mut random = Random::seeded("random_histories");
    let mut world = World::new(&mut random);
    for _ in 0..STEPS {
        world.step(&fixture, &mut random).await;
        world.check();
    }
    world.calm(&fixture).await;
}

/// What a node knows of an account; the rules of the node's side of the protocol.
#[derive(Clone, Debug, Default)]
struct Part {
    /// Admitted and not ended, unit by unit cost.
    in_flight: Vec<u64>,
    /// In the journal: survives a crash.
    completed: u64,
    /// Of that, on the disk itself: what may be told.
    synced: u64,
    ceiling: u64,
    waiting: Option<u64>,
    recall: bool,
    plan: (u64, u64),
}

impl Part {
    fn spent(&self) -> u64 {
        self.completed + self.in_flight.iter().sum::<u64>()
    }
}

#[derive(Clone, Debug)]
struct Node {
    boot: u64,
    sent: u64,
    parts: BTreeMap<u64, Part>,
}

struct World {
    nodes: Vec<Node>,
    /// Version and cap of each account's plan now; and the highest cap it ever had.
    plans: BTreeMap<u64, (u64, u64, u64)>,
    /// Messages that were sent and may still arrive, again or for the first time.
    to_ledger: Vec<(usize, Ask)>,
    /// Answers that may still arrive.
    to_node: Vec<(usize, u64, Answer)>,
    /// The reference: what each (account, node) was last heard to say (ctr, used), and the newest plan heard.
    heard: BTreeMap<(u64, usize), (u64, u64)>,
    newest_plan: BTreeMap<u64, u64>,
}

impl World {
    fn new(random: &mut Random) -> Self {
        let plans = (1..=ACCOUNTS).map(|n| (n, 20 + random.below(60))).map(|(n, cap)| (n, (1, cap, cap))).collect();
        let node = Node { boot: 1, sent: 0, parts: BTreeMap::new() };
        let mut world = Self {
            nodes: vec![node; 3],
            plans,
            to_ledger: Vec::new(),
            to_node: Vec::new(),
            heard: BTreeMap::new(),
            newest_plan: BTreeMap::new(),
        };
        for n in 0..3 {
            for account in 1..=ACCOUNTS {
                world.hear_plan(n, account);
            }
        }
        world
    }

    fn hear_plan(&mut self, n: usize, account: u64) {
        let (version, cap, _) = self.plans[&account];
        self.part(n, account).plan = (version, cap);
    }

    fn part(&mut self, n: usize, account: u64) -> &mut Part {
        self.nodes[n].parts.entry(account).or_default()
    }

    async fn step(&mut self, fixture: &Fixture, random: &mut Random) {
        let (n, account) = (random.index(3), 1 + random.below(ACCOUNTS));
        match random.below(100) {
            0..40 => self.request(fixture, random, n, account).await,
            40..55 => self.end_one(random, n, account),
            55..65 => self.part(n, account).synced = self.part(n, account).completed,
            65..80 => self.beat(fixture, random, n, account).await,
            80..88 => self.deliver_late(fixture, random).await,
            88..92 => self.answer_late(random),
            92..94 => self.crash(n),
            94..96 => self.change_plan(random, account),
            96..98 => self.hear_plan(n, account),
            _ => fixture.pass(200),
        }
    }

    /// A client asks for up to five units; a node that lacks some settles once.
    async fn request(&mut self, fixture: &Fixture, random: &mut Random, n: usize, account: u64) {
        let cost = 1 + random.below(5);
        if !self.admit(n, account, cost) {
            let part = self.part(n, account);
            let need = (part.spent() + cost).saturating_sub(part.ceiling);
            self.settle(fixture, random, n, account, (need, need + 6)).await;
            self.admit(n, account, cost);
        }
    }

    fn admit(&mut self, n: usize, account: u64, cost: u64) -> bool {
        let part = self.part(n, account);
        let fits = part.spent() + cost <= part.ceiling;
        if fits {
            part.in_flight.push(cost);
        }
        fits
    }

    /// One exchange ends, for its cost or less.
    fn end_one(&mut self, random: &mut Random, n: usize, account: u64) {
        let part = self.part(n, account);
        if let Some(cost) = part.in_flight.pop() {
            part.completed += random.below(cost + 1);
        }
    }

    async fn beat(&mut self, fixture: &Fixture, random: &mut Random, n: usize, account: u64) {
        let want = random.below(20);
        self.settle(fixture, random, n, account, (0, want)).await;
    }

    async fn settle(&mut self, fixture: &Fixture, random: &mut Random, n: usize, account: u64, asked: (u64, u64)) {
        let ask = self.say(n, account, asked);
        if random.chance(20) {
            self.to_ledger.push((n, ask.clone()));
        }
        if random.chance(15) {
            return self.to_ledger.push((n, ask));
        }
        let answer = self.deliver(fixture, n, &ask).await;
        let boot = self.nodes[n].boot;
        if random.chance(20) {
            return self.to_node.push((n, boot, answer));
        }
        if random.chance(10) {
            self.to_node.push((n, boot, answer.clone()));
        }
        self.hear(n, account, &answer);
    }

    /// The node lowers first, then speaks; an older answer is no longer waited for.
    fn say(&mut self, n: usize, account: u64, asked: (u64, u64)) -> Ask {
        self.nodes[n].sent += 1;
        let ctr = (self.nodes[n].boot << 40) | self.nodes[n].sent;
        let part = self.part(n, account);
        if part.recall {
            part.ceiling = part.spent();
        }
        part.waiting = Some(ctr);
        let (version, cap) = part.plan;
        let ask = ask(ctr, (part.synced, part.ceiling), asked, (version, Some(cap)));
        Ask { account: super::account(account), ..ask }
    }

    /// The ledger's answer, held against the reference.
    async fn deliver(&mut self, fixture: &Fixture, n: usize, ask: &Ask) -> Answer {
        let answer = fixture.settle(n, std::slice::from_ref(ask)).await.remove(0);
        let account = ask.account.tenant.0;
        let heard = self.heard.entry((account, n)).or_default();
        if ask.ctr <= heard.0 {
            assert_eq!(answer, Answer::Old, "{ask:?} after {heard:?}");
            return answer;
        }
        *heard = (ask.ctr, heard.1.max(ask.used));
        let newest = self.newest_plan.entry(account).or_default();
        *newest = (*newest).max(ask.plan_version);
        let known = self.heard.iter().filter(|((of, _), _)| *of == account).map(|(_, (_, used))| used).sum::<u64>();
        let Answer::Settled { ctr, ceiling, used, plan_version, .. } = answer else { panic!("{ask:?} is new") };
        assert_eq!((ctr, used, plan_version), (ask.ctr, known, self.newest_plan[&account]));
        assert!(ceiling >= ask.hold, "a ledger never lowers a ceiling");
        answer
    }

    fn hear(&mut self, n: usize, account: u64, answer: &Answer) {
        let part = self.part(n, account);
        if let Answer::Settled { ctr, ceiling, recall, .. } = *answer
            && part.waiting == Some(ctr)
        {
            (part.ceiling, part.recall, part.waiting) = (ceiling, recall, None);
        }
    }

    async fn deliver_late(&mut self, fixture: &Fixture, random: &mut Random) {
        if !self.to_ledger.is_empty() {
            let (n, ask) = self.to_ledger.swap_remove(random.index(self.to_ledger.len()));
            let answer = self.deliver(fixture, n, &ask).await;
            self.to_node.push((n, ask.ctr >> 40, answer));
        }
    }

    fn answer_late(&mut self, random: &mut Random) {
        if !self.to_node.is_empty() {
            let (n, boot, answer) = self.to_node.swap_remove(random.index(self.to_node.len()));
            if boot == self.nodes[n].boot {
                (1..=ACCOUNTS).for_each(|account| self.hear(n, account, &answer));
            }
        }
    }

    /// SIGKILL: what is in flight is gone, what is completed is in the journal, the ceiling is forgotten.
    fn crash(&mut self, n: usize) {
        self.nodes[n].boot += 1;
        self.nodes[n].sent = 0;
        for account in 1..=ACCOUNTS {
            let part = self.part(n, account);
            let (completed, plan) = (part.completed, part.plan);
            *part = Part { completed, synced: completed, ceiling: completed, plan, ..Part::default() };
        }
    }

    fn change_plan(&mut self, random: &mut Random, account: u64) {
        let plan = self.plans.get_mut(&account).expect("every account has a plan");
        let cap = 20 + random.below(80);
        *plan = (plan.0 + 1, cap, plan.2.max(cap));
    }

    fn check(&mut self) {
        for (account, (_, _, highest)) in self.plans.clone() {
            let spent: u64 = (0..3).map(|n| self.part(n, account).spent()).sum();
            let held: u64 = (0..3).map(|n| self.part(n, account).ceiling).sum();
            assert!(spent <= held && held <= highest, "account {account}: {spent} spent, {held} held of {highest}");
        }
    }

    /// Faults stop, all hear the newest plan, exchanges end: the whole cap can be spent, by whoever asks.
    async fn calm(&mut self, fixture: &Fixture) {
        for n in 0..3 {
            for account in 1..=ACCOUNTS {
                self.hear_plan(n, account);
                let part = self.part(n, account);
                part.completed = part.spent();
                part.in_flight.clear();
                part.synced = part.completed;
                // On a change of plan a holder gives back: what it held may be of a higher cap.
                part.ceiling = part.completed;
            }
        }
        for account in 1..=ACCOUNTS {
            self.spend_the_rest(fixture, account).await;
        }
    }

    async fn spend_the_rest(&mut self, fixture: &Fixture, account: u64) {
        let (_, cap, _) = self.plans[&account];
        let before: u64 = (0..3).map(|n| self.part(n, account).spent()).sum();
        for _ in 0..cap + 10 {
            while self.admit(0, account, 1) {}
            for (n, need) in [(0, 1), (1, 0), (2, 0)] {
                let ask = self.say(n, account, (need, need));
                let answer = self.deliver(fixture, n, &ask).await;
                self.hear(n, account, &answer);
            }
            fixture.pass(60);
        }
        let spent: u64 = (0..3).map(|n| self.part(n, account).spent()).sum();
        assert_eq!(spent, cap.max(before), "account {account}: the whole cap can be spent");
    }
}
