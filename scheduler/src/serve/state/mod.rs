//! The state of the cluster as metrics, under the names of kube-state-metrics, so that its dashboards work. Made
//! from the cache at each scrape: nothing is counted twice and nothing outlives its object.

use std::fmt;

use k8s_openapi::api::core::v1::{Container, Node, Pod};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

use crate::{
    cache::{Cache, MetaExt},
    placement::Amounts,
};

/// The collector.
#[derive(Clone)]
pub struct ClusterState {
    cache: Cache,
}

impl fmt::Debug for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterState").finish_non_exhaustive()
    }
}

type Sample = (Vec<(&'static str, String)>, f64);

impl ClusterState {
    /// Over `cache`.
    pub fn new(cache: &Cache) -> Self {
        Self { cache: cache.clone() }
    }

    fn families(&self) -> Vec<(&'static str, &'static str, Vec<Sample>)> {
        let (mut families, pods) = (self.pods(), self.workloads());
        families.extend(pods);
        families.extend(self.nodes());
        families
    }

    fn pods(&self) -> Vec<(&'static str, &'static str, Vec<Sample>)> {
        let pods = self.cache.pods.all();
        let (mut phases, mut ready, mut scheduled) = (Vec::new(), Vec::new(), Vec::new());
        let (mut restarts, mut requests, mut limits, mut info) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for pod in &pods {
            for phase in ["Pending", "Running", "Succeeded", "Failed", "Unknown"] {
                let holds = phase_of(pod) == phase;
                phases.push((with(pod, &[("phase", phase)]), f64::from(holds)));
            }
            for (samples, type_) in [(&mut ready, "Ready"), (&mut scheduled, "PodScheduled")] {
                samples.extend(truth(pod, type_));
            }
            for status in pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()) {
                let labels = with(pod, &[("container", &status.name)]);
                restarts.push((labels, f64::from(status.restart_count)));
            }
            for container in pod.spec.iter().flat_map(|s| &s.containers) {
                requests.extend(amounts(pod, container, |r| r.requests.as_ref()));
                limits.extend(amounts(pod, container, |r| r.limits.as_ref()));
            }
            let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("");
            let ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).unwrap_or("");
            info.push((with(pod, &[("node", node), ("pod_ip", ip)]), 1.0));
        }
        vec![
            ("kube_pod_info", "Where a pod is", info),
            ("kube_pod_status_phase", "The phase of a pod", phases),
            ("kube_pod_status_ready", "Whether a pod is ready", ready),
            ("kube_pod_status_scheduled", "Whether a pod has a node", scheduled),
            ("kube_pod_container_status_restarts", "Restarts of a container", restarts),
            ("kube_pod_container_resource_requests", "What a container asks for", requests),
            ("kube_pod_container_resource_limits", "What a container may use", limits),
        ]
    }

    fn workloads(&self) -> Vec<(&'static str, &'static str, Vec<Sample>)> {
        let mut all: [Vec<Sample>; 5] = Default::default();
        for deployment in self.cache.deployments.all() {
            let meta = &deployment.metadata;
            let labels = vec![
                ("namespace", meta.namespace_str().to_owned()),
                ("deployment", meta.name_str().to_owned()),
            ];
            let status = deployment.status.clone().unwrap_or_default();
            let values = [
                deployment.spec.replicas,
                status.replicas,
                status.available_replicas,
                status.unavailable_replicas,
                status.updated_replicas,
            ];
            for (samples, value) in all.iter_mut().zip(values) {
                samples.push((labels.clone(), f64::from(value.unwrap_or(0))));
            }
        }
        let [wanted, replicas, available, unavailable, updated] = all;
        vec![
            ("kube_deployment_spec_replicas", "Pods asked for", wanted),
            ("kube_deployment_status_replicas", "Pods there are", replicas),
            ("kube_deployment_status_replicas_available", "Pods that are available", available),
            ("kube_deployment_status_replicas_unavailable", "Pods that are missing", unavailable),
            ("kube_deployment_status_replicas_updated", "Pods of the newest template", updated),
        ]
    }

    fn nodes(&self) -> Vec<(&'static str, &'static str, Vec<Sample>)> {
        let (mut conditions, mut allocatable, mut cordoned) = (Vec::new(), Vec::new(), Vec::new());
        for node in self.cache.nodes.all() {
            let name = node.metadata.name_str();
            conditions.extend(conditions_of(&node, name));
            let status = node.status.as_ref();
            let amounts = Amounts::parse(status.and_then(|s| s.allocatable.as_ref()));
            for (resource, amount) in amounts.iter() {
                let labels = vec![("node", name.to_owned()), ("resource", resource.replace('-', "_"))];
                allocatable.push((labels, base_unit(resource, amount)));
            }
            let value = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
            cordoned.push((vec![("node", name.to_owned())], f64::from(value)));
        }
        vec![
            ("kube_node_status_condition", "The conditions of a node", conditions),
            ("kube_node_status_allocatable", "What pods may use of a node", allocatable),
            ("kube_node_spec_unschedulable", "Whether a node is cordoned", cordoned),
        ]
    }
}

impl Collector for ClusterState {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, samples) in self.families() {
            if samples.is_empty() {
                continue;
            }
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, value) in samples {
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn phase_of(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

fn with(pod: &Pod, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let meta = &pod.metadata;
    let mut labels = vec![
        ("namespace", meta.namespace_str().to_owned()),
        ("pod", meta.name_str().to_owned()),
        ("uid", meta.uid_str().to_owned()),
    ];
    labels.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    labels
}

/// One sample for each of `true`, `false` and `unknown`; exactly one of them is 1.
fn truth(pod: &Pod, type_: &str) -> Vec<Sample> {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let Some(condition) = conditions.iter().find(|c| c.type_ == type_) else { return Vec::new() };
    let status = condition.status.to_lowercase();
    ["true", "false", "unknown"]
        .into_iter()
        .map(|value| (with(pod, &[("condition", value)]), f64::from(status == value)))
        .collect()
}

fn conditions_of(node: &Node, name: &str) -> Vec<Sample> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let each = conditions.iter().flat_map(|condition| {
        ["true", "false", "unknown"].into_iter().map(move |value| {
            let labels = vec![
                ("node", name.to_owned()),
                ("condition", condition.type_.clone()),
                ("status", value.to_owned()),
            ];
            (labels, f64::from(condition.status.to_lowercase() == value))
        })
    });
    each.collect()
}

type Quantities = std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

fn amounts(
    pod: &Pod,
    container: &Container,
    which: impl Fn(&k8s_openapi::api::core::v1::ResourceRequirements) -> Option<&Quantities>,
) -> Vec<Sample> {
    let amounts = Amounts::parse(container.resources.as_ref().and_then(which));
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("");
    let sample = |(resource, amount): (&str, i64)| {
        let unit = if resource == "cpu" { "core" } else { "byte" };
        let resource_label = resource.replace('-', "_");
        let more = [
            ("container", container.name.as_str()),
            ("node", node),
            ("resource", resource_label.as_str()),
            ("unit", unit),
        ];
        (with(pod, &more), base_unit(resource, amount))
    };
    amounts.iter().map(sample).collect()
}

fn base_unit(resource: &str, amount: i64) -> f64 {
    if resource == "cpu" { amount as f64 / 1000.0 } else { amount as f64 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_in_exactly_one_phase_and_its_requests_are_in_base_units() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "resources": {"requests": {
                "cpu": "250m", "memory": "64Mi", "ephemeral-storage": "1"}}}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        let holding: Vec<_> = truth(&pod, "Ready").into_iter().filter(|(_, v)| *v == 1.0).collect();
        assert_eq!(holding.len(), 1);
        assert!(holding[0].0.contains(&("condition", "true".to_owned())));
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let samples = amounts(&pod, container, |r| r.requests.as_ref());
        let value = |resource: &str| {
            let label = ("resource", resource.to_owned());
            samples.iter().find(|(labels, _)| labels.contains(&label)).map(|(_, v)| *v)
        };
        assert_eq!(value("cpu"), Some(0.25));
        assert_eq!(value("memory"), Some(67_108_864.0));
        assert_eq!(value("ephemeral_storage"), Some(1.0));
    }
}
