//! What a node was told, and what has changed since: told again is only what differs from what was told.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use gantry_proto::node::v1::{self as pb, update::Body};

use super::facts::Name;

/// A node.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) policies: Told<pb::Policy>,
    pub(super) peers: Told<pb::PolicyPeer>,
    pub(super) pods: Told<pb::PodPolicy>,
}

/// Objects of one kind.
#[derive(Debug)]
pub(super) struct Told<T> {
    told: HashMap<Name, Arc<T>>,
    dirty: BTreeSet<Name>,
}

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self { told: HashMap::new(), dirty: BTreeSet::new() }
    }
}

/// One object to be told; no body when it is gone.
type Change<T> = (Name, Option<Arc<T>>);

impl<T: PartialEq> Told<T> {
    pub(super) fn touch(&mut self, name: &Name) {
        if !self.dirty.contains(name) {
            self.dirty.insert(name.clone());
        }
    }

    /// What there is to tell, with what `current` says of the objects that may have changed.
    fn changes(&mut self, mut current: impl FnMut(&Name) -> Option<T>) -> Vec<Change<T>> {
        let mut out = Vec::new();
        for name in std::mem::take(&mut self.dirty) {
            let now = current(&name);
            if self.told.get(&name).map(AsRef::as_ref) == now.as_ref() {
                continue;
            }
            let now = now.map(Arc::new);
            match &now {
                Some(body) => drop(self.told.insert(name.clone(), Arc::clone(body))),
                None => drop(self.told.remove(&name)),
            }
            out.push((name, now));
        }
        out
    }
}

impl Node {
    pub(super) fn is_clean(&self) -> bool {
        self.policies.dirty.is_empty() && self.peers.dirty.is_empty() && self.pods.dirty.is_empty()
    }

    /// The updates, in an order in which nothing is allowed by half: what pods need before them, what they needed after.
    pub(super) fn updates(
        &mut self,
        policy: impl FnMut(&Name) -> Option<pb::Policy>,
        peer: impl FnMut(&Name) -> Option<pb::PolicyPeer>,
        pod: impl FnMut(&Name) -> Option<pb::PodPolicy>,
    ) -> Vec<pb::Update> {
        let peers = updates(pb::ObjectKind::PolicyPeer, self.peers.changes(peer), Body::PolicyPeer);
        let policies = updates(pb::ObjectKind::Policy, self.policies.changes(policy), Body::Policy);
        let pods = updates(pb::ObjectKind::PodPolicy, self.pods.changes(pod), Body::PodPolicy);
        let mut needed: Vec<_> = peers.into_iter().chain(policies).collect();
        let gone = needed.extract_if(.., |update| update.removed).collect::<Vec<_>>();
        needed.into_iter().chain(pods).chain(gone).collect()
    }
}

fn updates<T: Clone>(
    kind: pb::ObjectKind,
    changes: Vec<Change<T>>,
    body: impl Fn(T) -> Body,
) -> Vec<pb::Update> {
    let update = |((namespace, name), now): Change<T>| pb::Update {
        kind: kind.into(),
        namespace: namespace.to_string(),
        name: name.to_string(),
        removed: now.is_none(),
        body: now.map(|told| body((*told).clone())),
        ..Default::default()
    };
    changes.into_iter().map(update).collect()
}
