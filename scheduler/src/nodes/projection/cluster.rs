//! The nodes of the cluster: what each is told of itself, what the others are told of it, and which may announce load
//! balancer addresses. In: Node objects as they come and go. Never knows what runs on a node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use gantry_proto::node::v1 as pb;

use super::{
    changes::Changes,
    item::{Audience, Body, ItemKey, ItemKind, Name, NodeName, ToAll},
};
use crate::model::Revision;

/// What the projection needs of a Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    /// Internal addresses.
    pub(crate) addresses: Vec<String>,
    /// Ranges of its pods.
    pub(crate) pod_cidrs: Vec<String>,
    /// Ready, and not excluded from announcing load balancer addresses.
    pub(crate) announces: bool,
    /// What the node is told of itself.
    pub(crate) own: Bytes,
    /// Of the object.
    pub(crate) revision: Revision,
}

struct NodeEntry {
    facts: NodeFacts,
    /// At which generation the node was told of itself.
    told: u64,
    peer: Option<(u64, Arc<ToAll<pb::Peer>>)>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Cluster {
    nodes: BTreeMap<NodeName, NodeEntry>,
    announcers: BTreeSet<NodeName>,
}

impl Cluster {
    /// The revision of a Node that was told last.
    pub(super) fn known(&self, node: &str) -> Option<Revision> {
        self.nodes.get(node).map(|entry| entry.facts.revision)
    }

    /// Those that may announce load balancer addresses.
    pub(super) fn announcers(&self) -> &BTreeSet<NodeName> {
        &self.announcers
    }

    /// A Node came or changed; whether others announce now than did before.
    pub(super) fn node(&mut self, name: &NodeName, facts: NodeFacts, changes: &mut Changes) -> bool {
        let old = self.nodes.get(name);
        if old.is_some_and(|old| facts.revision < old.facts.revision) {
            return false;
        }
        let own_changed = old.is_none_or(|old| old.facts.own != facts.own);
        let moved = old.is_none_or(|old| {
            old.facts.addresses != facts.addresses || old.facts.pod_cidrs != facts.pod_cidrs
        });
        let known = old.is_some_and(|old| old.peer.is_some());
        let mut told = old.map_or(0, |old| old.told);
        let announced = self.announce(name, facts.announces);
        if own_changed {
            told = changes.advance();
            changes.emit(Audience::One(name.clone()), own_key(name), Body::Json(facts.own.clone()));
        }
        if !moved {
            if let Some(entry) = self.nodes.get_mut(name) {
                (entry.facts, entry.told) = (facts, told);
            }
            return announced;
        }
        // Before it has an address and a range there is nowhere to route to.
        let peer = (!facts.addresses.is_empty() && !facts.pod_cidrs.is_empty()).then(|| {
            let (addresses, pod_cidrs) = (facts.addresses.clone(), facts.pod_cidrs.clone());
            ToAll::new(pb::Peer { addresses, pod_cidrs })
        });
        if peer.is_some() || known {
            changes.advance();
            emit_peer(name, peer.clone(), changes);
        }
        let peer = peer.map(|p| (changes.generation(), p));
        self.nodes.insert(name.clone(), NodeEntry { facts, told, peer });
        announced
    }

    /// A Node was deleted; whether others announce now than did before.
    pub(super) fn node_gone(&mut self, name: &NodeName, changes: &mut Changes) -> bool {
        let announced = self.announce(name, false);
        if self.nodes.remove(name).is_some_and(|old| old.peer.is_some()) {
            changes.advance();
            emit_peer(name, None, changes);
        }
        announced
    }

    /// What a node is told of itself.
    pub(super) fn own(&self, node: &str) -> Option<(u64, ItemKey, Body)> {
        let (name, entry) = self.nodes.get_key_value(node)?;
        Some((entry.told, own_key(name), Body::Json(entry.facts.own.clone())))
    }

    /// What a node is told of the others.
    pub(super) fn peers<'a>(&'a self, node: &'a str) -> impl Iterator<Item = (u64, ItemKey, Body)> + 'a {
        let others = self.nodes.iter().filter(move |(name, _)| &***name != node);
        others.filter_map(|(name, entry)| {
            let (generation, peer) = entry.peer.as_ref()?;
            Some((*generation, peer_key(name), Body::Peer(peer.clone())))
        })
    }

    fn announce(&mut self, node: &NodeName, announces: bool) -> bool {
        if announces { self.announcers.insert(node.clone()) } else { self.announcers.remove(node) }
    }
}

fn emit_peer(name: &NodeName, peer: Option<Arc<ToAll<pb::Peer>>>, changes: &mut Changes) {
    let (audience, key) = (Audience::AllBut(name.clone()), peer_key(name));
    match peer {
        Some(peer) => changes.emit(audience, key, Body::Peer(peer)),
        None => changes.emit_removed(audience, key),
    }
}

/// Names a node to the others.
pub(super) fn peer_key(name: &NodeName) -> ItemKey {
    of_cluster(ItemKind::Peer, name)
}

/// Names a node to itself.
pub(super) fn own_key(name: &NodeName) -> ItemKey {
    of_cluster(ItemKind::Node, name)
}

fn of_cluster(kind: ItemKind, name: &NodeName) -> ItemKey {
    ItemKey::new(kind, &Name { namespace: "".into(), name: name.clone() })
}
