//! A node and what is on it.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::{Node, Taint};

use super::{
    pod::{HostPort, Labels, PodView, Shape},
    resources::Amounts,
};

/// The label that says in which zone a node is.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
/// The label that names a node's host.
pub(super) const HOST: &str = "kubernetes.io/hostname";

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
    /// Takes what the Node object says; the pods stay.
    pub(super) fn read(&mut self, node: &Node) {
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

    /// Forgets what the Node object said; the pods stay.
    pub(super) fn forget(&mut self) {
        let (name, pods) = (self.name.clone(), std::mem::take(&mut self.pods));
        *self = Self { name, ..Self::default() };
        for pod in pods.values() {
            self.add(pod);
        }
    }

    pub(super) fn add(&mut self, pod: &Arc<PodView>) {
        let shape = &pod.shape;
        self.said.add(&shape.requests.said);
        self.assumed.add(&shape.requests.assumed);
        self.host_ports.extend(shape.host_ports.iter().cloned());
        self.pods.insert(pod.uid.clone(), pod.clone());
    }

    pub(super) fn remove(&mut self, uid: &str) -> Option<Arc<PodView>> {
        let pod = self.pods.remove(uid)?;
        self.said.sub(&pod.shape.requests.said);
        self.assumed.sub(&pod.shape.requests.assumed);
        for port in &pod.shape.host_ports {
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

    pub(super) fn zone(&self) -> &str {
        self.domain(ZONE).unwrap_or("")
    }

    /// A taint that keeps pods of this shape off it.
    pub(super) fn untolerated(&self, shape: &Shape) -> Option<&Taint> {
        let bars = |t: &&Taint| t.effect == "NoSchedule" || t.effect == "NoExecute";
        self.taints.iter().filter(bars).find(|taint| !shape.tolerates(taint))
    }
}
