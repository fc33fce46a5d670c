//! From the API's pod to its shape.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, PodSpec, WeightedPodAffinityTerm};

use super::terms::{HostPort, NodeTerm, PodTerm, Spread};
use super::{Labels, Shape, Tolerance};
use crate::{
    cache::{MetaExt, Pod},
    model::LabelSelector,
    placement::resources::Requests,
};

pub(super) fn shape(pod: &Pod) -> Shape {
    let meta = &pod.metadata;
    let labels = (*pod.labels).clone();
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    let controller = owners.iter().find(|o| o.controller == Some(true)).map(|o| o.uid.as_str().into());
    let mut shape = Shape { namespace: meta.namespace_str().into(), controller, ..Shape::default() };
    if let Some(spec) = &pod.spec {
        read_spec(&mut shape, spec, &labels);
    }
    shape.labels = labels;
    shape
}

fn read_spec(shape: &mut Shape, spec: &PodSpec, labels: &Labels) {
    shape.requests = Requests::of(spec);
    shape.node_selector = LabelSelector::from_map(spec.node_selector.iter().flatten());
    shape.tolerations = spec.tolerations.iter().flatten().map(Tolerance::of).collect();
    let constraints = spec.topology_spread_constraints.iter().flatten();
    shape.spread = constraints.filter_map(|c| Spread::parse(c, labels)).collect();
    shape.images = spec.containers.iter().filter_map(|c| c.image.clone()).collect();
    shape.host_ports = host_ports(spec);
    if let Some(affinity) = &spec.affinity {
        read_affinity(shape, affinity, labels);
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    // Sidecars hold their ports as long as the pod's containers do.
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            Some(HostPort {
                address: p.host_ip.clone().unwrap_or_default(),
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: p.host_port.filter(|n| *n > 0)?,
            })
        })
        .collect()
}

fn read_affinity(shape: &mut Shape, affinity: &Affinity, labels: &Labels) {
    if let Some(node) = &affinity.node_affinity {
        let required = node.required_during_scheduling_ignored_during_execution.as_ref();
        shape.node_required = required.map(|s| s.node_selector_terms.iter().map(NodeTerm::parse).collect());
        let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        shape.node_preferred = preferred.map(|p| (p.weight.into(), NodeTerm::parse(&p.preference))).collect();
    }
    let namespace = shape.namespace.clone();
    let parse = |term: &PodAffinityTerm| Arc::new(PodTerm::parse(term, &namespace, labels));
    let terms = |list: &Option<Vec<PodAffinityTerm>>| list.iter().flatten().map(parse).collect();
    let weighted = |list: &Option<Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<(i64, Arc<PodTerm>)> {
        let weigh = |t: &WeightedPodAffinityTerm| (sign * i64::from(t.weight), parse(&t.pod_affinity_term));
        list.iter().flatten().map(weigh).collect()
    };
    if let Some(pods) = &affinity.pod_affinity {
        shape.affinity = terms(&pods.required_during_scheduling_ignored_during_execution);
        shape.preferred.extend(weighted(&pods.preferred_during_scheduling_ignored_during_execution, 1));
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        shape.anti_affinity = terms(&pods.required_during_scheduling_ignored_during_execution);
        shape.preferred.extend(weighted(&pods.preferred_during_scheduling_ignored_during_execution, -1));
    }
}
