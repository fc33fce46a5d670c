//! Which of the cluster's ranges are taken, kept as nodes come and go, so that giving one out costs no look at the nodes
//! that have one. Pure.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    ops::{RangeBounds, RangeInclusive},
};

use ipnet::Ipv4Net;

/// The ranges of one length in the cluster's, by their number: a slot each.
pub(super) struct Ranges {
    cluster: Ipv4Net,
    prefix: u8,
    /// From each of these slots on, until the next of them, how many nodes take it: more than one when somebody wrote
    /// ranges by hand. Before the first of them none does, and no two neighbours are equal: nodes that are given one slot
    /// after the other take one entry together, and so does a range of any size.
    users: BTreeMap<u64, usize>,
}

impl Ranges {
    /// Ranges of `prefix` bits from `cluster`, none of them taken.
    pub(super) fn new(cluster: Ipv4Net, prefix: u8) -> Self {
        Self { cluster, prefix, users: BTreeMap::new() }
    }

    /// A node's range changed. One of another length takes every slot that it overlaps.
    pub(super) fn change(&mut self, old: Option<Ipv4Net>, new: Option<Ipv4Net>) {
        if old == new {
            return;
        }
        if let Some(slots) = new.and_then(|net| self.slots(net)) {
            self.recount(&slots, |users| users + 1);
        }
        if let Some(slots) = old.and_then(|net| self.slots(net)) {
            self.recount(&slots, |users| users.saturating_sub(1));
        }
    }

    /// The first range that overlaps none that is taken.
    pub(super) fn first_free(&self) -> Option<Ipv4Net> {
        let slots = 1_u64.checked_shl(self.prefix.checked_sub(self.cluster.prefix_len())?.into())?;
        let begun = self.users.contains_key(&0);
        let free = || self.users.iter().find(|(_, users)| **users == 0).map_or(slots, |(slot, _)| *slot);
        let slot = if begun { free() } else { 0 };
        let first = u64::from(u32::from(self.cluster.network())) + (slot << self.shift());
        let first = u32::try_from(first).ok().filter(|_| slot < slots)?;
        Ipv4Net::new(Ipv4Addr::from(first), self.prefix).ok()
    }

    fn shift(&self) -> u32 {
        32 - u32::from(self.prefix)
    }

    /// The slots that a range overlaps.
    fn slots(&self, net: Ipv4Net) -> Option<RangeInclusive<u64>> {
        let first = net.network().max(self.cluster.network());
        let last = net.broadcast().min(self.cluster.broadcast());
        let base = u64::from(u32::from(self.cluster.network()));
        let slot = |address: Ipv4Addr| (u64::from(u32::from(address)) - base) >> self.shift();
        (first <= last).then(|| slot(first)..=slot(last))
    }

    /// How many nodes take the last slot of those.
    fn last_of(&self, slots: impl RangeBounds<u64>) -> usize {
        self.users.range(slots).next_back().map_or(0, |(_, users)| *users)
    }

    fn recount(&mut self, slots: &RangeInclusive<u64>, count: impl Fn(usize) -> usize) {
        let (first, after) = (*slots.start(), *slots.end() + 1);
        for border in [first, after] {
            let users = self.last_of(..=border);
            self.users.entry(border).or_insert(users);
        }
        for (_, users) in self.users.range_mut(first..after) {
            *users = count(*users);
        }
        // Within, all of them changed alike: what was not equal is not.
        for border in [first, after] {
            if self.users.get(&border) == Some(&self.last_of(..border)) {
                self.users.remove(&border);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn of(cluster: &str, prefix: u8, used: &[Ipv4Net]) -> Ranges {
        let mut ranges = Ranges::new(net(cluster), prefix);
        used.iter().for_each(|used| ranges.change(None, Some(*used)));
        ranges
    }

    #[test]
    fn ranges_are_cut_in_order_and_do_not_overlap() {
        let cluster = "10.244.0.0/22";
        let mut used = Vec::new();
        for wanted in ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"] {
            let free = of(cluster, 24, &used).first_free().unwrap();
            assert_eq!(free, net(wanted));
            used.push(free);
        }
        assert_eq!(of(cluster, 24, &used).first_free(), None);
        assert_eq!(of(cluster, 24, &used[1..]).first_free(), Some(net("10.244.0.0/24")));
        // After a change of the prefix length, old ranges of another length still count.
        assert_eq!(of(cluster, 24, &[net("10.244.0.0/23")]).first_free(), Some(net("10.244.2.0/24")));
        assert_eq!(of(cluster, 25, &used[..1]).first_free(), Some(net("10.244.1.0/25")));
        assert_eq!(of(cluster, 21, &[]).first_free(), None, "longer than the cluster's own");
        assert_eq!(of(cluster, 24, &[net("10.0.0.0/8")]).first_free(), None);
        assert_eq!(of(cluster, 24, &[net("10.9.0.0/24")]).first_free(), Some(net("10.244.0.0/24")));
    }

    #[test]
    fn a_range_costs_the_same_whatever_its_size() {
        let all = net("10.0.0.0/8");
        let mut ranges = of("10.0.0.0/8", 32, &[all, net("0.0.0.0/0")]);
        assert_eq!((ranges.first_free(), ranges.users.len()), (None, 2));
        ranges.change(Some(net("0.0.0.0/0")), None);
        ranges.change(Some(all), Some(net("10.0.0.0/9")));
        assert_eq!((ranges.first_free(), ranges.users.len()), (Some(net("10.128.0.0/32")), 2));
        // Those that were given out one after the other are one run, and nothing is left of what went.
        ranges.change(Some(net("10.0.0.0/9")), None);
        for _ in 0..1000 {
            ranges.change(None, ranges.first_free());
        }
        assert_eq!((ranges.first_free(), ranges.users.len()), (Some(net("10.0.3.232/32")), 2));
        for slot in 0..1000 {
            ranges.change(Some(Ipv4Net::new(Ipv4Addr::from(0x0A00_0000 + slot), 32).unwrap()), None);
        }
        assert!(ranges.users.is_empty());
    }

    proptest! {
        /// Whatever came and went, it is the first that overlaps none of those that are there.
        #[test]
        fn the_first_free_range_is_found_as_if_all_were_looked_at(
            steps in prop::collection::vec((0_usize..6, prop::option::of((0_u32..256, 21_u8..28))), 0..60),
        ) {
            let cluster = net("10.244.0.0/22");
            let mut ranges = Ranges::new(cluster, 25);
            let mut nodes = [None::<Ipv4Net>; 6];
            for (node, new) in steps {
                let at = |eighth: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 243, 254, 0)) + eighth * 8);
                let new = new.map(|(eighth, prefix)| Ipv4Net::new(at(eighth), prefix).unwrap().trunc());
                ranges.change(nodes[node], new);
                nodes[node] = new;
                let overlaps = |a: &Ipv4Net, b: &Ipv4Net| a.contains(&b.network()) || b.contains(&a.network());
                let expected = cluster
                    .subnets(25)
                    .unwrap()
                    .find(|free| !nodes.iter().flatten().any(|used| overlaps(used, free)));
                prop_assert_eq!(ranges.first_free(), expected);
            }
        }
    }
}
