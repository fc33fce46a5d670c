//! Network policy from the objects to the verdict, with no kernel: the centre's engine, the wire, the node's compiler and
//! the ladder of look-ups over maps of plain memory, against a reference that reads the objects themselves.
//!
//! Every single step is looked at: nothing may pass that neither the old nor the new state allows, and nothing may be
//! stopped that both allow.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

#[path = "policy/maps.rs"]
mod maps;
#[path = "policy/reference.rs"]
mod reference;
#[path = "policy/world.rs"]
mod world;

use std::{collections::BTreeMap, net::IpAddr};

use agent_ebpf_common::policy::{PolicyWord, Verdict};
use gantry_agent::{
    control::policy_update,
    policy::{Limits, Name, Step, Table, Wanted, compile},
};
use gantry_proto::node::v1 as pb;
use gantry_scheduler::policy::Engine;
use maps::Maps;
use prost::Message;
use reference::{Ask, Says};
use world::{Random, World};

const LIMITS: Limits =
    Limits { sets: 256, classes: 512, peers: 256, rules: 20_000, ranges: 20_000, prefixes: 256 };

struct Node {
    name: &'static str,
    wanted: Wanted,
    table: Table,
    maps: Maps,
}

type Verdicts = BTreeMap<Ask, Says>;

fn says(verdict: Verdict) -> Says {
    match verdict {
        Verdict::Open | Verdict::Allowed(_) => Says::Pass,
        Verdict::Audited => Says::Audit,
        Verdict::Denied(_) => Says::Deny,
    }
}

impl Node {
    fn new(name: &'static str) -> Self {
        let (table, maps) = (Table::new(LIMITS), Maps::default());
        Self { name, wanted: Wanted::default(), table, maps }
    }

    fn ask(&self, ask: &Ask) -> Verdict {
        let pod: Name = (ask.namespace.as_str().into(), ask.pod.as_str().into());
        let word = self.maps.pods.get(&pod).copied().unwrap_or(PolicyWord::UNKNOWN);
        let set = if ask.egress { word.egress } else { word.ingress };
        self.maps.verdict(set, ask.peer, ask.proto, ask.port)
    }

    fn told(&mut self, updates: &[pb::Update]) {
        for update in updates {
            let told = pb::Update::decode(update.encode_to_vec().as_slice()).unwrap();
            assert!(policy_update(&mut self.wanted, &told).unwrap(), "{told:?}");
        }
    }

    /// All steps, each looked at; `until`: as many, then the agent is killed.
    fn follow(&mut self, old: &Verdicts, new: &Verdicts, until: usize) -> bool {
        let outcome = self.table.plan(&compile(&self.wanted)).unwrap();
        assert!(outcome.unready.is_empty(), "{:?}", outcome.unready);
        let all = outcome.steps.len();
        for (number, step) in outcome.steps.iter().enumerate().take(until) {
            self.maps.apply(step);
            if *step == Step::Grace {
                continue;
            }
            for (ask, will) in new {
                let was = old.get(ask).copied().unwrap_or(Says::Deny);
                let passes = self.ask(ask).passes();
                let at = || {
                    format!(
                        "{ask:?}, was {was:?}, will {will:?}, after step {number} of {:#?}",
                        outcome.steps
                    )
                };
                assert!(!passes || was.passes() || will.passes(), "opened: {}", at());
                assert!(passes || !was.passes() || !will.passes(), "closed: {}", at());
            }
        }
        until >= all
    }
}

fn verdicts(world: &World, node: &str) -> Verdicts {
    let asks = world.asks(node).into_iter();
    asks.map(|ask| (ask.clone(), reference::judge(world, &ask))).collect()
}

/// How many verdicts were compared.
fn history(seed: u64, changes: usize, seen: &mut BTreeMap<Says, usize>) -> usize {
    let mut random = Random(seed);
    let (mut engine, mut world) = (Engine::default(), World::default());
    let mut nodes = [Node::new("n1"), Node::new("n2")];
    let mut compared = 0;
    let mut before: [Verdicts; 2] = [Verdicts::new(), Verdicts::new()];
    for change in 0..changes {
        // Several changes at once reach a node now and then.
        let count = if change == 0 { 12 } else { 1 + random.below(3) };
        for _ in 0..count {
            world.change(&mut random, &mut engine);
        }
        let updates = engine.drain();
        for (node, before) in nodes.iter_mut().zip(&mut before) {
            node.told(updates.get(node.name).map_or(&[], Vec::as_slice));
            let new = verdicts(&world, node.name);
            let kill = random.below(4) == 0;
            let until = if kill { random.below(30) } else { usize::MAX };
            let mut done = node.follow(before, &new, until);
            if kill {
                // Between any two steps, and a new agent that knows what the maps say.
                node.table = Table::seeded(LIMITS, node.maps.standing());
                done = node.follow(before, &new, usize::MAX);
            }
            assert!(done);
            for (ask, will) in &new {
                let verdict = node.ask(ask);
                assert_eq!(says(verdict), *will, "seed {seed}, change {change}: {ask:?} {:#?}", node.wanted);
                if let Verdict::Allowed(number) = verdict {
                    let rule = node.table.rule(number).expect("a rule that is named exists");
                    assert!(
                        reference::rule_allows(&world, ask, &rule.policy, rule.number),
                        "{rule:?} {ask:?}"
                    );
                }
                *seen.entry(*will).or_default() += 1;
                compared += 1;
            }
            // Nothing is left of what was before.
            let again = node.table.plan(&compile(&node.wanted)).unwrap();
            assert_eq!(again.steps, [], "a plan of equal states is empty");
            *before = new;
        }
    }
    compared
}

#[test]
fn three_hundred_thousand_verdicts_are_those_of_the_reference() {
    let (mut compared, mut seed, mut seen) = (0, 0, BTreeMap::new());
    while compared < 300_000 {
        compared += history(seed, 12, &mut seen);
        seed += 1;
    }
    println!("{compared} verdicts over {seed} histories: {seen:?}");
    assert!(seen.len() == 3 && seen.values().all(|count| *count > 1_000), "all kinds of verdicts: {seen:?}");
}

/// The pair is judged by family alone where blocks are meant, and by pod where pods are.
#[test]
fn both_families_are_asked_about() {
    let mut random = Random(7);
    let (mut engine, mut world) = (Engine::default(), World::default());
    (0..40).for_each(|_| world.change(&mut random, &mut engine));
    let asks = world.asks("n1");
    let count = |v6: bool| asks.iter().filter(|ask| matches!(ask.peer, IpAddr::V6(_)) == v6).count();
    assert!(count(true) > 100 && count(false) > 100);
}
