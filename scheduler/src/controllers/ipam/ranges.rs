//! Which of the cluster's ranges are taken, kept as nodes come and go, so that giving one out costs no look at the nodes
//! that have one. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    ops::RangeInclusive,
};

use ipnet::Ipv4Net;

/// The ranges of one length in the cluster's, by their number: a slot each.
pub(super) struct Ranges {
    cluster: Ipv4Net,
    prefix: u8,
    /// How many nodes take each slot: more than one when somebody wrote ranges by hand.
    users: HashMap<u64, usize>,
    /// Runs of taken slots, from the first of each to the one after its last. No two touch.
    runs: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Ranges of `prefix` bits from `cluster`, none of them taken.
    pub(super) fn new(cluster: Ipv4Net, prefix: u8) -> Self {
        Self { cluster, prefix, users: HashMap::new(), runs: BTreeMap::new() }
    }

    /// A node's range changed. One of another length takes every slot that it overlaps.
    pub(super) fn change(&mut self, old: Option<Ipv4Net>, new: Option<Ipv4Net>) {
        if old == new {
            return;
        }
        for slot in new.and_then(|net| self.slots(net)).into_iter().flatten() {
            let users = self.users.entry(slot).or_default();
            *users += 1;
            if *users == 1 {
                self.take(slot);
            }
        }
        for slot in old.and_then(|net| self.slots(net)).into_iter().flatten() {
            let Some(users) = self.users.get_mut(&slot) else { continue };
            *users -= 1;
            if *users == 0 {
                self.users.remove(&slot);
                self.free(slot);
            }
        }
    }

    /// The first range that overlaps none that is taken.
    pub(super) fn first_free(&self) -> Option<Ipv4Net> {
        let slots = 1_u64.checked_shl(self.prefix.checked_sub(self.cluster.prefix_len())?.into())?;
        let slot = self.runs.get(&0).copied().unwrap_or(0);
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

    fn take(&mut self, slot: u64) {
        let before = self.runs.range(..slot).next_back().filter(|(_, end)| **end == slot);
        let first = before.map_or(slot, |(first, _)| *first);
        let end = self.runs.remove(&(slot + 1)).unwrap_or(slot + 1);
        self.runs.insert(first, end);
    }

    fn free(&mut self, slot: u64) {
        let Some((first, end)) = self.runs.range(..=slot).next_back().map(|(first, end)| (*first, *end))
        else {
            return;
        };
        self.runs.remove(&first);
        if first < slot {
            self.runs.insert(first, slot);
        }
        if slot + 1 < end {
            self.runs.insert(slot + 1, end);
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
