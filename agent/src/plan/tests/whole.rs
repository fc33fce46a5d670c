//! What a pod says of its resources as a whole.

use super::*;

#[test]
fn the_limits_of_the_pod_hold_for_what_has_none_of_its_own() {
    let variable = |name: &str, resource: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": "1"}}});
    let env = json!([
        variable("CPU", "limits.cpu"),
        variable("MEMORY", "limits.memory"),
        variable("ASKED", "requests.memory")
    ]);
    let pod = testing::pod(
        "p",
        json!({"resources": {"requests": {"cpu": "2", "memory": "64Mi"}, "limits": {"cpu": "2", "memory": "64Mi"}},
               "containers": [{"name": "web", "image": "i", "env": env}]}),
    );
    let bare = planned(&testing::desired([]), &pod, &ObservedPod { now_ms: NOW, ..ObservedPod::default() });
    assert_eq!(bare.status.qos_class.as_deref(), Some("Guaranteed"));
    let cgroup = bare.steps.iter().find_map(|step| match step {
        Step::EnsureCgroup { limits, .. } => Some((limits.cpu_quota_us, limits.memory_max)),
        _ => None,
    });
    assert_eq!(cgroup, Some((Some(200_000), Some(64 << 20))));
    let plan = planned(&testing::desired([]), &pod, &prepared(&pod));
    let spec = &launch_of(&plan).spec;
    assert_eq!((spec.limits.cpu_quota_us, spec.limits.memory_max), (Some(200_000), Some(64 << 20)));
    let value =
        |name: &str| spec.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!((value("CPU"), value("MEMORY")), (Some("2"), Some("67108864")));
    assert_eq!(value("ASKED"), Some("0"), "a request is the container's own");
}
