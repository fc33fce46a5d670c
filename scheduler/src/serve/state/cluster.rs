//! Nodes, Services and Namespaces.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};

use super::{Family, Labels, amounts, labels};
use crate::{cache::MetaExt, model::Resource};

/// All metrics of nodes.
pub(super) fn nodes(all: &[Arc<Node>]) -> Vec<Family> {
    let mut info = Family::gauge("kube_node_info", "What a node is");
    let mut conditions = Family::gauge("kube_node_status_condition", "The conditions of a node");
    let mut capacity = Family::gauge("kube_node_status_capacity", "What a node has");
    let mut allocatable = Family::gauge("kube_node_status_allocatable", "What pods may use of a node");
    let mut cordoned = Family::gauge("kube_node_spec_unschedulable", "Whether a node is cordoned");
    for node in all {
        let name = || vec![("node", node.metadata.name_str().to_owned())];
        let status = node.status.as_ref();
        info.add(described(node), 1.0);
        for condition in status.iter().flat_map(|s| s.conditions.iter().flatten()) {
            for value in ["true", "false", "unknown"] {
                let mut labels = name();
                labels.push(("condition", condition.type_.clone()));
                labels.push(("status", value.to_owned()));
                conditions.add(labels, f64::from(condition.status.to_lowercase() == value));
            }
        }
        for (family, quantities) in [
            (&mut capacity, status.and_then(|s| s.capacity.as_ref())),
            (&mut allocatable, status.and_then(|s| s.allocatable.as_ref())),
        ] {
            for (unit, value) in amounts(quantities) {
                family.add(name().into_iter().chain(unit).collect(), value);
            }
        }
        let value = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        cordoned.add(name(), f64::from(value));
    }
    vec![info, conditions, capacity, allocatable, cordoned]
}

fn described(node: &Node) -> Labels {
    let status = node.status.clone().unwrap_or_default();
    let info = status.node_info.unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    let internal = addresses.into_iter().find(|a| a.type_ == "InternalIP").map(|a| a.address);
    let range = node.spec.as_ref().and_then(|s| s.pod_cidr.clone());
    vec![
        ("node", node.metadata.name_str().to_owned()),
        ("kernel_version", info.kernel_version),
        ("os_image", info.os_image),
        ("container_runtime_version", info.container_runtime_version),
        ("kubelet_version", info.kubelet_version),
        ("pod_cidr", range.unwrap_or_default()),
        ("system_uuid", info.system_uuid),
        ("internal_ip", internal.unwrap_or_default()),
    ]
}

/// All metrics of Services.
pub(super) fn services(all: &[Arc<Service>]) -> Vec<Family> {
    let mut info = Family::gauge("kube_service_info", "What a service is reached by");
    for service in all {
        let spec = service.spec.as_ref();
        let text = |field: Option<&String>| field.cloned().unwrap_or_default();
        let address = text(spec.and_then(|s| s.cluster_ip.as_ref()));
        let external = text(spec.and_then(|s| s.external_name.as_ref()));
        let balanced = text(spec.and_then(|s| s.load_balancer_ip.as_ref()));
        let more = [
            ("uid", service.metadata.uid_str()),
            ("cluster_ip", &address),
            ("external_name", &external),
            ("load_balancer_ip", &balanced),
        ];
        info.add(labels(&service.metadata, "service", &more), 1.0);
    }
    vec![info]
}

/// All metrics of Namespaces.
pub(super) fn namespaces(all: &[Arc<Namespace>]) -> Vec<Family> {
    let mut phases = Family::gauge("kube_namespace_status_phase", "The phase of a namespace");
    for namespace in all {
        let now = namespace.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Active");
        for phase in ["Active", "Terminating"] {
            let name = namespace.metadata.name_str().to_owned();
            let labels = vec![("namespace", name), ("phase", phase.to_owned())];
            phases.add(labels, f64::from(now == phase));
        }
    }
    vec![phases]
}

/// Objects that nobody can ask for.
pub(super) fn unserved(all: &[(Resource, usize)]) -> Vec<Family> {
    let mut count = Family::gauge(
        "gantry_store_unserved_objects",
        "Stored objects of a kind that is not served: they are kept until it is",
    );
    for (resource, objects) in all {
        count.add(vec![("resource", resource.0.to_owned())], *objects as f64);
    }
    vec![count]
}
