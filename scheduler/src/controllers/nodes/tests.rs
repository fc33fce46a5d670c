use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::plan::{Leave, leave, silenced, taints};

fn node(ready: &str, spec: impl serde::Serialize) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "n1"}, "spec": json!(spec),
        "status": {"conditions": [
            {"type": "Ready", "status": ready}, {"type": "MemoryPressure", "status": "False"},
            {"type": "CgroupsEnforced", "status": "True"}]},
    }))
    .unwrap()
}

fn pod(tolerations: impl serde::Serialize) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"},
        "spec": {"containers": [], "tolerations": json!(tolerations)}}))
    .unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn keys(node: &Node) -> Vec<String> {
    taints(node, at(100)).iter().map(|t| format!("{}:{}", t.key, t.effect)).collect()
}

#[test]
fn silence_makes_what_only_the_node_knows_unknown() {
    let mut lost = node("True", json!({}));
    let conditions = silenced(&lost, at(5)).unwrap();
    let statuses: Vec<_> = conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
    assert_eq!(statuses, [("Ready", "Unknown"), ("MemoryPressure", "Unknown"), ("CgroupsEnforced", "True")]);
    lost.status.as_mut().unwrap().conditions = Some(conditions);
    assert_eq!(silenced(&lost, at(9)), None, "said once");
    let fresh: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
    assert_eq!(silenced(&fresh, at(5)).unwrap()[0].status, "Unknown");
}

#[test]
fn taints_follow_the_conditions_and_leave_others_alone() {
    let own = json!({"taints": [{"key": "gpu", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]});
    assert_eq!(keys(&node("True", own.clone())), ["gpu:NoSchedule"]);
    let not_ready = taints(&node("False", own.clone()), at(100));
    assert_eq!(not_ready.len(), 3);
    let kept = not_ready.iter().find(|t| t.effect == "NoExecute").unwrap();
    assert_ne!(kept.time_added.as_ref().unwrap().0, at(100), "the clock of the eviction runs on");
    assert_eq!(
        keys(&node("Unknown", own))[1..],
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    );
    assert_eq!(
        keys(&node("True", json!({"unschedulable": true}))),
        ["node.kubernetes.io/unschedulable:NoSchedule"]
    );
}

#[test]
fn pods_leave_when_their_tolerations_end() {
    let lost = node(
        "Unknown",
        json!({"taints": [{"key": "node.kubernetes.io/unreachable",
        "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:40Z"}]}),
    );
    let tolerate = |seconds: Value| {
        pod(json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": seconds}]))
    };
    assert_eq!(leave(&pod(json!([])), &lost, at(100)), Leave::Now);
    assert_eq!(leave(&tolerate(json!(300)), &lost, at(150)), Leave::After(Duration::from_secs(250)));
    assert_eq!(leave(&tolerate(json!(300)), &lost, at(400)), Leave::Now);
    assert_eq!(leave(&tolerate(Value::Null), &lost, at(9_999)), Leave::Never);
    assert_eq!(leave(&pod(json!([])), &node("True", json!({})), at(1)), Leave::Never);
}
