//! What a set allows: the rules of all policies that isolate a pod in a direction, and which of them a class meets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use agent_ebpf_common::policy::{
    ANY_ALL, ANY_PORT, ANY_PROTO, ANY_RANGE, AUDIT, CLASS_ALL, CLASS_PORT, CLASS_PROTO, CLASS_RANGE,
};

use super::{NamedPort, Ports, Predicate, RuleName};

/// Peers and ports of one rule, as far as they can be known without the peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Entry {
    /// Which: of several that allow the same, the first is named.
    pub(super) rule: RuleName,
    /// None: everybody.
    pub(super) peers: Option<BTreeSet<Predicate>>,
    /// None: everything. A name is one that peers give.
    pub(super) ports: Option<Ports>,
}

/// A set. What it means is all of it: two pods for whom it is equal share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Content {
    /// All policies only audit.
    pub(super) audit: bool,
    /// Two directions with the same rules are two sets: their rules have other names.
    pub(super) egress: bool,
    pub(super) entries: Vec<Entry>,
}

/// A look-up of the ladder: protocol (0: every), and of its ports the prefix of that many bits (0 bits: every port).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot {
    pub(super) proto: u8,
    pub(super) port: u16,
    pub(super) bits: u8,
}

impl Slot {
    pub(super) const ALL: Self = Self { proto: 0, port: 0, bits: 0 };

    /// Whether it stands in the trie.
    pub(super) const fn is_range(self) -> bool {
        self.bits != 0 && self.bits != 16
    }

    /// A range as prefixes. One of a single port stands in the hash map.
    fn range(proto: u8, first: u16, last: u16) -> Vec<Self> {
        let (mut at, end) = (u32::from(first), u32::from(last));
        let mut out = Vec::new();
        // Of 65,536 ports the first is none: no range has all, so that no prefix has 0 bits.
        while at <= end {
            let mut size = 1_u32 << at.trailing_zeros().min(15);
            while at + size - 1 > end {
                size /= 2;
            }
            let bits = 16 - size.trailing_zeros();
            out.push(Self { proto, port: at as u16, bits: bits as u8 });
            at += size;
        }
        out
    }
}

/// What a class may do in a set.
pub(super) type Allowed = BTreeMap<Slot, RuleName>;

impl Content {
    /// The predicates that its rules ask for, by which peers are told apart.
    pub(super) fn asks<'a>(&'a self, peers: impl Iterator<Item = &'a Predicate>) -> BTreeSet<&'a Predicate> {
        let mut out: BTreeSet<&Predicate> =
            self.entries.iter().flat_map(|e| e.peers.iter().flatten()).collect();
        let named = |port: &NamedPort| {
            let ports = self.entries.iter().filter_map(|entry| entry.ports.as_ref());
            ports
                .into_iter()
                .any(|asked| matches!(asked, Ports::Named(p, n) if (*p, n) == (port.proto, &port.name)))
        };
        out.extend(peers.filter(|predicate| matches!(predicate, Predicate::Port(port) if named(port))));
        out
    }

    /// What everybody may do.
    pub(super) fn for_all(&self) -> Allowed {
        let entries = self.entries.iter().filter(|entry| entry.peers.is_none());
        allowed(entries.filter(|entry| !matches!(entry.ports, Some(Ports::Named(..)))), &[])
    }

    /// What those may do, besides, for whom these predicates hold.
    pub(super) fn for_class(&self, signature: &[Predicate]) -> Allowed {
        let entries = self.entries.iter().filter(|entry| match &entry.peers {
            Some(peers) => signature.iter().any(|predicate| peers.contains(predicate)),
            None => matches!(entry.ports, Some(Ports::Named(..))),
        });
        allowed(entries, signature)
    }

    /// What the head says that there is to look up.
    pub(super) fn bits(&self) -> u32 {
        let shapes = self.entries.iter().map(|entry| {
            let any = entry.peers.is_none() && !matches!(entry.ports, Some(Ports::Named(..)));
            match &entry.ports {
                None => [CLASS_ALL, ANY_ALL][usize::from(any)],
                Some(Ports::All(_)) => [CLASS_PROTO, ANY_PROTO][usize::from(any)],
                Some(Ports::Named(..)) => CLASS_PORT,
                Some(Ports::Range(proto, first, last)) => {
                    let slots = Slot::range(*proto, *first, *last);
                    let ranges = slots.iter().any(|slot| slot.is_range());
                    let ports = slots.iter().any(|slot| !slot.is_range());
                    let [range, port] = [[CLASS_RANGE, CLASS_PORT], [ANY_RANGE, ANY_PORT]][usize::from(any)];
                    (if ranges { range } else { 0 }) | if ports { port } else { 0 }
                }
            }
        });
        shapes.fold(if self.audit { AUDIT } else { 0 }, |bits, shape| bits | shape)
    }
}

fn allowed<'a>(entries: impl Iterator<Item = &'a Entry>, signature: &[Predicate]) -> Allowed {
    let mut out = Allowed::new();
    for entry in entries {
        let slots = match &entry.ports {
            None => vec![Slot::ALL],
            Some(Ports::All(proto)) => vec![Slot { proto: *proto, port: 0, bits: 0 }],
            Some(Ports::Range(proto, first, last)) => Slot::range(*proto, *first, *last),
            Some(Ports::Named(proto, name)) => named(signature, *proto, name).collect(),
        };
        for slot in slots {
            out.entry(slot).or_insert_with(|| entry.rule.clone());
        }
    }
    out
}

fn named(signature: &[Predicate], proto: u8, name: &Arc<str>) -> impl Iterator<Item = Slot> {
    signature.iter().filter_map(move |predicate| match predicate {
        Predicate::Port(port) if port.proto == proto && port.name == *name => {
            Some(Slot { proto, port: port.port, bits: 16 })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every range that begins or ends at an edge, port by port.
    #[test]
    fn a_range_is_its_prefixes_and_no_more() {
        let edges = [1, 2, 3, 79, 80, 81, 255, 256, 1023, 1024, 10_000, 32_767, 32_768, 65_534, 65_535_u16];
        for first in edges {
            for last in edges.into_iter().filter(|last| *last >= first) {
                let slots = Slot::range(6, first, last);
                assert!(slots.len() <= 30, "{first}..{last}: {slots:?}");
                for port in 0..=u16::MAX {
                    let hits = slots.iter().filter(|slot| {
                        (slot.port ^ port).checked_shr(16 - u32::from(slot.bits)) == Some(0)
                            || slot.port == port
                    });
                    assert_eq!(
                        hits.count(),
                        usize::from((first..=last).contains(&port)),
                        "{port} of {first}..{last}"
                    );
                }
            }
        }
    }
}
