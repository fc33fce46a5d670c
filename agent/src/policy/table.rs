//! What stands in the maps, and the numbers of it: which set, class, rule and peer's index is which.
//!
//! Numbers are given again only by a later plan: the one that frees them has waited until no program can have read them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use agent_ebpf_common::policy::{
    ANY_CLASS, FIRST_CLASS, PolicyWord, RangeKey, RuleKey, SetHead, UNKNOWN_SET, WORLD_CLASS,
};
use ipnet::IpNet;

use super::{
    Name, RuleName,
    classes::{Signature, digest, longest},
    sets::{Allowed, Content, Slot},
};

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Elements of the array of sets.
    pub sets: u32,
    /// Elements of the array of classes.
    pub classes: u32,
    /// Elements of the array of peers' words.
    pub peers: u32,
    /// Entries of the map of rules.
    pub rules: usize,
    /// Entries of the trie of ranges.
    pub ranges: usize,
    /// Entries of each trie of prefixes.
    pub prefixes: usize,
}

/// What was found in the maps after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// By set; those that were never written may be left out.
    pub heads: BTreeMap<u32, SetHead>,
    /// Rules.
    pub rules: Vec<(RuleKey, u32)>,
    /// Ranges, with the bits of the port that count.
    pub ranges: Vec<(RangeKey, u8, u32)>,
    /// Digests, by class; 0 may be left out.
    pub classes: BTreeMap<u32, u64>,
    /// Index and class of every exact address.
    pub peers: BTreeMap<IpAddr, (u32, u32)>,
    /// Class of every prefix.
    pub prefixes: BTreeMap<IpNet, u32>,
    /// The words of the node's pods.
    pub pods: BTreeMap<Name, PolicyWord>,
}

/// What a class may do in a set, by the numbers of the rules.
pub(super) type Numbered = BTreeMap<Slot, u32>;

#[derive(Clone, Debug, Default)]
pub(super) struct Set {
    /// None: nobody knows; it is as it was found, and what is in it is all that is known of it.
    pub(super) content: Option<Arc<Content>>,
    pub(super) head: SetHead,
    pub(super) entries: BTreeMap<u32, Numbered>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Class {
    /// None: as for [`Set::content`], or a class of a transition.
    pub(super) signature: Option<Signature>,
    pub(super) digest: u64,
}

/// What stands.
#[derive(Clone, Debug)]
pub struct Table {
    pub(super) limits: Limits,
    pub(super) sets: BTreeMap<u32, Set>,
    pub(super) classes: BTreeMap<u32, Class>,
    pub(super) rules: BTreeMap<RuleName, u32>,
    pub(super) last_rule: u32,
    pub(super) peers: BTreeMap<IpAddr, (u32, u32)>,
    pub(super) prefixes: BTreeMap<IpNet, u32>,
    pub(super) pods: BTreeMap<Name, PolicyWord>,
    pub(super) revision: u16,
}

/// The lowest number from `first` that is not taken, when it fits into an array of `limit`.
pub(super) fn free(first: u32, limit: u32, taken: impl Fn(u32) -> bool) -> Option<u32> {
    (first..limit).find(|number| !taken(*number))
}

impl Table {
    /// Of empty maps.
    pub fn new(limits: Limits) -> Self {
        Self::seeded(limits, Standing::default())
    }

    /// Of maps that an agent before this one has written, whole or cut off between any two steps. All of it stays in
    /// force; what is known again by its digest keeps its number.
    pub fn seeded(limits: Limits, found: Standing) -> Self {
        let mut sets: BTreeMap<u32, Set> = BTreeMap::new();
        for (number, head) in found.heads.into_iter().filter(|(_, head)| *head != SetHead::default()) {
            sets.entry(number).or_default().head = head;
        }
        let mut entry = |set: u32, class: u32, slot: Slot, rule: u32| {
            sets.entry(set).or_default().entries.entry(class).or_default().insert(slot, rule);
        };
        for (key, rule) in &found.rules {
            let bits = if key.port_be == 0 { 0 } else { 16 };
            let port = u16::from_be(key.port_be);
            entry(key.set, key.class, Slot { proto: key.proto, port, bits }, *rule);
        }
        for (key, bits, rule) in &found.ranges {
            let port = u16::from_be(key.port_be);
            entry(key.set, key.class, Slot { proto: key.proto, port, bits: *bits }, *rule);
        }
        let mut classes: BTreeMap<u32, Class> = BTreeMap::new();
        for (class, digest) in found.classes {
            classes.insert(class, Class { signature: None, digest });
        }
        let named = sets.values().flat_map(|set| set.entries.keys());
        let held = found.peers.values().map(|(_, class)| class).chain(found.prefixes.values());
        for class in named.chain(held).filter(|class| **class >= FIRST_CLASS) {
            classes.entry(*class).or_default();
        }
        let last_rule =
            sets.values().flat_map(|set| set.entries.values().flat_map(BTreeMap::values)).max().copied();
        let revision = found.pods.values().map(|word| word.revision).max();
        Self {
            limits,
            sets,
            classes,
            rules: BTreeMap::new(),
            last_rule: last_rule.unwrap_or_default(),
            peers: found.peers,
            prefixes: found.prefixes,
            pods: found.pods,
            revision: revision.unwrap_or_default(),
        }
    }

    /// The word of a pod, as it stands when all steps so far are done.
    pub fn word(&self, pod: &Name) -> Option<PolicyWord> {
        self.pods.get(pod).copied()
    }

    /// The rule behind a number, for who tells of it.
    pub fn rule(&self, number: u32) -> Option<&RuleName> {
        self.rules.iter().find(|(_, known)| **known == number).map(|(name, _)| name)
    }

    /// What an address is at the moment.
    pub(super) fn class_of(&self, net: &IpNet) -> u32 {
        let exact = (net.prefix_len() == net.max_prefix_len()).then(|| self.peers.get(&net.addr())).flatten();
        exact.map_or_else(|| self.prefix_of(net), |(_, class)| *class)
    }

    /// What a prefix is, with those around it.
    pub(super) fn prefix_of(&self, net: &IpNet) -> u32 {
        longest(&self.prefixes, net).copied().unwrap_or(WORLD_CLASS)
    }

    pub(super) fn entries(&self, set: u32, class: u32) -> Option<&Numbered> {
        self.sets.get(&set)?.entries.get(&class).filter(|entries| !entries.is_empty())
    }

    /// The number of the class with that signature; a new one, when there is none and room for it.
    pub(super) fn class(&mut self, signature: &Signature) -> Option<u32> {
        if signature.is_empty() {
            return Some(WORLD_CLASS);
        }
        let known = self.classes.iter().find(|(_, class)| class.signature.as_ref() == Some(signature));
        if let Some((class, _)) = known {
            return Some(*class);
        }
        let digest = digest(signature);
        let found = self.classes.iter_mut().find(|(_, c)| c.signature.is_none() && c.digest == digest);
        if let Some((class, found)) = found {
            found.signature = Some(Arc::clone(signature));
            return Some(*class);
        }
        self.add_class(Class { signature: Some(Arc::clone(signature)), digest })
    }

    pub(super) fn add_class(&mut self, class: Class) -> Option<u32> {
        let number = free(FIRST_CLASS, self.limits.classes, |number| self.classes.contains_key(&number))?;
        self.classes.insert(number, class);
        Some(number)
    }

    pub(super) fn free_set(&self) -> Option<u32> {
        let limit = self.limits.sets.min(UNKNOWN_SET);
        free(1, limit, |number| self.sets.contains_key(&number))
    }

    /// The set with that content, when it stands.
    pub(super) fn set(&mut self, content: &Arc<Content>) -> Option<u32> {
        let known = self.sets.iter().find(|(_, set)| set.content.as_ref() == Some(content));
        if let Some((number, _)) = known {
            return Some(*number);
        }
        let head = |number: u32| SetHead::new(number, content.bits(), digest(content));
        let found: Vec<u32> = self
            .sets
            .iter()
            .filter(|(number, set)| set.content.is_none() && set.head == head(**number))
            .map(|(number, _)| *number)
            .collect();
        found.into_iter().find(|number| self.adopt(*number, content).is_some())
    }

    /// Takes a set that was found for what its digest says, if what is in it says so, too.
    fn adopt(&mut self, number: u32, content: &Arc<Content>) -> Option<()> {
        let set = self.sets.get(&number)?;
        let mut rules = BTreeMap::new();
        let known =
            self.classes.iter().filter_map(|(class, known)| Some((*class, known.signature.as_ref()?)));
        let expected = known.map(|(class, signature)| (class, content.for_class(signature)));
        for (class, allowed) in expected.chain([(ANY_CLASS, content.for_all())]) {
            let nothing = Numbered::new();
            let found = set.entries.get(&class).unwrap_or(&nothing);
            if !allowed.keys().eq(found.keys()) {
                return None;
            }
            for ((_, name), rule) in allowed.into_iter().zip(found.values()) {
                if rules.insert(name, *rule).is_some_and(|before| before != *rule) {
                    return None;
                }
            }
        }
        let numbers: BTreeSet<u32> = rules.values().copied().collect();
        let clash = rules.iter().any(|(name, rule)| self.rules.get(name).is_some_and(|known| known != rule));
        let taken = self.rules.iter().any(|(name, rule)| numbers.contains(rule) && !rules.contains_key(name));
        if numbers.len() < rules.len() || clash || taken {
            return None;
        }
        self.rules.extend(rules);
        self.sets.get_mut(&number)?.content = Some(Arc::clone(content));
        Some(())
    }

    pub(super) fn number(&mut self, allowed: Allowed) -> Numbered {
        let mut number = |name: RuleName| {
            *self.rules.entry(name).or_insert_with(|| {
                self.last_rule += 1;
                self.last_rule
            })
        };
        allowed.into_iter().map(|(slot, name)| (slot, number(name))).collect()
    }

    /// Rules and ranges that stand.
    pub(super) fn sizes(&self) -> (usize, usize) {
        let all = self.sets.values().flat_map(|set| set.entries.values().flat_map(BTreeMap::keys));
        all.fold(
            (0, 0),
            |(rules, ranges), slot| {
                if slot.is_range() { (rules, ranges + 1) } else { (rules + 1, ranges) }
            },
        )
    }
}
