//! Requests and limits into QoS class, cgroup values and oom_score_adj, with upstream's formulas.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::quantity::{milli, value};
use crate::{
    cgroup::Qos,
    model::{Limits, spec::is_sidecar},
};

/// The CFS period upstream uses.
const PERIOD_US: i64 = 100_000;
/// The kernel refuses a smaller quota.
const MIN_QUOTA_US: i64 = 1_000;
/// oom_score_adj of a Guaranteed container.
pub const OOM_GUARANTEED: i32 = -997;
/// oom_score_adj of a BestEffort container.
const OOM_BEST_EFFORT: i32 = 1000;
/// From here on priorities are those of the system.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// The priority class of what a node cannot be without.
const NODE_CRITICAL: &str = "system-node-critical";
/// How resources begin that are memory in pages of one size.
pub(super) const HUGE_PAGES: &str = "hugepages-";

type List = BTreeMap<String, Quantity>;

/// What one container asks for and may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Millicores.
    pub cpu_request: i64,
    /// Millicores.
    pub cpu_limit: Option<i64>,
    /// Bytes.
    pub memory_request: i64,
    /// Bytes.
    pub memory_limit: Option<i64>,
}

/// What is requested in so many words.
struct Asked {
    /// Millicores.
    cpu: Option<i64>,
    /// Bytes.
    memory: Option<i64>,
}

impl Asked {
    fn of(resources: &ResourceRequirements) -> Self {
        let list = resources.requests.as_ref();
        Self { cpu: amount(list, "cpu", milli), memory: amount(list, "memory", value) }
    }
}

fn amount(list: Option<&List>, name: &str, read: fn(&Quantity) -> Option<i64>) -> Option<i64> {
    list?.get(name).and_then(read)
}

/// The limits of cpu (millicores) and memory (bytes); zero is none.
fn limits(resources: &ResourceRequirements) -> (Option<i64>, Option<i64>) {
    let list = resources.limits.as_ref();
    (amount(list, "cpu", milli).filter(|v| *v > 0), amount(list, "memory", value).filter(|v| *v > 0))
}

impl Amounts {
    /// Of one container; a limit without a request is also the request.
    pub fn of(resources: Option<&ResourceRequirements>) -> Self {
        let Some(resources) = resources else { return Self::default() };
        let Asked { cpu, memory } = Asked::of(resources);
        let (cpu_limit, memory_limit) = limits(resources);
        Self {
            cpu_request: cpu.or(cpu_limit).unwrap_or(0),
            cpu_limit,
            memory_request: memory.or(memory_limit).unwrap_or(0),
            memory_limit,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpu_request: self.cpu_request + other.cpu_request,
            cpu_limit: self.cpu_limit.zip(other.cpu_limit).map(|(a, b)| a + b),
            memory_request: self.memory_request + other.memory_request,
            memory_limit: self.memory_limit.zip(other.memory_limit).map(|(a, b)| a + b),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            cpu_request: self.cpu_request.max(other.cpu_request),
            cpu_limit: self.cpu_limit.zip(other.cpu_limit).map(|(a, b)| a.max(b)),
            memory_request: self.memory_request.max(other.memory_request),
            memory_limit: self.memory_limit.zip(other.memory_limit).map(|(a, b)| a.max(b)),
        }
    }

    /// As cgroup v2 values.
    pub fn limits(self, pids_max: Option<i64>) -> Limits {
        Limits {
            cpu_weight: Some(cpu_weight(self.cpu_request)),
            cpu_quota_us: self.cpu_limit.map(|limit| (limit * PERIOD_US / 1000).max(MIN_QUOTA_US)),
            cpu_period_us: self.cpu_limit.map(|_| PERIOD_US.unsigned_abs()),
            memory_max: self.memory_limit,
            pids_max,
        }
    }
}

/// Zero as the neutral element of sums where a missing limit means unlimited.
const NOTHING: Amounts =
    Amounts { cpu_request: 0, cpu_limit: Some(0), memory_request: 0, memory_limit: Some(0) };

/// What a pod says of its resources as a whole, if it does.
fn of_pod(spec: &PodSpec) -> Option<&ResourceRequirements> {
    let counts = |list: &Option<List>| {
        let mut names = list.iter().flat_map(BTreeMap::keys);
        names.any(|name| matches!(name.as_str(), "cpu" | "memory") || name.starts_with(HUGE_PAGES))
    };
    spec.resources.as_ref().filter(|own| counts(&own.requests) || counts(&own.limits))
}

/// What one container asks for and may use: where it has no limit, that of its pod is its own.
pub(super) fn container_amounts(spec: Option<&PodSpec>, container: &Container) -> Amounts {
    let own = Amounts::of(container.resources.as_ref());
    let Some(pod) = spec.and_then(of_pod) else { return own };
    let (cpu, memory) = limits(pod);
    let cpu_limit = own.cpu_limit.or(cpu);
    let asked = container.resources.as_ref().and_then(|resources| Asked::of(resources).cpu);
    Amounts {
        cpu_request: asked.or(cpu_limit).unwrap_or(0),
        cpu_limit,
        memory_request: own.memory_request,
        memory_limit: own.memory_limit.or(memory),
    }
}

/// What the pod as a whole may use: what it says itself, else what its containers need together; and what its runtime
/// class takes beside them.
pub(super) fn pod_amounts(spec: &PodSpec) -> Amounts {
    let together = together(spec);
    let total = of_pod(spec).map_or(together, |own| {
        let Asked { cpu, memory } = Asked::of(own);
        let (cpu_limit, memory_limit) = limits(own);
        Amounts {
            cpu_request: cpu.unwrap_or(together.cpu_request),
            cpu_limit: cpu_limit.or(together.cpu_limit),
            memory_request: memory.unwrap_or(together.memory_request),
            memory_limit: memory_limit.or(together.memory_limit),
        }
    });
    let overhead = |name: &str, read: fn(&Quantity) -> Option<i64>| {
        amount(spec.overhead.as_ref(), name, read).unwrap_or(0)
    };
    let (cpu, memory) = (overhead("cpu", milli), overhead("memory", value));
    // What is unlimited stays so.
    Amounts {
        cpu_request: total.cpu_request + cpu,
        cpu_limit: total.cpu_limit.filter(|limit| *limit > 0).map(|limit| limit + cpu),
        memory_request: total.memory_request + memory,
        memory_limit: total.memory_limit.filter(|limit| *limit > 0).map(|limit| limit + memory),
    }
}

/// The larger of what the containers take with the sidecars, and each init container with the sidecars that run beside
/// it.
fn together(spec: &PodSpec) -> Amounts {
    let mut sidecars = NOTHING;
    let mut init_peak = NOTHING;
    for container in spec.init_containers.iter().flatten() {
        let own = Amounts::of(container.resources.as_ref());
        if is_sidecar(container) {
            sidecars = sidecars.plus(own);
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars.plus(own));
        }
    }
    let main = spec
        .containers
        .iter()
        .fold(sidecars, |sum, container| sum.plus(Amounts::of(container.resources.as_ref())));
    main.max(init_peak)
}

/// cpu.weight of a request, by the conversion from shares that runc and the kubelet share.
fn cpu_weight(request_milli: i64) -> u64 {
    let shares = (request_milli * 1024 / 1000).clamp(2, 262_144);
    (1 + ((shares - 2) * 9999) / 262_142).unsigned_abs()
}

/// QoS class as upstream computes it: over cpu and memory of the pod as a whole where it names any, else of all
/// containers, init containers included.
pub fn qos(pod: &Pod) -> Qos {
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    if let Some(own) = of_pod(spec) {
        return qos_of(std::iter::once(Some(own)));
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    qos_of(containers.map(|container| container.resources.as_ref()))
}

fn qos_of<'a>(mut all: impl Iterator<Item = Option<&'a ResourceRequirements>> + Clone) -> Qos {
    let names_any = |resources: Option<&ResourceRequirements>| {
        let amounts = Amounts::of(resources);
        amounts.cpu_request > 0
            || amounts.memory_request > 0
            || amounts.cpu_limit.is_some()
            || amounts.memory_limit.is_some()
    };
    if !all.clone().any(names_any) {
        return Qos::BestEffort;
    }
    let guaranteed = |resources: Option<&ResourceRequirements>| {
        let amounts = Amounts::of(resources);
        amounts.cpu_limit == Some(amounts.cpu_request) && amounts.memory_limit == Some(amounts.memory_request)
    };
    if all.all(guaranteed) { Qos::Guaranteed } else { Qos::Burstable }
}

/// `status.qosClass`.
pub(super) fn qos_name(qos: Qos) -> &'static str {
    match qos {
        Qos::Guaranteed => "Guaranteed",
        Qos::Burstable => "Burstable",
        Qos::BestEffort => "BestEffort",
    }
}

/// oom_score_adj of a container as the kubelet computes it.
pub(super) fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i32 {
    let critical = pod.spec.as_ref().is_some_and(|spec| {
        spec.priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY)
            && spec.priority_class_name.as_deref() == Some(NODE_CRITICAL)
    });
    if critical {
        return OOM_GUARANTEED;
    }
    match qos(pod) {
        Qos::Guaranteed => OOM_GUARANTEED,
        Qos::BestEffort => OOM_BEST_EFFORT,
        Qos::Burstable => burstable(pod.spec.as_ref(), container, node_memory),
    }
}

fn burstable(spec: Option<&PodSpec>, container: &Container, node_memory: i64) -> i32 {
    let asked = |container: &Container| Amounts::of(container.resources.as_ref()).memory_request;
    // A sidecar is not ended before those that it serves.
    let sidecar = spec.filter(|spec| {
        let mut init = spec.init_containers.iter().flatten();
        is_sidecar(container) && init.any(|init| init.name == container.name)
    });
    let least = sidecar.and_then(|spec| spec.containers.iter().map(asked).min());
    let request = asked(container).max(least.unwrap_or(0)) + spec.map_or(0, spare);
    let share = i128::from(request) * 1000 / i128::from(node_memory.max(1));
    // Never as precious as Guaranteed, never as cheap as BestEffort.
    i32::try_from(1000 - share).unwrap_or(3).clamp(1000 + OOM_GUARANTEED, OOM_BEST_EFFORT - 1)
}

/// Each container's part of the memory that the pod as a whole asks for and no container does.
fn spare(spec: &PodSpec) -> i64 {
    let asked = of_pod(spec).and_then(|own| Asked::of(own).memory).unwrap_or(0);
    let count = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    let spare = (asked - together(spec).memory_request).max(0);
    spare / i64::try_from(count.max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: impl serde::Serialize) -> Pod {
        serde_json::from_value(serde_json::json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn the_tutorial_pod_is_burstable_with_its_limits() {
        let pod = pod(serde_json::json!([
            {"name": "web", "resources": {"requests": {"memory": "256Mi", "cpu": "250m"},
                                          "limits": {"memory": "512Mi", "cpu": "500m"}}},
            {"name": "log"}]));
        assert_eq!(qos(&pod), Qos::Burstable);
        let limits = Amounts::of(pod.spec.as_ref().unwrap().containers[0].resources.as_ref()).limits(None);
        assert_eq!(limits.cpu_weight, Some(10));
        assert_eq!((limits.cpu_quota_us, limits.cpu_period_us), (Some(50_000), Some(100_000)));
        assert_eq!(limits.memory_max, Some(536_870_912));
        // One container is unlimited, so the pod is.
        let whole = pod_amounts(pod.spec.as_ref().unwrap());
        assert_eq!((whole.cpu_request, whole.cpu_limit, whole.memory_limit), (250, None, None));
        let memory = 4 * 1024 * 1024 * 1024;
        assert_eq!(oom_score_adj(&pod, &pod.spec.as_ref().unwrap().containers[0], memory), 938);
        assert_eq!(oom_score_adj(&pod, &pod.spec.as_ref().unwrap().containers[1], memory), 999);
    }

    #[test]
    fn the_overhead_of_a_runtime_class_is_room_beside_the_containers() {
        let resources = serde_json::json!({"requests": {"cpu": "250m"}, "limits": {"memory": "512Mi"}});
        let mut pod = pod(serde_json::json!([{"name": "web", "resources": resources}]));
        let spec = pod.spec.as_mut().unwrap();
        let overhead = serde_json::json!({"cpu": "50m", "memory": "64Mi"});
        spec.overhead = serde_json::from_value(overhead).unwrap();
        let whole = pod_amounts(spec);
        assert_eq!((whole.cpu_request, whole.cpu_limit), (300, None));
        assert_eq!((whole.memory_request, whole.memory_limit), (576 << 20, Some(576 << 20)));
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        assert_eq!(qos(&pod(serde_json::json!([{"name": "a"}]))), Qos::BestEffort);
        let full = serde_json::json!({"limits": {"memory": "1Gi", "cpu": "1"}});
        assert_eq!(qos(&pod(serde_json::json!([{"name": "a", "resources": full}]))), Qos::Guaranteed);
        assert_eq!(
            qos(&pod(serde_json::json!([{"name": "a", "resources": full}, {"name": "b"}]))),
            Qos::Burstable
        );
    }

    fn whole(own: impl serde::Serialize, containers: impl serde::Serialize) -> Pod {
        serde_json::from_value(serde_json::json!({"spec": {"resources": own, "containers": containers}}))
            .unwrap()
    }

    #[test]
    fn what_a_pod_says_of_itself_as_a_whole_decides() {
        let own = serde_json::json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
        let pod = whole(
            own,
            serde_json::json!([{"name": "a", "resources": {"requests": {"cpu": "100m"}}}, {"name": "b"}]),
        );
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(qos(&pod), Qos::Guaranteed);
        assert_eq!(oom_score_adj(&pod, &spec.containers[1], 4 << 30), OOM_GUARANTEED);
        let amounts = pod_amounts(spec);
        assert_eq!((amounts.cpu_request, amounts.cpu_limit), (2000, Some(2000)));
        assert_eq!((amounts.memory_request, amounts.memory_limit), (1 << 30, Some(1 << 30)));
        let of = |index: usize| container_amounts(Some(spec), &spec.containers[index]);
        assert_eq!(
            (of(0).cpu_request, of(0).cpu_limit, of(0).memory_limit),
            (100, Some(2000), Some(1 << 30))
        );
        assert_eq!((of(1).cpu_request, of(1).memory_request), (2000, 0), "weighed as the limit, as upstream");
        // What it does not name comes from its containers, and those that are limited stay so.
        let limited =
            serde_json::json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "64Mi"}}}]);
        let pod =
            whole(serde_json::json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}), limited);
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(qos(&pod), Qos::Burstable);
        let amounts = pod_amounts(spec);
        assert_eq!((amounts.cpu_limit, amounts.memory_limit), (Some(1000), Some(1 << 30)));
        assert_eq!(container_amounts(Some(spec), &spec.containers[0]).memory_limit, Some(64 << 20));
        let nothing = whole(serde_json::json!({"limits": {}}), serde_json::json!([{"name": "a"}]));
        assert_eq!(qos(&nothing), Qos::BestEffort);
    }

    #[test]
    fn memory_that_only_the_pod_asks_for_is_shared_by_its_containers() {
        let asking = |memory: &str| serde_json::json!({"requests": {"memory": memory}});
        let spec = serde_json::json!({
            "resources": asking("2Gi"),
            "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "resources": asking("1Gi")}, {"name": "b", "resources": asking("512Mi")}]});
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": spec})).unwrap();
        let spec = pod.spec.as_ref().unwrap();
        let score = |container: &Container| oom_score_adj(&pod, container, 10 << 30);
        // 512Mi that are left, in three.
        let sixth = (512 << 20) / 3;
        let expected = |request: i64| i32::try_from(1000 - (request + sixth) * 1000 / (10 << 30)).unwrap();
        assert_eq!(score(&spec.containers[0]), expected(1 << 30));
        assert_eq!(score(&spec.containers[1]), expected(512 << 20));
        let sidecar = &spec.init_containers.as_ref().unwrap()[0];
        assert_eq!(score(sidecar), expected(512 << 20), "not ended before what it serves");
    }

    #[test]
    fn only_what_a_node_cannot_be_without_is_never_ended() {
        let score = |class: &str| {
            let spec = serde_json::json!({"priority": 2_000_001_000, "priorityClassName": class, "containers": [{"name": "a"}]});
            let pod: Pod = serde_json::from_value(serde_json::json!({"spec": spec})).unwrap();
            oom_score_adj(&pod, &pod.spec.as_ref().unwrap().containers[0], 1 << 30)
        };
        assert_eq!(
            (score(NODE_CRITICAL), score("system-cluster-critical")),
            (OOM_GUARANTEED, OOM_BEST_EFFORT)
        );
    }

    #[test]
    fn weights_span_the_kernels_range() {
        assert_eq!(cpu_weight(0), 1);
        assert_eq!(cpu_weight(1000), 39);
        assert_eq!(cpu_weight(100_000_000), 10_000);
    }
}
