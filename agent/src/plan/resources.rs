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

impl Amounts {
    /// Of one container; a limit without a request is also the request.
    pub fn of(resources: Option<&ResourceRequirements>) -> Self {
        let (requests, limits) = resources.map_or((None, None), |r| (r.requests.as_ref(), r.limits.as_ref()));
        let get = |list: Option<&List>, name: &str, read: fn(&Quantity) -> Option<i64>| {
            list.and_then(|list| list.get(name)).and_then(read)
        };
        let (cpu_limit, memory_limit) =
            (get(limits, "cpu", milli).filter(|v| *v > 0), get(limits, "memory", value).filter(|v| *v > 0));
        Self {
            cpu_request: get(requests, "cpu", milli).or(cpu_limit).unwrap_or(0),
            cpu_limit,
            memory_request: get(requests, "memory", value).or(memory_limit).unwrap_or(0),
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

/// What the pod as a whole may use: the larger of its containers with the sidecars, and each init container
/// with the sidecars that run beside it; and what its runtime class takes beside them.
pub(super) fn pod_amounts(spec: &PodSpec) -> Amounts {
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
    let total = main.max(init_peak);
    let overhead = |name: &str, read: fn(&Quantity) -> Option<i64>| {
        spec.overhead.as_ref().and_then(|list| list.get(name)).and_then(read).unwrap_or(0)
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

/// cpu.weight of a request, by the conversion from shares that runc and the kubelet share.
fn cpu_weight(request_milli: i64) -> u64 {
    let shares = (request_milli * 1024 / 1000).clamp(2, 262_144);
    (1 + ((shares - 2) * 9999) / 262_142).unsigned_abs()
}

/// QoS class as upstream computes it: over cpu and memory of all containers, init containers included.
pub fn qos(pod: &Pod) -> Qos {
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let positive = |list: Option<&List>, name: &str| {
        list.and_then(|list| list.get(name)).and_then(milli).is_some_and(|v| v > 0)
    };
    let names_any = |container: &Container| {
        container.resources.as_ref().is_some_and(|r| {
            [r.requests.as_ref(), r.limits.as_ref()]
                .into_iter()
                .any(|list| positive(list, "cpu") || positive(list, "memory"))
        })
    };
    if !containers().any(names_any) {
        return Qos::BestEffort;
    }
    let guaranteed = |container: &Container| {
        let amounts = Amounts::of(container.resources.as_ref());
        amounts.cpu_limit == Some(amounts.cpu_request) && amounts.memory_limit == Some(amounts.memory_request)
    };
    if containers().all(guaranteed) { Qos::Guaranteed } else { Qos::Burstable }
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
    let critical = pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|p| p >= 2_000_000_000);
    if critical {
        return OOM_GUARANTEED;
    }
    match qos(pod) {
        Qos::Guaranteed => OOM_GUARANTEED,
        Qos::BestEffort => OOM_BEST_EFFORT,
        Qos::Burstable => {
            let request = Amounts::of(container.resources.as_ref()).memory_request;
            let share = i128::from(request) * 1000 / i128::from(node_memory.max(1));
            // Never as precious as Guaranteed, never as cheap as BestEffort.
            i32::try_from(1000 - share).unwrap_or(3).clamp(1000 + OOM_GUARANTEED, OOM_BEST_EFFORT - 1)
        }
    }
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

    #[test]
    fn weights_span_the_kernels_range() {
        assert_eq!(cpu_weight(0), 1);
        assert_eq!(cpu_weight(1000), 39);
        assert_eq!(cpu_weight(100_000_000), 10_000);
    }
}
