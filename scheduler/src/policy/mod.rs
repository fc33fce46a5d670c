//! Network policy, as far as the centre decides it: which policies select which pods, which pods rules ask for, and what
//! of that each node needs. Policies, pods and namespaces go in as they change, updates for nodes come out.
//!
//! Everything is indexed by what finds it, so that a change costs what it changes: a pod asks the selectors that want one
//! of its labels, a selector the pods that have the label it wants. What is told is compared with what was told, so that
//! a change that changes nothing for a node sends it nothing.
//!
//! Pods in the host's network and finished ones are nobody here: neither selected nor matched. Never: IO, a clock, or a
//! decision about a packet. Nothing feeds this yet.

mod facts;
mod groups;
mod index;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use gantry_proto::node::v1 as pb;
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
};

pub use facts::{AUDIT, PolicyError};
use facts::{Labels, Name, PodFacts, PolicyFacts, PortName, audits};
use groups::Groups;
use index::{Labelled, Selectors};
use told::Node;

struct PodEntry {
    name: Name,
    facts: PodFacts,
    policies: BTreeSet<u32>,
    groups: BTreeSet<u64>,
}

struct PolicyEntry {
    name: Name,
    facts: PolicyFacts,
    pods: BTreeSet<u32>,
    /// Nodes that have selected pods, and how many.
    nodes: HashMap<Arc<str>, u32>,
}

#[derive(Default)]
struct NamespaceEntry {
    /// None before its object is known: no selector of namespaces matches it then.
    labels: Option<Labels>,
    audits: bool,
    pods: Labelled,
    policies: BTreeSet<u32>,
    selectors: Selectors<u32>,
}

/// The whole of it.
#[derive(Default)]
pub struct Engine {
    pod_ids: HashMap<Name, u32>,
    pods: HashMap<u32, PodEntry>,
    policy_ids: HashMap<Name, u32>,
    policies: HashMap<u32, PolicyEntry>,
    /// Numbers are never given twice.
    last: u32,
    namespaces: HashMap<Arc<str>, NamespaceEntry>,
    groups: Groups,
    /// Pods that have a port of that name.
    ports: HashMap<PortName, BTreeSet<u32>>,
    /// Nodes whose policies ask for a peer's port of that name, and in how many policies.
    port_nodes: HashMap<PortName, HashMap<Arc<str>, u32>>,
    nodes: HashMap<Arc<str>, Node>,
    dirty: BTreeSet<Arc<str>>,
}

fn name(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Name {
    (meta.namespace.as_deref().unwrap_or_default().into(), meta.name.as_deref().unwrap_or_default().into())
}

impl Engine {
    /// A policy that is new or changed. One that cannot be compiled leaves what was in force.
    pub fn put_policy(&mut self, policy: &NetworkPolicy) -> Result<(), PolicyError> {
        let facts = PolicyFacts::of(policy)?;
        let name = name(&policy.metadata);
        let old = self.policy_ids.get(&name).copied();
        if old.and_then(|id| self.policies.get(&id)).is_some_and(|entry| entry.facts == facts) {
            return Ok(());
        }
        // Before the old form is gone, so that groups that both ask for stay as they are.
        for (number, selection) in &facts.groups {
            let namespaces = &self.namespaces;
            let found = || groups::members(namespaces, &self.pods, selection);
            for pod in self.groups.ask(*number, selection, namespaces, found) {
                if let Some(pod) = self.pods.get_mut(&pod) {
                    pod.groups.insert(*number);
                }
            }
        }
        if let Some(id) = old {
            self.take_policy(id);
        }
        self.last += 1;
        let id = self.last;
        let namespace = self.namespaces.entry(Arc::clone(&name.0)).or_default();
        namespace.policies.insert(id);
        namespace.selectors.insert(&facts.select, id);
        let mut selected = namespace.pods.candidates(&facts.select);
        selected.retain(|pod| self.pods.get(pod).is_some_and(|pod| facts.select.matches(&pod.facts.labels)));
        self.policy_ids.insert(name.clone(), id);
        self.policies.insert(id, PolicyEntry { name, facts, pods: BTreeSet::new(), nodes: HashMap::new() });
        for pod in selected {
            self.select(id, pod);
        }
        Ok(())
    }

    /// A policy that is no more.
    pub fn remove_policy(&mut self, namespace: &str, name: &str) {
        if let Some(id) = self.policy_ids.remove(&(namespace.into(), name.into())) {
            self.take_policy(id);
        }
    }

    fn take_policy(&mut self, id: u32) {
        for pod in self.policies.get(&id).map(|policy| policy.pods.clone()).unwrap_or_default() {
            self.unselect(id, pod);
        }
        let Some(policy) = self.policies.remove(&id) else { return };
        if let Some(namespace) = self.namespaces.get_mut(&policy.name.0) {
            namespace.policies.remove(&id);
            namespace.selectors.remove(&policy.facts.select, id);
        }
        for number in policy.facts.groups.keys() {
            for pod in self.groups.release(*number) {
                if let Some(pod) = self.pods.get_mut(&pod) {
                    pod.groups.remove(number);
                }
            }
        }
    }

    /// A pod that is new or changed.
    pub fn put_pod(&mut self, pod: &Pod) {
        let name = name(&pod.metadata);
        let Some(facts) = PodFacts::of(pod) else { return self.take_pod(&name) };
        let old = self.pod_ids.get(&name).copied();
        let before = old.and_then(|id| self.pods.get(&id));
        if before.is_some_and(|pod| pod.facts == facts) {
            return;
        }
        // Another node or another pod of the name: nothing of the old one counts.
        if before.is_some_and(|pod| pod.facts.node != facts.node || pod.facts.uid != facts.uid) {
            self.take_pod(&name);
        }
        let id = self.pod_ids.get(&name).copied().unwrap_or_else(|| {
            self.last += 1;
            self.last
        });
        let (policies, groups) = match self.pods.remove(&id) {
            Some(old) => {
                self.unindex(id, &old);
                (old.policies, old.groups)
            }
            None => Default::default(),
        };
        self.pod_ids.insert(name.clone(), id);
        for port in facts.ports.keys() {
            self.ports.entry(port.clone()).or_default().insert(id);
            for node in self.port_nodes.get(port).into_iter().flat_map(HashMap::keys) {
                touch(&mut self.nodes, &mut self.dirty, node).peers.touch(&name);
            }
        }
        let namespace = self.namespaces.entry(Arc::clone(&name.0)).or_default();
        namespace.pods.insert(&facts.labels, id);
        let mut selecting = namespace.selectors.candidates(&facts.labels);
        selecting.retain(|p| self.policies.get(p).is_some_and(|p| p.facts.select.matches(&facts.labels)));
        let selecting: BTreeSet<u32> = selecting.into_iter().collect();
        let matching = self.groups.matching(&name.0, &facts.labels);
        for number in groups.union(&matching) {
            self.groups.set_member(*number, id, matching.contains(number));
            for node in self.groups.nodes(*number) {
                touch(&mut self.nodes, &mut self.dirty, node).peers.touch(&name);
            }
        }
        if let Some(node) = &facts.node {
            touch(&mut self.nodes, &mut self.dirty, node).pods.touch(&name);
        }
        let entry = PodEntry { name, facts, policies: policies.clone(), groups: matching };
        self.pods.insert(id, entry);
        for policy in policies.difference(&selecting) {
            self.unselect(*policy, id);
        }
        for policy in selecting.difference(&policies) {
            self.select(*policy, id);
        }
    }

    /// A pod that is no more.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        self.take_pod(&(namespace.into(), name.into()));
    }

    fn take_pod(&mut self, name: &Name) {
        let Some(id) = self.pod_ids.remove(name) else { return };
        for policy in self.pods.get(&id).map(|pod| pod.policies.clone()).unwrap_or_default() {
            self.unselect(policy, id);
        }
        let Some(pod) = self.pods.remove(&id) else { return };
        self.unindex(id, &pod);
        for number in &pod.groups {
            self.groups.set_member(*number, id, false);
            for node in self.groups.nodes(*number) {
                touch(&mut self.nodes, &mut self.dirty, node).peers.touch(name);
            }
        }
        if let Some(node) = &pod.facts.node {
            touch(&mut self.nodes, &mut self.dirty, node).pods.touch(name);
        }
    }

    /// Labels and ports.
    fn unindex(&mut self, id: u32, pod: &PodEntry) {
        if let Some(namespace) = self.namespaces.get_mut(&pod.name.0) {
            namespace.pods.remove(&pod.facts.labels, id);
        }
        for port in pod.facts.ports.keys() {
            if let Some(pods) = self.ports.get_mut(port) {
                pods.remove(&id);
                if pods.is_empty() {
                    self.ports.remove(port);
                }
            }
            for node in self.port_nodes.get(port).into_iter().flat_map(HashMap::keys) {
                touch(&mut self.nodes, &mut self.dirty, node).peers.touch(&pod.name);
            }
        }
    }

    /// A namespace that is new or changed.
    pub fn put_namespace(&mut self, namespace: &Namespace) {
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        self.set_namespace(name, Some(labels), audits(&namespace.metadata));
    }

    /// A namespace that is no more. Pods and policies in it are told of by themselves.
    pub fn remove_namespace(&mut self, name: &str) {
        self.set_namespace(name, None, false);
    }

    fn set_namespace(&mut self, name: &str, labels: Option<Labels>, audits: bool) {
        let name: Arc<str> = name.into();
        let entry = self.namespaces.entry(Arc::clone(&name)).or_default();
        let relabelled = entry.labels != labels;
        entry.labels = labels;
        if std::mem::replace(&mut entry.audits, audits) != audits {
            for policy in entry.policies.iter().filter_map(|id| self.policies.get(id)) {
                for node in policy.nodes.keys() {
                    touch(&mut self.nodes, &mut self.dirty, node).policies.touch(&policy.name);
                }
                for pod in policy.pods.iter().filter_map(|id| self.pods.get(id)) {
                    if let Some(node) = &pod.facts.node {
                        touch(&mut self.nodes, &mut self.dirty, node).pods.touch(&pod.name);
                    }
                }
            }
        }
        if relabelled {
            for number in self.groups.relabel(&name, entry.labels.as_ref()) {
                for id in entry.pods.all() {
                    let Some(pod) = self.pods.get_mut(id) else { continue };
                    let matches = self.groups.matches(number, &pod.name.0, &pod.facts.labels);
                    let changed =
                        if matches { pod.groups.insert(number) } else { pod.groups.remove(&number) };
                    if changed {
                        self.groups.set_member(number, *id, matches);
                        for node in self.groups.nodes(number) {
                            touch(&mut self.nodes, &mut self.dirty, node).peers.touch(&pod.name);
                        }
                    }
                }
            }
        }
    }

    fn select(&mut self, policy: u32, pod: u32) {
        let (Some(policy_entry), Some(pod_entry)) = (self.policies.get_mut(&policy), self.pods.get_mut(&pod))
        else {
            return;
        };
        policy_entry.pods.insert(pod);
        pod_entry.policies.insert(policy);
        let Some(node) = pod_entry.facts.node.clone() else { return };
        touch(&mut self.nodes, &mut self.dirty, &node).pods.touch(&pod_entry.name);
        let count = policy_entry.nodes.entry(Arc::clone(&node)).or_default();
        *count += 1;
        if *count == 1 {
            self.needed(policy, &node, true);
        }
    }

    fn unselect(&mut self, policy: u32, pod: u32) {
        let (Some(policy_entry), Some(pod_entry)) = (self.policies.get_mut(&policy), self.pods.get_mut(&pod))
        else {
            return;
        };
        policy_entry.pods.remove(&pod);
        pod_entry.policies.remove(&policy);
        let Some(node) = pod_entry.facts.node.clone() else { return };
        touch(&mut self.nodes, &mut self.dirty, &node).pods.touch(&pod_entry.name);
        let Some(count) = policy_entry.nodes.get_mut(&node) else { return };
        *count -= 1;
        if *count == 0 {
            policy_entry.nodes.remove(&node);
            self.needed(policy, &node, false);
        }
    }

    /// A node needs a policy, and with it what its rules ask for; or does so no longer.
    fn needed(&mut self, policy: u32, node: &Arc<str>, needed: bool) {
        let Some(policy) = self.policies.get(&policy) else { return };
        let entry = touch(&mut self.nodes, &mut self.dirty, node);
        entry.policies.touch(&policy.name);
        for number in policy.facts.groups.keys() {
            for pod in self.groups.need(*number, node, needed) {
                if let Some(pod) = self.pods.get(&pod) {
                    entry.peers.touch(&pod.name);
                }
            }
        }
        for port in &policy.facts.peer_ports {
            if groups::count(self.port_nodes.entry(port.clone()).or_default(), node, needed) {
                for pod in self.ports.get(port).into_iter().flatten().filter_map(|id| self.pods.get(id)) {
                    entry.peers.touch(&pod.name);
                }
            }
        }
    }

    /// What nodes are to be told since the last call, each in an order that is safe. Generations are the caller's.
    pub fn drain(&mut self) -> BTreeMap<Arc<str>, Vec<pb::Update>> {
        let mut out = BTreeMap::new();
        for name in std::mem::take(&mut self.dirty) {
            let Some(mut node) = self.nodes.remove(&name) else { continue };
            let updates = node.updates(
                |policy| self.policy_for(&name, policy),
                |pod| self.peer_for(&name, pod),
                |pod| self.pod_for(&name, pod),
            );
            debug_assert!(node.is_clean(), "all of it was told");
            self.nodes.insert(Arc::clone(&name), node);
            if !updates.is_empty() {
                out.insert(name, updates);
            }
        }
        out
    }

    fn policy_for(&self, node: &str, name: &Name) -> Option<pb::Policy> {
        let policy = self.policies.get(self.policy_ids.get(name)?)?;
        policy.nodes.contains_key(node).then(|| policy.facts.told(self.audits(name)))
    }

    fn audits(&self, policy: &Name) -> bool {
        self.namespaces.get(&policy.0).is_some_and(|namespace| namespace.audits)
    }

    fn peer_for(&self, node: &Arc<str>, name: &Name) -> Option<pb::PolicyPeer> {
        let pod = self.pods.get(self.pod_ids.get(name)?)?;
        let groups: Vec<u64> =
            pod.groups.iter().copied().filter(|number| self.groups.is_needed(*number, node)).collect();
        let asked = |port: &PortName| self.port_nodes.get(port).is_some_and(|nodes| nodes.contains_key(node));
        let ports = ports(pod, asked);
        let nobody = pod.facts.addresses.is_empty() || groups.is_empty() && ports.is_empty();
        (!nobody).then(|| pb::PolicyPeer { addresses: pod.facts.addresses.clone(), groups, ports })
    }

    fn pod_for(&self, node: &str, name: &Name) -> Option<pb::PodPolicy> {
        let pod = self.pods.get(self.pod_ids.get(name)?)?;
        pod.facts.node.as_deref().filter(|own| *own == node)?;
        let policies: BTreeMap<&Name, &PolicyEntry> =
            pod.policies.iter().filter_map(|id| self.policies.get(id)).map(|p| (&p.name, p)).collect();
        let ports = ports(pod, |port| policies.values().any(|policy| policy.facts.own_ports.contains(port)));
        let reference = |(name, policy): (&Name, &PolicyEntry)| pb::PolicyReference {
            namespace: name.0.to_string(),
            name: name.1.to_string(),
            revision: policy.facts.told(self.audits(name)).revision,
        };
        Some(pb::PodPolicy { policies: policies.into_iter().map(reference).collect(), ports })
    }
}

fn ports(pod: &PodEntry, asked: impl Fn(&PortName) -> bool) -> Vec<pb::NamedPort> {
    let port = |((name, protocol), port): (&PortName, &u32)| pb::NamedPort {
        name: name.clone(),
        protocol: *protocol,
        port: *port,
    };
    pod.facts.ports.iter().filter(|(name, _)| asked(name)).map(port).collect()
}

fn touch<'a>(
    nodes: &'a mut HashMap<Arc<str>, Node>,
    dirty: &mut BTreeSet<Arc<str>>,
    node: &Arc<str>,
) -> &'a mut Node {
    if !dirty.contains(node) {
        dirty.insert(Arc::clone(node));
    }
    nodes.entry(Arc::clone(node)).or_default()
}

#[cfg(test)]
mod tests;
