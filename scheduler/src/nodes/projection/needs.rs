//! What each node needs for its pods: the pods bound to it, and the secrets and config maps that those refer to, as soon as
//! both exist. Reverse indexes lead from an object to the nodes that need it. Never gives a node what no pod of it refers to.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use super::{
    changes::Changes,
    item::{Audience, Body, ItemKey, Name, NodeName, Reference, SharedKind},
    pod::PodFacts,
    view::{NodeView, PodView},
};

/// See the module.
#[derive(Default)]
pub(super) struct Needs {
    /// Those that have a node.
    pods: HashMap<Name, PodFacts>,
    /// Bodies of all secrets and config maps.
    shared: HashMap<Reference, Bytes>,
    /// Which nodes have a pod that refers to it.
    users: HashMap<Reference, BTreeSet<NodeName>>,
    views: HashMap<NodeName, NodeView>,
}

impl Needs {
    /// The pod as it was told, or would be.
    pub(super) fn pod(&self, name: &Name) -> Option<&PodFacts> {
        self.pods.get(name)
    }

    /// Keeps a pod that its node would see no change of, for the next snapshot: an agent without memory of the pod starts
    /// from this status.
    pub(super) fn keep(&mut self, name: Name, pod: PodFacts) {
        self.pods.insert(name, pod);
    }

    /// A pod of `node` came or changed.
    pub(super) fn pod_changed(&mut self, name: Name, pod: PodFacts, node: &NodeName, changes: &mut Changes) {
        let old_references = self.pods.get(&name).map(|p| p.references.clone()).unwrap_or_default();
        // What it refers to goes first, so that the pod can start when it arrives.
        for reference in pod.references.difference(&old_references) {
            self.refer(node, reference, changes);
        }
        let generation = changes.advance();
        let view = self.views.entry(node.clone()).or_default();
        view.pods.insert(name.clone(), PodView { uid: pod.uid.clone(), generation });
        let key = ItemKey::pod(&name, &pod.uid);
        if let Some(json) = pod.json() {
            changes.emit(Audience::One(node.clone()), key, Body::Json(json));
        }
        for reference in old_references.difference(&pod.references) {
            self.unrefer(node, reference, changes);
        }
        self.pods.insert(name, pod);
    }

    /// A pod was deleted.
    pub(super) fn pod_gone(&mut self, name: &Name, changes: &mut Changes) {
        let Some(old) = self.pods.remove(name) else { return };
        let Some(node) = old.node else { return };
        self.take(&node, ItemKey::pod(name, &old.uid), changes).pods.remove(name);
        for reference in &old.references {
            self.unrefer(&node, reference, changes);
        }
    }

    /// A Secret or ConfigMap came or changed.
    pub(super) fn shared(&mut self, kind: SharedKind, name: &Name, json: &Bytes, changes: &mut Changes) {
        let reference = (kind, name.clone());
        self.shared.insert(reference.clone(), json.clone());
        for node in self.users.get(&reference).cloned().unwrap_or_default() {
            self.give(&node, &reference, json.clone(), changes);
        }
    }

    /// A Secret or ConfigMap was deleted.
    pub(super) fn shared_gone(&mut self, kind: SharedKind, name: &Name, changes: &mut Changes) {
        let reference = (kind, name.clone());
        if self.shared.remove(&reference).is_none() {
            return;
        }
        for node in self.users.get(&reference).cloned().unwrap_or_default() {
            self.take_back(&node, &reference, changes);
        }
    }

    /// What a node has been given, if it ever was anything.
    pub(super) fn view(&self, node: &str) -> Option<&NodeView> {
        self.views.get(node)
    }

    /// A node was deleted: what it was told of itself, by this key, is taken back.
    pub(super) fn node_gone(&mut self, node: &NodeName, key: ItemKey, changes: &mut Changes) {
        self.take(node, key, changes);
    }

    /// What a node is told that is newer than `after`: what pods refer to before the pods.
    pub(super) fn told(&self, node: &str, after: u64) -> impl Iterator<Item = (u64, ItemKey, Body)> {
        let view = self.views.get(node);
        let shared = view.into_iter().flat_map(|v| &v.shared).filter_map(move |(reference, given)| {
            let generation = given.generation.filter(|generation| *generation > after)?;
            let body = Body::Json(self.shared.get(reference)?.clone());
            Some((generation, ItemKey::new(reference.0.into(), &reference.1), body))
        });
        let pods = view.into_iter().flat_map(|v| &v.pods).filter(move |(_, pod)| pod.generation > after);
        let pods = pods.filter_map(|(name, pod)| {
            let body = Body::Json(self.pods.get(name)?.json()?);
            Some((pod.generation, ItemKey::pod(name, &pod.uid), body))
        });
        shared.chain(pods)
    }

    /// One more pod of `node` refers to it.
    fn refer(&mut self, node: &NodeName, reference: &Reference, changes: &mut Changes) {
        let view = self.views.entry(node.clone()).or_default();
        let shared = view.shared.entry(reference.clone()).or_default();
        shared.users += 1;
        if shared.users == 1 {
            self.users.entry(reference.clone()).or_default().insert(node.clone());
            if let Some(json) = self.shared.get(reference).cloned() {
                self.give(node, reference, json, changes);
            }
        }
    }

    /// One pod less of `node` refers to it.
    fn unrefer(&mut self, node: &NodeName, reference: &Reference, changes: &mut Changes) {
        let Some(view) = self.views.get_mut(node) else { return };
        let Some(shared) = view.shared.get_mut(reference) else { return };
        shared.users -= 1;
        if shared.users > 0 {
            return;
        }
        self.take_back(node, reference, changes);
        if let Some(view) = self.views.get_mut(node) {
            view.shared.remove(reference);
        }
        if let Some(nodes) = self.users.get_mut(reference) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.users.remove(reference);
            }
        }
    }

    fn give(&mut self, node: &NodeName, reference: &Reference, json: Bytes, changes: &mut Changes) {
        let generation = changes.advance();
        if let Some(shared) = self.views.get_mut(node).and_then(|v| v.shared.get_mut(reference)) {
            shared.generation = Some(generation);
        }
        let key = ItemKey::new(reference.0.into(), &reference.1);
        changes.emit(Audience::One(node.clone()), key, Body::Json(json));
    }

    fn take_back(&mut self, node: &NodeName, reference: &Reference, changes: &mut Changes) {
        let Some(view) = self.views.get_mut(node) else { return };
        let Some(shared) = view.shared.get_mut(reference) else { return };
        if shared.generation.take().is_some() {
            self.take(node, ItemKey::new(reference.0.into(), &reference.1), changes);
        }
    }

    /// Tells one node that it needs something no longer.
    fn take(&mut self, node: &NodeName, key: ItemKey, changes: &mut Changes) -> &mut NodeView {
        let view = self.views.entry(node.clone()).or_default();
        view.removed.push(changes.advance(), key.clone());
        changes.emit(Audience::One(node.clone()), key, Body::Removed);
        view
    }
}
