//! Pods and their containers.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus};

use super::{Family, Labels, amounts, owners};
use crate::cache::{MetaExt, Pod};

const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];

/// All metrics of pods.
pub(super) fn families(pods: &[Arc<Pod>]) -> Vec<Family> {
    let mut families = whole(pods);
    families.extend(containers(pods));
    families.extend(resources(pods));
    families
}

fn with(pod: &Pod, more: &[(&'static str, &str)]) -> Labels {
    let mut labels = super::labels(&pod.metadata, "pod", &[("uid", pod.metadata.uid_str())]);
    labels.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    labels
}

fn node(pod: &Pod) -> &str {
    pod.node().unwrap_or("")
}

fn whole(pods: &[Arc<Pod>]) -> Vec<Family> {
    let mut info = Family::gauge("kube_pod_info", "Where a pod is");
    let mut owner = Family::gauge("kube_pod_owner", "Who owns a pod");
    let mut phases = Family::gauge("kube_pod_status_phase", "The phase of a pod");
    let mut ready = Family::gauge("kube_pod_status_ready", "Whether a pod is ready");
    let mut scheduled = Family::gauge("kube_pod_status_scheduled", "Whether a pod has a node");
    for pod in pods {
        let status = pod.status.as_ref();
        let ip = status.and_then(|s| s.pod_ip.as_deref()).unwrap_or("");
        let host = status.and_then(|s| s.host_ip.as_deref()).unwrap_or("");
        let references = pod.metadata.owner_references.iter().flatten();
        let maker = references.clone().find(|o| o.controller == Some(true));
        let (kind, name) = maker.map_or(("", ""), |o| (o.kind.as_str(), o.name.as_str()));
        let more = [
            ("node", node(pod)),
            ("pod_ip", ip),
            ("host_ip", host),
            ("created_by_kind", kind),
            ("created_by_name", name),
        ];
        info.add(with(pod, &more), 1.0);
        for labels in owners(&pod.metadata) {
            owner.add(with(pod, &[]).into_iter().chain(labels).collect(), 1.0);
        }
        let now = status.and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
        for phase in PHASES {
            phases.add(with(pod, &[("phase", phase)]), f64::from(now == phase));
        }
        ready.samples.extend(truth(pod, "Ready"));
        scheduled.samples.extend(truth(pod, "PodScheduled"));
    }
    vec![info, owner, phases, ready, scheduled]
}

/// One sample for each of `true`, `false` and `unknown`; exactly one of them is 1.
pub(super) fn truth(pod: &Pod, type_: &str) -> Vec<(Labels, f64)> {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let Some(condition) = conditions.iter().find(|c| c.type_ == type_) else { return Vec::new() };
    let status = condition.status.to_lowercase();
    ["true", "false", "unknown"]
        .into_iter()
        .map(|value| (with(pod, &[("condition", value)]), f64::from(status == value)))
        .collect()
}

fn containers(pods: &[Arc<Pod>]) -> Vec<Family> {
    let mut info = Family::gauge("kube_pod_container_info", "What a container runs");
    let mut restarts =
        Family::counter("kube_pod_container_status_restarts", "How often a container was started again");
    let mut ready = Family::gauge("kube_pod_container_status_ready", "Whether a container is ready");
    let mut running = Family::gauge("kube_pod_container_status_running", "Whether a container runs");
    let mut waiting =
        Family::gauge("kube_pod_container_status_waiting", "Whether a container waits to start");
    let mut ended = Family::gauge("kube_pod_container_status_terminated", "Whether a container has ended");
    let mut why = Family::gauge("kube_pod_container_status_waiting_reason", "Why a container waits to start");
    let mut last = Family::gauge(
        "kube_pod_container_status_last_terminated_reason",
        "Why a container ended the last time",
    );
    for pod in pods {
        for status in pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()) {
            let labels = || with(pod, &[("container", &status.name)]);
            info.add(described(pod, status), 1.0);
            restarts.add(labels(), f64::from(status.restart_count));
            ready.add(labels(), f64::from(status.ready));
            let state = status.state.as_ref();
            let is = |which: fn(&ContainerState) -> bool| f64::from(state.is_some_and(which));
            running.add(labels(), is(|s| s.running.is_some()));
            waiting.add(labels(), is(|s| s.waiting.is_some()));
            ended.add(labels(), is(|s| s.terminated.is_some()));
            let reason = state.and_then(|s| s.waiting.as_ref()?.reason.as_deref());
            let before = status.last_state.as_ref().and_then(|s| s.terminated.as_ref()?.reason.as_deref());
            for (family, reason) in [(&mut why, reason), (&mut last, before)] {
                if let Some(reason) = reason {
                    family.add(with(pod, &[("container", &status.name), ("reason", reason)]), 1.0);
                }
            }
        }
    }
    vec![info, restarts, ready, running, waiting, ended, why, last]
}

fn described(pod: &Pod, status: &ContainerStatus) -> Labels {
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    let asked = containers.into_iter().find(|c| c.name == status.name).and_then(|c| c.image.as_deref());
    let more = [
        ("container", status.name.as_str()),
        ("image_spec", asked.unwrap_or("")),
        ("image", &status.image),
        ("image_id", &status.image_id),
        ("container_id", status.container_id.as_deref().unwrap_or("")),
    ];
    with(pod, &more)
}

pub(super) fn resources(pods: &[Arc<Pod>]) -> Vec<Family> {
    let mut requests = Family::gauge("kube_pod_container_resource_requests", "What a container asks for");
    let mut limits = Family::gauge("kube_pod_container_resource_limits", "What a container may use");
    for pod in pods {
        for container in pod.spec.iter().flat_map(|s| &s.containers) {
            let resources = container.resources.as_ref();
            for (family, quantities) in [
                (&mut requests, resources.and_then(|r| r.requests.as_ref())),
                (&mut limits, resources.and_then(|r| r.limits.as_ref())),
            ] {
                for (unit, value) in amounts(quantities) {
                    let labels = with(pod, &[("container", &container.name), ("node", node(pod))]);
                    family.add(labels.into_iter().chain(unit).collect(), value);
                }
            }
        }
    }
    vec![requests, limits]
}
