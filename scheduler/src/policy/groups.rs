//! The pods that rules ask for: each selector once, whoever asks, with its pods and the nodes that need to know them.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
};

use super::{
    NamespaceEntry, PodEntry,
    facts::{Labels, Scope, Selection},
    index::Selectors,
};

struct Group {
    selection: Selection,
    /// How many policies ask for it.
    policies: u32,
    pods: BTreeSet<u32>,
    /// Nodes that have such a policy, and how many.
    nodes: HashMap<Arc<str>, u32>,
}

#[derive(Default)]
struct ScopeEntry {
    groups: Selectors<u64>,
    /// Of a selector of namespaces: those that match.
    namespaces: BTreeSet<Arc<str>>,
}

#[derive(Default)]
pub(super) struct Groups {
    groups: HashMap<u64, Group>,
    scopes: HashMap<Scope, ScopeEntry>,
}

/// Counts up or down; whether the first came or the last went.
pub(super) fn count(counts: &mut HashMap<Arc<str>, u32>, node: &Arc<str>, up: bool) -> bool {
    if up {
        let count = counts.entry(Arc::clone(node)).or_default();
        *count += 1;
        return *count == 1;
    }
    let Some(count) = counts.get_mut(node) else { return false };
    *count -= 1;
    if *count > 0 {
        return false;
    }
    counts.remove(node);
    true
}

/// The pods that a selector matches at the moment.
pub(super) fn members(
    namespaces: &HashMap<Arc<str>, NamespaceEntry>,
    pods: &HashMap<u32, PodEntry>,
    selection: &Selection,
) -> BTreeSet<u32> {
    let found = |namespace: &NamespaceEntry| namespace.pods.candidates(&selection.pods);
    let candidates: Vec<u32> = match &selection.scope {
        Scope::In(name) => namespaces.get(name).map(found).unwrap_or_default(),
        Scope::Matching(selector) => {
            let matching =
                namespaces.values().filter(|n| n.labels.as_ref().is_some_and(|l| selector.matches(l)));
            matching.flat_map(found).collect()
        }
    };
    let matches = |id: &u32| pods.get(id).is_some_and(|pod| selection.pods.matches(&pod.facts.labels));
    candidates.into_iter().filter(matches).collect()
}

impl Groups {
    /// One more policy asks. When it is the first, the pods of the group are those that `found` finds, and are told.
    pub(super) fn ask(
        &mut self,
        number: u64,
        selection: &Selection,
        namespaces: &HashMap<Arc<str>, NamespaceEntry>,
        found: impl FnOnce() -> BTreeSet<u32>,
    ) -> BTreeSet<u32> {
        match self.groups.entry(number) {
            Entry::Occupied(mut group) => {
                group.get_mut().policies += 1;
                BTreeSet::new()
            }
            Entry::Vacant(place) => {
                let pods = found();
                let scope = self.scopes.entry(selection.scope.clone()).or_default();
                if scope.groups.is_empty()
                    && let Scope::Matching(selector) = &selection.scope
                {
                    let matching = namespaces.iter().filter(|(_, entry)| {
                        entry.labels.as_ref().is_some_and(|labels| selector.matches(labels))
                    });
                    scope.namespaces = matching.map(|(name, _)| Arc::clone(name)).collect();
                }
                scope.groups.insert(&selection.pods, number);
                let (selection, nodes) = (selection.clone(), HashMap::new());
                place.insert(Group { selection, policies: 1, pods: pods.clone(), nodes });
                pods
            }
        }
    }

    /// One policy less asks. When it was the last, the group's pods are told, who are in it no longer.
    pub(super) fn release(&mut self, number: u64) -> BTreeSet<u32> {
        let Entry::Occupied(mut group) = self.groups.entry(number) else { return BTreeSet::new() };
        group.get_mut().policies -= 1;
        if group.get().policies > 0 {
            return BTreeSet::new();
        }
        let Group { selection, pods, .. } = group.remove();
        if let Entry::Occupied(mut scope) = self.scopes.entry(selection.scope) {
            scope.get_mut().groups.remove(&selection.pods, number);
            if scope.get().groups.is_empty() {
                scope.remove();
            }
        }
        pods
    }

    /// The groups that a pod of the namespace with these labels is in.
    pub(super) fn matching(&self, namespace: &Arc<str>, labels: &Labels) -> BTreeSet<u64> {
        let mut out = BTreeSet::new();
        let own = self.scopes.get(&Scope::In(Arc::clone(namespace)));
        let others = self.scopes.values().filter(|scope| scope.namespaces.contains(namespace));
        for scope in own.into_iter().chain(others) {
            let candidates = scope.groups.candidates(labels).into_iter();
            out.extend(candidates.filter(|number| self.selects(*number, labels)));
        }
        out
    }

    fn selects(&self, number: u64, labels: &Labels) -> bool {
        self.groups.get(&number).is_some_and(|group| group.selection.pods.matches(labels))
    }

    /// Whether a pod of the namespace with these labels is in the group.
    pub(super) fn matches(&self, number: u64, namespace: &Arc<str>, labels: &Labels) -> bool {
        let Some(group) = self.groups.get(&number) else { return false };
        let within = match &group.selection.scope {
            Scope::In(name) => name == namespace,
            scope => self.scopes.get(scope).is_some_and(|scope| scope.namespaces.contains(namespace)),
        };
        within && group.selection.pods.matches(labels)
    }

    /// A namespace has these labels now, or is no more. The groups whose pods in it have changed.
    pub(super) fn relabel(&mut self, namespace: &Arc<str>, labels: Option<&Labels>) -> Vec<u64> {
        let mut out = Vec::new();
        for (scope, entry) in &mut self.scopes {
            let Scope::Matching(selector) = scope else { continue };
            let matches = labels.is_some_and(|labels| selector.matches(labels));
            let changed = if matches {
                entry.namespaces.insert(Arc::clone(namespace))
            } else {
                entry.namespaces.remove(namespace)
            };
            if changed {
                out.extend(entry.groups.all());
            }
        }
        out
    }

    pub(super) fn set_member(&mut self, number: u64, pod: u32, member: bool) {
        if let Some(group) = self.groups.get_mut(&number) {
            if member {
                group.pods.insert(pod)
            } else {
                group.pods.remove(&pod)
            };
        }
    }

    /// A policy of the node asks, or does so no longer. The pods of whom the node is to be told by that.
    pub(super) fn need(&mut self, number: u64, node: &Arc<str>, needed: bool) -> BTreeSet<u32> {
        let Some(group) = self.groups.get_mut(&number) else { return BTreeSet::new() };
        if count(&mut group.nodes, node, needed) { group.pods.clone() } else { BTreeSet::new() }
    }

    pub(super) fn nodes(&self, number: u64) -> impl Iterator<Item = &Arc<str>> {
        self.groups.get(&number).into_iter().flat_map(|group| group.nodes.keys())
    }

    pub(super) fn is_needed(&self, number: u64, node: &Arc<str>) -> bool {
        self.groups.get(&number).is_some_and(|group| group.nodes.contains_key(node))
    }
}
