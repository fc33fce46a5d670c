//! The writes of a plan, in their order.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
};

use agent_ebpf_common::policy::{ANY_CLASS, PolicyWord, RangeKey, RuleKey, SetHead};
use ipnet::IpNet;

use super::{Change, Full, Plan, Step};
use crate::policy::{
    Limits, Name,
    classes::Signature,
    sets::Slot,
    table::{Class, Numbered, Set},
};

impl Plan<'_> {
    pub(super) fn copy_for_leavers(&mut self, words: &BTreeMap<Name, PolicyWord>) -> Result<(), Full> {
        let mut copies: BTreeMap<u32, Option<u32>> = BTreeMap::new();
        let mut moved = Vec::new();
        for (pod, old) in &self.old.pods {
            let new = words.get(pod).copied().unwrap_or(PolicyWord::UNKNOWN);
            let mut word = *old;
            for (set, new) in [(&mut word.ingress, new.ingress), (&mut word.egress, new.egress)] {
                let current = *set;
                if current == new || self.going.contains(&current) || !self.old.sets.contains_key(&current) {
                    continue;
                }
                let copy = match copies.get(&current).copied() {
                    Some(copy) => copy,
                    None => {
                        let copy = if self.is_touched(current) { Some(self.copy(current)?) } else { None };
                        copies.insert(current, copy);
                        copy
                    }
                };
                *set = copy.unwrap_or(current);
            }
            if word != *old {
                moved.push(Step::Pod(pod.clone(), word));
            }
        }
        if !moved.is_empty() {
            self.steps.append(&mut moved);
            // Who has read the old word must not meet a class that changes below.
            self.steps.push(Step::Grace);
        }
        Ok(())
    }

    /// A copy of a set as it stands.
    fn copy(&mut self, set: u32) -> Result<u32, Full> {
        let number = self.next.free_set().ok_or(Full("sets"))?;
        let original = self.old.sets.get(&set).cloned().unwrap_or_default();
        let bits = original.head.bits(set).unwrap_or_default();
        let head = SetHead::new(number, bits, 0);
        self.next.sets.insert(number, Set { content: None, head, entries: BTreeMap::new() });
        for (class, entries) in original.entries {
            self.put_entries(number, class, entries);
        }
        self.steps.push(Step::Head(number, head));
        self.going.insert(number);
        Ok(number)
    }

    /// For every address the class that it has while sets go and come: the new one, if sets that go say of it what they
    /// said of the old one.
    pub(super) fn find_ways_through(&mut self) -> Result<(), Full> {
        let going: Vec<u32> = self.going.iter().copied().collect();
        let mut ways: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        let pairs: BTreeSet<(u32, u32)> =
            self.changes.iter().map(|change| (change.old, change.new)).collect();
        for (old, new) in pairs.into_iter().filter(|(old, new)| old != new) {
            let mut direct = true;
            for set in &going {
                let was = self.next.entries(*set, old).cloned().unwrap_or_default();
                let says = match self.next.entries(*set, new).cloned() {
                    Some(entries) => entries,
                    // A class that stood and has no entries may do nothing there.
                    None if self.old.classes.contains_key(&new) => Numbered::new(),
                    None => self.says(*set, new),
                };
                direct &= was.keys().eq(says.keys());
            }
            if direct {
                if !self.old.classes.contains_key(&new) {
                    for set in &going {
                        let was = self.next.entries(*set, old).cloned().unwrap_or_default();
                        if self.next.entries(*set, new).is_none() {
                            self.put_entries(*set, new, was);
                        }
                    }
                }
                continue;
            }
            let through = self.next.add_class(Class::default()).ok_or(Full("classes"))?;
            for set in &going {
                let was = self.next.entries(*set, old).cloned().unwrap_or_default();
                self.put_entries(*set, through, was);
            }
            for set in self.staying() {
                let says = self.says(set, new);
                self.put_entries(set, through, says);
            }
            ways.insert((old, new), through);
        }
        for change in &mut self.changes {
            change.through = ways.get(&(change.old, change.new)).copied().unwrap_or(change.new);
        }
        Ok(())
    }

    fn staying(&self) -> Vec<u32> {
        self.next.sets.keys().filter(|set| !self.going.contains(set)).copied().collect()
    }

    pub(super) fn write_entries(&mut self, live: &BTreeSet<u32>) {
        for class in live {
            if let Some(known) = self.next.classes.get(class)
                && self.old.classes.get(class).is_none_or(|old| old.digest != known.digest)
            {
                self.steps.push(Step::Class(*class, known.digest));
            }
        }
        for set in self.staying() {
            let content = self.next.sets.get(&set).and_then(|set| set.content.clone());
            let Some(content) = content else { continue };
            let for_all = self.next.number(content.for_all());
            self.put_entries(set, ANY_CLASS, for_all);
            for class in live {
                let says = self.says(set, *class);
                self.put_entries(set, *class, says);
            }
        }
        let heads =
            self.new_sets.iter().filter_map(|set| Some(Step::Head(*set, self.next.sets.get(set)?.head)));
        self.steps.extend(heads.collect::<Vec<_>>());
    }

    /// Writes what of it does not stand.
    fn put_entries(&mut self, set: u32, class: u32, entries: Numbered) {
        if entries.is_empty() {
            return;
        }
        let Some(standing) = self.next.sets.get_mut(&set) else { return };
        let standing = standing.entries.entry(class).or_default();
        for (slot, rule) in entries {
            if let Entry::Vacant(place) = standing.entry(slot) {
                place.insert(rule);
                self.steps.push(entry(set, class, slot, Some(rule)));
            }
        }
    }

    pub(super) fn switch_addresses(&mut self) -> Result<(), Full> {
        let taken: BTreeSet<u32> = self.old.peers.values().map(|(index, _)| *index).collect();
        let mut unused = (0..self.limits().peers).filter(|index| !taken.contains(index));
        for Change { net, exact, old, through, .. } in &self.changes {
            let (old, class) = (*old, *through);
            if !exact {
                if !self.old.prefixes.contains_key(net) || old != class {
                    self.steps.push(Step::World(*net, Some(class)));
                    self.next.prefixes.insert(*net, class);
                }
                continue;
            }
            let address = net.addr();
            let standing = self.old.peers.get(&address).map(|(index, _)| *index);
            if standing.is_some() && old == class {
                continue;
            }
            let index = match standing {
                Some(index) => index,
                None => unused.next().ok_or(Full("peers"))?,
            };
            self.steps.push(Step::PeerWord { index, address, class });
            self.next.peers.insert(address, (index, class));
            if standing.is_none() {
                self.steps.push(Step::Peer(address, Some(index)));
            }
        }
        Ok(())
    }

    const fn limits(&self) -> &Limits {
        &self.old.limits
    }

    pub(super) fn switch_pods(&mut self, words: BTreeMap<Name, PolicyWord>) {
        let sets: BTreeSet<u32> = words.values().flat_map(|word| [word.ingress, word.egress]).collect();
        let touched: BTreeSet<u32> = sets.into_iter().filter(|set| self.is_touched(*set)).collect();
        let revision = self.old.revision.checked_add(1).unwrap_or(1);
        for (pod, mut word) in words {
            let old = self.old.pods.get(&pod).copied();
            let same = old.is_some_and(|old| (old.ingress, old.egress) == (word.ingress, word.egress));
            if same && !touched.contains(&word.ingress) && !touched.contains(&word.egress) {
                continue;
            }
            if word != PolicyWord::UNKNOWN {
                word.revision = if word.isolates() { revision } else { 0 };
                self.next.revision = revision;
            }
            if old != Some(word) {
                self.steps.push(Step::Pod(pod.clone(), word));
                self.next.pods.insert(pod, word);
            }
        }
        for pod in self.old.pods.keys() {
            if !self.compiled.pods.contains_key(pod) && !self.unready.contains_key(pod) {
                self.steps.push(Step::Pod(pod.clone(), PolicyWord::UNKNOWN));
                self.next.pods.remove(pod);
            }
        }
    }

    pub(super) fn finish_addresses(
        &mut self,
        peers: &BTreeMap<IpAddr, Signature>,
        prefixes: &BTreeMap<IpNet, Signature>,
    ) {
        if self.changes.iter().any(|change| change.through != change.new) {
            // Who has read an old set must not meet a class that it does not know.
            self.steps.push(Step::Grace);
        }
        for Change { net, exact, through, new, .. } in self.changes.iter().filter(|c| c.through != c.new) {
            let address = net.addr();
            if !exact {
                self.steps.push(Step::World(*net, Some(*new)));
                self.next.prefixes.insert(*net, *new);
            } else if let Some((index, class)) = self.next.peers.get_mut(&address).filter(|p| p.1 == *through)
            {
                *class = *new;
                self.steps.push(Step::PeerWord { index: *index, address, class: *new });
            }
        }
        for Change { net, exact, .. } in &self.changes {
            if *exact && !peers.contains_key(&net.addr()) && self.next.peers.remove(&net.addr()).is_some() {
                self.steps.push(Step::Peer(net.addr(), None));
            }
            if !exact && !prefixes.contains_key(net) && self.next.prefixes.remove(net).is_some() {
                self.steps.push(Step::World(*net, None));
            }
        }
    }

    pub(super) fn check_sizes(&self) -> Result<(), Full> {
        let limits = self.limits();
        let (rules, ranges) = self.next.sizes();
        let prefixes: BTreeSet<&IpNet> = self.old.prefixes.keys().chain(self.next.prefixes.keys()).collect();
        let v4 = prefixes.iter().filter(|net| net.addr().is_ipv4()).count();
        match () {
            () if rules > limits.rules => Err(Full("rules")),
            () if ranges > limits.ranges => Err(Full("ranges")),
            () if v4.max(prefixes.len() - v4) > limits.prefixes => Err(Full("prefixes")),
            () => Ok(()),
        }
    }

    /// What nothing leads to any more.
    pub(super) fn remove(&mut self, live: &BTreeSet<u32>) {
        let mut steps = Vec::new();
        for number in &self.going {
            let Some(set) = self.next.sets.remove(number) else { continue };
            if set.head != SetHead::default() {
                steps.push(Step::Head(*number, SetHead::default()));
            }
            for (class, entries) in set.entries {
                steps.extend(entries.into_keys().map(|slot| entry(*number, class, slot, None)));
            }
        }
        let stays = |class: u32| class == ANY_CLASS || live.contains(&class);
        for (number, set) in &mut self.next.sets {
            for (class, entries) in set.entries.extract_if(.., |class, _| !stays(*class)) {
                steps.extend(entries.into_keys().map(|slot| entry(*number, class, slot, None)));
            }
        }
        for (class, gone) in self.next.classes.extract_if(.., |class, _| !stays(*class)) {
            if gone.digest != 0 {
                steps.push(Step::Class(class, 0));
            }
        }
        let used: BTreeSet<u32> = self
            .next
            .sets
            .values()
            .flat_map(|set| set.entries.values().flat_map(BTreeMap::values))
            .copied()
            .collect();
        self.next.rules.retain(|_, rule| used.contains(rule));
        if !steps.is_empty() {
            self.steps.push(Step::Grace);
            self.steps.append(&mut steps);
        }
    }
}

fn entry(set: u32, class: u32, slot: Slot, rule: Option<u32>) -> Step {
    let (proto, port_be) = (slot.proto, slot.port.to_be());
    if slot.is_range() {
        Step::Range(RangeKey { set, class, proto, pad: 0, port_be }, slot.bits, rule)
    } else {
        Step::Rule(RuleKey { set, class, port_be, proto, pad: 0 }, rule)
    }
}
