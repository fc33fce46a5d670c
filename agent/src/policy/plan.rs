//! From what stands to what should stand, write by write.
//!
//! A pod that moves to another set and a peer that moves to another class are two writes, and what the old set says of
//! the new class, or the new set of the old one, would be what nobody ever wanted. So sets that go see no peer change, and
//! sets that come see no peer of before: while both kinds of change happen at once, a peer has a class of its own, which to
//! the sets that go is what it was, and to all others is what it will be. Every pair of a pod and a peer therefore passes
//! from the old verdict to the new one in one store:
//!
//! 0. Pods that leave a set which others keep, when peers change to it: they get a copy of it, which goes.
//! 1. Entries of new classes and sets, then heads, then the classes of addresses.
//! 2. The words of pods.
//! 3. The last classes of addresses that had one for the transition.
//! 4. After a grace period in which programs end that have read anything of before: what nothing leads to is removed.

mod writes;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use agent_ebpf_common::policy::{NO_SET, PolicyWord, RangeKey, RuleKey, SetHead, WORLD_CLASS};
use ipnet::IpNet;

use super::{
    Compiled, Name, Table, Unready,
    classes::{Signature, digest, longest},
    compile::Addresses,
    sets::Content,
    table::{Numbered, Set},
};

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Inserts a rule, or deletes it.
    Rule(RuleKey, Option<u32>),
    /// The same of a range, with the bits of the port that count.
    Range(RangeKey, u8, Option<u32>),
    /// Stores a set's head, the word after the digest.
    Head(u32, SetHead),
    /// Stores a class's digest.
    Class(u32, u64),
    /// Stores a peer's word.
    PeerWord {
        /// Where.
        index: u32,
        /// Whose word it is.
        address: IpAddr,
        /// Its class.
        class: u32,
    },
    /// Inserts an address that leads to an index, or deletes it.
    Peer(IpAddr, Option<u32>),
    /// Inserts or replaces a prefix, or deletes it.
    World(IpNet, Option<u32>),
    /// Stores a pod's word, both directions at once.
    Pod(Name, PolicyWord),
    /// Waits until every program has ended that ran before.
    Grace,
}

/// What a plan comes to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// To be done in this order. Who cannot do one takes the maps over anew ([`Table::seeded`]).
    pub steps: Vec<Step>,
    /// Pods that keep what they have, and are not to be started while they have nothing.
    pub unready: BTreeMap<Name, Unready>,
}

/// A map is too small, whatever is left out. Everything stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("network policy does not fit into the node's {0}")]
pub struct Full(pub &'static str);

/// An address or prefix that becomes another class.
struct Change {
    net: IpNet,
    exact: bool,
    old: u32,
    through: u32,
    new: u32,
}

impl Table {
    /// How to get to `compiled`. All steps count as done. A set that does not fit is left out, the largest first: its pods
    /// keep what they have.
    pub fn plan(&mut self, compiled: &Compiled) -> Result<Outcome, Full> {
        let mut left_out = BTreeSet::new();
        loop {
            let mut plan = Plan::new(self.clone(), self, compiled, &left_out);
            match plan.make() {
                Ok(()) => {
                    let Plan { next, steps, unready, .. } = plan;
                    *self = next;
                    return Ok(Outcome { steps, unready });
                }
                Err(full) => {
                    let largest = plan.fresh().max_by_key(|content| content.entries.len());
                    if !left_out.insert(largest.ok_or(full)?) {
                        return Err(full);
                    }
                }
            }
        }
    }
}

struct Plan<'a> {
    next: Table,
    old: &'a Table,
    compiled: &'a Compiled,
    unready: BTreeMap<Name, Unready>,
    /// Content and numbers of the sets that pods are to have.
    wanted: BTreeMap<Arc<Content>, u32>,
    /// Sets that nothing leads to at the end.
    going: BTreeSet<u32>,
    new_sets: BTreeSet<u32>,
    changes: Vec<Change>,
    steps: Vec<Step>,
}

impl<'a> Plan<'a> {
    fn new(next: Table, old: &'a Table, compiled: &'a Compiled, left_out: &BTreeSet<Arc<Content>>) -> Self {
        let mut unready = compiled.unready.clone();
        let full = compiled.pods.iter().filter(|(_, sets)| sets.both().any(|set| left_out.contains(set)));
        unready.extend(full.map(|(name, _)| (name.clone(), Unready::Full)));
        Self {
            next,
            old,
            compiled,
            unready,
            wanted: BTreeMap::new(),
            going: BTreeSet::new(),
            new_sets: BTreeSet::new(),
            changes: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// What was to be made anew.
    fn fresh(&self) -> impl Iterator<Item = Arc<Content>> {
        let ready = self.compiled.pods.iter().filter(|(name, _)| !self.unready.contains_key(*name));
        let known: BTreeSet<&Arc<Content>> =
            self.old.sets.values().filter_map(|s| s.content.as_ref()).collect();
        ready.flat_map(|(_, sets)| sets.both()).filter(move |content| !known.contains(content)).cloned()
    }

    fn make(&mut self) -> Result<(), Full> {
        let ready: Vec<Arc<Content>> = {
            let pods = self.compiled.pods.iter().filter(|(name, _)| !self.unready.contains_key(*name));
            pods.flat_map(|(_, sets)| sets.both()).cloned().collect::<BTreeSet<_>>().into_iter().collect()
        };
        let held: BTreeSet<u32> = {
            let words = self.unready.keys().filter_map(|pod| self.old.pods.get(pod));
            words.flat_map(|word| [word.ingress, word.egress]).collect()
        };
        let kept = held.iter().filter_map(|set| self.old.sets.get(set)?.content.as_ref());
        let Addresses { peers, prefixes } = self.compiled.addresses(ready.iter().chain(kept));
        let mut live = BTreeSet::new();
        for signature in peers.values().chain(prefixes.values()) {
            live.insert(self.next.class(signature).ok_or(Full("classes"))?);
        }
        self.choose_sets(ready, &held)?;
        self.find_changes(&peers, &prefixes)?;
        let words = self.words();
        self.copy_for_leavers(&words)?;
        self.find_ways_through()?;
        self.write_entries(&live);
        self.switch_addresses()?;
        self.switch_pods(words);
        self.finish_addresses(&peers, &prefixes);
        self.check_sizes()?;
        self.remove(&live);
        Ok(())
    }

    fn choose_sets(&mut self, ready: Vec<Arc<Content>>, held: &BTreeSet<u32>) -> Result<(), Full> {
        for content in ready {
            let number = match self.next.set(&content) {
                Some(number) => number,
                None => {
                    let number = self.next.free_set().ok_or(Full("sets"))?;
                    let head = SetHead::new(number, content.bits(), digest(&content));
                    let set = Set { content: Some(Arc::clone(&content)), head, entries: BTreeMap::new() };
                    self.next.sets.insert(number, set);
                    self.new_sets.insert(number);
                    number
                }
            };
            self.wanted.insert(content, number);
        }
        let stays: BTreeSet<u32> = self.wanted.values().chain(held).copied().collect();
        self.going = self.old.sets.keys().filter(|number| !stays.contains(number)).copied().collect();
        Ok(())
    }

    fn find_changes(
        &mut self,
        peers: &BTreeMap<IpAddr, Signature>,
        prefixes: &BTreeMap<IpNet, Signature>,
    ) -> Result<(), Full> {
        let nothing: Signature = Arc::from([]);
        let of_prefix = |net: &IpNet| longest(prefixes, net).unwrap_or(&nothing);
        let exact: BTreeSet<IpAddr> = self.old.peers.keys().chain(peers.keys()).copied().collect();
        for address in exact {
            let net = IpNet::from(address);
            let signature = peers.get(&address).unwrap_or_else(|| of_prefix(&net));
            let (old, new) = (self.old.class_of(&net), self.next.class(signature).ok_or(Full("classes"))?);
            self.changes.push(Change { net, exact: true, old, through: new, new });
        }
        // The longest first: one that comes between an address and the world must not be seen by what it excepts.
        let mut nets: Vec<IpNet> = self.old.prefixes.keys().chain(prefixes.keys()).copied().collect();
        nets.sort_by_key(|net| std::cmp::Reverse((net.prefix_len(), *net)));
        nets.dedup();
        for net in nets {
            let new = self.next.class(of_prefix(&net)).ok_or(Full("classes"))?;
            self.changes.push(Change { net, exact: false, old: self.old.prefix_of(&net), through: new, new });
        }
        Ok(())
    }

    /// What a set says of a class when all is done: of one that nobody knows, what is in it.
    fn says(&mut self, set: u32, class: u32) -> Numbered {
        if class == WORLD_CLASS {
            return Numbered::new();
        }
        let content = self.next.sets.get(&set).and_then(|set| set.content.clone());
        let signature = self.next.classes.get(&class).and_then(|class| class.signature.clone());
        match (content, signature) {
            (Some(content), Some(signature)) => {
                let allowed = content.for_class(&signature);
                self.next.number(allowed)
            }
            _ => self.old.entries(set, class).cloned().unwrap_or_default(),
        }
    }

    /// Whether an address passes to another verdict of the set.
    fn differs(&mut self, set: u32, old: u32, new: u32) -> bool {
        if old == new {
            return false;
        }
        let says = self.says(set, new);
        !self.old.entries(set, old).into_iter().flat_map(BTreeMap::keys).eq(says.keys())
    }

    fn is_touched(&mut self, set: u32) -> bool {
        let pairs: BTreeSet<(u32, u32)> =
            self.changes.iter().map(|change| (change.old, change.new)).collect();
        set != NO_SET && pairs.into_iter().any(|(old, new)| self.differs(set, old, new))
    }

    /// The words of all pods at the end, but for the revision.
    fn words(&self) -> BTreeMap<Name, PolicyWord> {
        let mut out = BTreeMap::new();
        for (name, sets) in &self.compiled.pods {
            let number = |content: &Option<Arc<Content>>| {
                content.as_ref().and_then(|content| self.wanted.get(content)).copied().unwrap_or(NO_SET)
            };
            let (ingress, egress) = (number(&sets.ingress), number(&sets.egress));
            out.insert(name.clone(), PolicyWord { ingress, egress, revision: 0 });
        }
        for name in self.unready.keys() {
            out.insert(name.clone(), self.old.pods.get(name).copied().unwrap_or(PolicyWord::UNKNOWN));
        }
        out
    }
}
