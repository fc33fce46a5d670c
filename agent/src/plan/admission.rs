//! Whether the node takes a pod at all, asked once, before anything is made for it: whoever bound the pod may have
//! known less than the node does. A pod that is not taken is Failed, with upstream's reasons and words, so that its
//! owner makes another one elsewhere. Labels and taints are those of the Node in the API, which the node is sent; before
//! it was, nobody is refused for them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use super::{
    affinity,
    context::Context,
    phase::terminal,
    quantity::{milli, value},
    resources::HUGE_PAGES,
    sysctls,
};
use crate::model::{
    DesiredPod, ObservedPod,
    spec::{all_containers, deleted, is_sidecar, restartable_and_main},
};

/// What every node is.
const OS: &str = "linux";
/// The label that says so.
const OS_LABEL: &str = "kubernetes.io/os";

/// Why a pod is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `status.reason`, and that of the event.
    pub reason: &'static str,
    /// The event's message; the status has it after [`REFUSED`].
    pub message: String,
}

/// What the status puts before the message.
pub(super) const REFUSED: &str = "Pod was rejected: ";

/// Whether the pod stands before the question: nothing was made for it or reported of it yet.
pub fn is_new(pod: &Pod, seen: &ObservedPod) -> bool {
    let begun = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    let made = !seen.containers.is_empty() || seen.network.is_some() || seen.cgroup;
    !(begun || made || seen.record.status.is_some() || deleted(pod))
}

/// The first reason not to take it, in upstream's order.
pub(super) fn refuse(context: &Context<'_>, pod: &DesiredPod, seen: &ObservedPod) -> Option<Refusal> {
    if !is_new(&pod.pod, seen) {
        return None;
    }
    let spec = pod.pod.spec.as_ref()?;
    let refusal = |reason, message: String| Some(Refusal { reason, message });
    if let Err(why) = sysctls::check(&pod.pod, &context.node.allowed_sysctls) {
        return refusal("SysctlForbidden", format!("forbidden sysctl: {why}"));
    }
    let labels = pod.pod.metadata.labels.as_ref();
    if labels.and_then(|labels| labels.get(OS_LABEL)).is_some_and(|os| os != OS) {
        let why = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return refusal("PodOSSelectorNodeLabelDoesNotMatch", why.to_owned());
    }
    if spec.os.as_ref().is_some_and(|os| os.name != OS) {
        return refusal(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS".to_owned(),
        );
    }
    let groups =
        spec.security_context.as_ref().and_then(|context| context.supplemental_groups_policy.as_deref());
    if groups == Some("Strict") {
        let why = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return refusal("SupplementalGroupsPolicyNotSupported", why.to_owned());
    }
    let others: Vec<&PodSpec> = others(context, pod).filter_map(|other| other.pod.spec.as_ref()).collect();
    let own = context.desired.node.as_ref();
    let failed = |name: &'static str, why: &str| Refusal {
        reason: name,
        message: format!("Predicate {name} failed: {why}"),
    };
    let unwanted = own.filter(|own| !affinity::allows(spec, context.node.name.as_str(), &own.labels));
    let tainted = own.filter(|own| !affinity::tolerated(spec, &own.taints));
    room(context, spec, &others)
        .or_else(|| {
            unwanted.map(|_| failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"))
        })
        .or_else(|| {
            let why = "node(s) didn't have free ports for the requested pod ports";
            ports(spec, &others).then(|| failed("NodePorts", why))
        })
        .or_else(|| {
            tainted.map(|_| failed("TaintToleration", "node(s) had taints that the pod didn't tolerate"))
        })
}

/// The pods that were taken before this one and are not over. Of two that nothing has been said about yet, the older
/// one comes first: they may be asked about at the same time.
fn others<'a>(context: &Context<'a>, pod: &'a DesiredPod) -> impl Iterator<Item = &'a DesiredPod> {
    let (desired, standings) = (context.desired, context.standings);
    let age = |pod: &DesiredPod| {
        let made = pod.pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (made, pod.name.clone(), pod.uid.clone())
    };
    let own = age(pod);
    let counts = move |other: &&DesiredPod| {
        if let Some(over) = standings.get(&other.uid) {
            return !over;
        }
        let status = other.pod.status.as_ref();
        let begun = status.is_some_and(|status| status.start_time.is_some());
        terminal(status).is_none() && (begun || age(other) < own)
    };
    desired.pods.values().map(AsRef::as_ref).filter(move |other| other.uid != pod.uid).filter(counts)
}

fn room(context: &Context<'_>, spec: &PodSpec, others: &[&PodSpec]) -> Option<Refusal> {
    let node = context.node;
    let short = |reason, resource: &str, requested: i64, used: i64, capacity: i64| {
        let message = format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Some(Refusal { reason, message })
    };
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count.saturating_add(1) > node.max_pods {
        return short("OutOfpods", "pods", 1, count, node.max_pods);
    }
    let amounts: [(_, _, Read, _); 3] = [
        ("OutOfcpu", "cpu", milli, node.cpu_milli),
        ("OutOfmemory", "memory", value, node.memory_bytes),
        ("OutOfephemeral-storage", "ephemeral-storage", value, node.ephemeral_bytes),
    ];
    let scarce = amounts.into_iter().find_map(|(reason, resource, read, capacity)| {
        let requested = request(spec, resource, read);
        let used = others.iter().map(|other| request(other, resource, read)).fold(0, i64::saturating_add);
        let too_much = requested > 0 && requested > capacity.saturating_sub(used);
        // A size that cannot be read (of a disk) refuses nothing.
        if too_much && capacity > 0 { short(reason, resource, requested, used, capacity) } else { None }
    });
    // The node offers no huge pages.
    scarce.or_else(|| {
        huge_pages(spec).find_map(|resource| {
            let requested = request(spec, resource, value);
            if requested > 0 { short(no_huge_pages(resource), resource, requested, 0, 0) } else { None }
        })
    })
}

/// The huge pages that a pod names, by size.
fn huge_pages(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let containers = all_containers(spec).filter_map(|(container, _)| container.resources.as_ref());
    let requests =
        spec.resources.iter().chain(containers).filter_map(|resources| resources.requests.as_ref());
    requests.flat_map(BTreeMap::keys).map(String::as_str).filter(|name| name.starts_with(HUGE_PAGES))
}

/// Upstream's reasons, for the sizes that there are kernels with.
fn no_huge_pages(resource: &str) -> &'static str {
    match resource.strip_prefix(HUGE_PAGES).unwrap_or_default() {
        "64Ki" => "OutOfhugepages-64Ki",
        "1Mi" => "OutOfhugepages-1Mi",
        "2Mi" => "OutOfhugepages-2Mi",
        "4Mi" => "OutOfhugepages-4Mi",
        "8Mi" => "OutOfhugepages-8Mi",
        "16Mi" => "OutOfhugepages-16Mi",
        "32Mi" => "OutOfhugepages-32Mi",
        "256Mi" => "OutOfhugepages-256Mi",
        "512Mi" => "OutOfhugepages-512Mi",
        "1Gi" => "OutOfhugepages-1Gi",
        "2Gi" => "OutOfhugepages-2Gi",
        "16Gi" => "OutOfhugepages-16Gi",
        _ => "OutOfhugepages",
    }
}

type Read = fn(&k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Option<i64>;

/// What a pod asks for: its own request where it has one, else the larger of what its containers ask for together and
/// of each init container with the sidecars before it; and the overhead of its runtime class.
fn request(spec: &PodSpec, resource: &str, read: Read) -> i64 {
    let of = |resources: Option<&ResourceRequirements>| {
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        requests.and_then(|requests| requests.get(resource)).and_then(read)
    };
    let each = |container: &Container| of(container.resources.as_ref()).unwrap_or(0);
    let (mut sidecars, mut peak) = (0_i64, 0_i64);
    for container in spec.init_containers.iter().flatten() {
        let with = sidecars.saturating_add(each(container));
        if is_sidecar(container) {
            sidecars = with;
        }
        peak = peak.max(with);
    }
    let together = spec.containers.iter().map(each).fold(sidecars, i64::saturating_add);
    let overhead = spec.overhead.as_ref().and_then(|overhead| overhead.get(resource)).and_then(read);
    of(spec.resources.as_ref()).unwrap_or_else(|| together.max(peak)).saturating_add(overhead.unwrap_or(0))
}

/// Whether it wants a port of the node that another pod has already.
fn ports(spec: &PodSpec, others: &[&PodSpec]) -> bool {
    let taken: Vec<Port<'_>> = others.iter().flat_map(|other| host_ports(other)).collect();
    let clash = |own: Port<'_>| taken.iter().any(|other| own.clashes(other));
    host_ports(spec).any(clash)
}

/// A port that a pod takes of its node.
struct Port<'a> {
    /// `None`: all of the node's.
    address: Option<&'a str>,
    protocol: &'a str,
    number: i32,
}

impl Port<'_> {
    fn clashes(&self, other: &Self) -> bool {
        let apart = self.address.is_some() && other.address.is_some() && self.address != other.address;
        !apart && self.protocol == other.protocol && self.number == other.number
    }
}

fn host_ports(spec: &PodSpec) -> impl Iterator<Item = Port<'_>> {
    restartable_and_main(spec).flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        Some(Port {
            address: port.host_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "0.0.0.0"),
            protocol: port.protocol.as_deref().filter(|name| !name.is_empty()).unwrap_or("TCP"),
            number: port.host_port.filter(|number| *number > 0)?,
        })
    })
}
