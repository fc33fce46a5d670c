//! The cluster as placement sees it, kept current change by change: nodes with what is on them, and the pods
//! that others attract or repel. Owned by one task; never waits for anything.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, Taint};

use super::{
    pod::{HostPort, Labels, PodView},
    resources::Amounts,
};
use crate::{cache::MetaExt, model::LabelSelector};

/// A node and what is on it.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// Its name.
    pub name: Arc<str>,
    /// Whether a Node object says so. Pods may be known to be on a node before the node is.
    pub(super) known: bool,
    pub(super) labels: Labels,
    pub(super) taints: Vec<Taint>,
    pub(super) unschedulable: bool,
    pub(super) allocatable: Amounts,
    /// Bytes of each image that is there.
    pub(super) images: HashMap<String, i64>,
    pub(super) said: Amounts,
    pub(super) assumed: Amounts,
    pub(super) host_ports: Vec<HostPort>,
    pub(super) pods: HashMap<Arc<str>, Arc<PodView>>,
}

impl NodeView {
    fn read(&mut self, node: &Node) {
        self.known = true;
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        let spec = node.spec.as_ref();
        self.taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        self.unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or(false);
        let status = node.status.as_ref();
        self.allocatable = Amounts::parse(status.and_then(|s| s.allocatable.as_ref()));
        let images = status.and_then(|s| s.images.as_deref()).unwrap_or_default();
        self.images = images
            .iter()
            .flat_map(|i| i.names.iter().flatten().map(|n| (n.clone(), i.size_bytes.unwrap_or(0))))
            .collect();
    }

    fn add(&mut self, pod: &Arc<PodView>) {
        self.said.add(&pod.requests.said);
        self.assumed.add(&pod.requests.assumed);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods.insert(pod.uid.clone(), pod.clone());
    }

    fn remove(&mut self, uid: &str) -> Option<Arc<PodView>> {
        let pod = self.pods.remove(uid)?;
        self.said.sub(&pod.requests.said);
        self.assumed.sub(&pod.requests.assumed);
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|p| p == port) {
                self.host_ports.swap_remove(at);
            }
        }
        Some(pod)
    }

    /// The value of one of its labels: its place in a topology.
    pub(super) fn domain(&self, topology: &str) -> Option<&str> {
        self.labels.get(topology).map(String::as_str)
    }
}

/// All nodes and the pods on them.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(super) nodes: BTreeMap<Arc<str>, NodeView>,
    /// Where each pod is.
    homes: HashMap<Arc<str>, Arc<str>>,
    /// Pods by namespace: terms speak of a few namespaces, seldom of all.
    by_namespace: HashMap<Arc<str>, HashMap<Arc<str>, Arc<PodView>>>,
    /// Pods with terms of their own.
    with_terms: HashMap<Arc<str>, Arc<PodView>>,
    pub(super) namespaces: HashMap<Arc<str>, Labels>,
    services: HashMap<Arc<str>, HashMap<Arc<str>, LabelSelector>>,
    known: usize,
    image_spread: HashMap<String, usize>,
}

impl Snapshot {
    /// A node is there or has changed.
    pub fn set_node(&mut self, node: &Node) {
        let name: Arc<str> = node.metadata.name_str().into();
        let view = self.nodes.entry(name.clone()).or_default();
        view.name = name;
        if !view.known {
            self.known += 1;
        }
        count_images(&mut self.image_spread, &view.images, false);
        view.read(node);
        count_images(&mut self.image_spread, &view.images, true);
    }

    /// A node is gone. Its pods are remembered until they are deleted.
    pub fn remove_node(&mut self, name: &str) {
        let Some(view) = self.nodes.get_mut(name) else { return };
        if view.known {
            self.known -= 1;
        }
        count_images(&mut self.image_spread, &view.images, false);
        if view.pods.is_empty() {
            self.nodes.remove(name);
        } else {
            let (name, pods) = (view.name.clone(), std::mem::take(&mut view.pods));
            *view = NodeView { name, ..NodeView::default() };
            for pod in pods.values() {
                view.add(pod);
            }
        }
    }

    /// A pod is on a node, or will be: it counts there from now on.
    pub fn set_pod(&mut self, pod: &Arc<PodView>, node: &str) {
        self.remove_pod(&pod.uid);
        let name: Arc<str> = node.into();
        let view = self.nodes.entry(name.clone()).or_default();
        view.name = name.clone();
        view.add(pod);
        self.homes.insert(pod.uid.clone(), name);
        self.by_namespace.entry(pod.namespace.clone()).or_default().insert(pod.uid.clone(), pod.clone());
        if pod.has_terms() {
            self.with_terms.insert(pod.uid.clone(), pod.clone());
        }
    }

    /// A pod takes up nothing any more. Whether it did.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(home) = self.homes.remove(uid) else { return false };
        self.with_terms.remove(uid);
        if let Some(view) = self.nodes.get_mut(&home) {
            if let Some(pod) = view.remove(uid)
                && let Some(pods) = self.by_namespace.get_mut(&pod.namespace)
            {
                pods.remove(uid);
                if pods.is_empty() {
                    self.by_namespace.remove(&pod.namespace);
                }
            }
            if !view.known && view.pods.is_empty() {
                self.nodes.remove(&home);
            }
        }
        true
    }

    /// A namespace is there or has changed.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) {
        self.namespaces.insert(name.into(), labels);
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// A service selects pods, or (`None`) does not any more.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Option<LabelSelector>) {
        let services = self.services.entry(namespace.into()).or_default();
        match selector {
            Some(selector) => drop(services.insert(name.into(), selector)),
            None => drop(services.remove(name)),
        }
        if services.is_empty() {
            self.services.remove(namespace);
        }
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.known
    }

    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.values().filter(|n| n.known)
    }

    /// Where a pod counts.
    pub fn home(&self, uid: &str) -> Option<&Arc<str>> {
        self.homes.get(uid)
    }

    pub(super) fn node_of(&self, pod: &PodView) -> Option<&NodeView> {
        self.nodes.get(self.homes.get(&pod.uid)?).filter(|n| n.known)
    }

    pub(super) fn with_terms(&self) -> impl Iterator<Item = &PodView> {
        self.with_terms.values().map(|p| &**p)
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &PodView> {
        self.by_namespace.get(namespace).into_iter().flat_map(HashMap::values).map(|p| &**p)
    }

    /// Pods in the namespaces that `covers` accepts.
    pub(super) fn in_namespaces(&self, covers: impl Fn(&str) -> bool) -> impl Iterator<Item = &PodView> {
        let pods = self.by_namespace.iter().filter(move |(name, _)| covers(name)).map(|(_, pods)| pods);
        pods.flat_map(HashMap::values).map(|p| &**p)
    }

    /// The services that select a pod.
    pub(super) fn services_of(&self, pod: &PodView) -> Vec<&LabelSelector> {
        let services = self.services.get(&pod.namespace).into_iter().flat_map(HashMap::values);
        services.filter(|s| s.matches(&pod.labels)).collect()
    }

    /// On how many nodes an image is.
    pub(super) fn nodes_with(&self, image: &str) -> usize {
        self.image_spread.get(image).copied().unwrap_or(0)
    }
}

fn count_images(spread: &mut HashMap<String, usize>, images: &HashMap<String, i64>, up: bool) {
    for name in images.keys() {
        let count = spread.entry(name.clone()).or_default();
        *count = if up { *count + 1 } else { count.saturating_sub(1) };
    }
}
