//! What an address is to the rules: the predicates that hold for it. Addresses for which the same hold are one class.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{Name, Peer, Predicate};

/// The predicates that hold, in order.
pub(super) type Signature = Arc<[Predicate]>;

/// Digest by which what stands in the maps is known again after a restart. Another build of the agent may come to
/// others: then everything is made anew, without a gap.
pub(super) fn digest(content: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    // 0 is what was never written.
    hasher.finish().max(1)
}

/// Whether a block holds for all of `net`.
fn holds(block: &IpNet, except: &[IpNet], net: &IpNet) -> bool {
    block.contains(net) && !except.iter().any(|except| except.contains(net))
}

/// The value of the longest prefix that contains `net`.
pub(super) fn longest<'a, T>(prefixes: &'a BTreeMap<IpNet, T>, net: &IpNet) -> Option<&'a T> {
    (0..=net.prefix_len()).rev().find_map(|length| {
        let shorter = IpNet::new(net.network(), length).ok()?.trunc();
        prefixes.get(&shorter)
    })
}

/// What rules ask for: only that tells addresses apart.
pub(super) struct Asked<'a>(pub(super) BTreeSet<&'a Predicate>);

impl Asked<'_> {
    /// The signature of every prefix at which one changes.
    pub(super) fn prefixes(&self) -> BTreeMap<IpNet, Signature> {
        let blocks = self.0.iter().filter_map(|predicate| match predicate {
            Predicate::Block(net, except) => Some((net, except)),
            Predicate::Group(_) | Predicate::Port(_) => None,
        });
        let all: BTreeSet<IpNet> =
            blocks.flat_map(|(net, except)| except.iter().chain([net])).map(IpNet::trunc).collect();
        all.into_iter().map(|net| (net, self.blocks(&net).cloned().collect())).collect()
    }

    fn blocks(&self, net: &IpNet) -> impl Iterator<Item = &Predicate> {
        self.0.iter().copied().filter(
            move |predicate| matches!(predicate, Predicate::Block(block, except) if holds(block, except, net)),
        )
    }

    /// The signature of every address of a peer for which more holds than for its prefix. Of an address that two pods
    /// have for a moment only that holds which holds of both.
    pub(super) fn peers(&self, peers: &BTreeMap<Name, Peer>) -> BTreeMap<IpAddr, Signature> {
        let mut own: BTreeMap<IpAddr, BTreeSet<Predicate>> = BTreeMap::new();
        for peer in peers.values() {
            let groups = peer.groups.iter().map(|group| Predicate::Group(*group));
            let ports = peer.ports.iter().cloned().map(Predicate::Port);
            let holding: BTreeSet<Predicate> = groups.chain(ports).filter(|p| self.0.contains(p)).collect();
            for address in &peer.addresses {
                own.entry(*address)
                    .and_modify(|both| both.retain(|predicate| holding.contains(predicate)))
                    .or_insert_with(|| holding.clone());
            }
        }
        own.retain(|_, holding| !holding.is_empty());
        let signature = |(address, mut holding): (IpAddr, BTreeSet<Predicate>)| {
            holding.extend(self.blocks(&IpNet::from(address)).cloned());
            (address, holding.into_iter().collect())
        };
        own.into_iter().map(signature).collect()
    }
}
