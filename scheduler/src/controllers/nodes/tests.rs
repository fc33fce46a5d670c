use std::time::Duration;

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use serde_json::{Value, json};

use super::{
    news,
    plan::{Census, Leave, Lost, leave, restored, silenced, taints},
};
use crate::cache::Pod;

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

fn tolerating(key: &str, seconds: impl serde::Serialize) -> Pod {
    pod(
        json!([{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": json!(seconds)}]),
    )
}

#[test]
fn pods_leave_when_their_tolerations_end() {
    let taint = json!({"key": "maintenance", "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:40Z"});
    let tainted = node("True", json!({"taints": [taint]}));
    let leaves = |pod: &Pod, second: i64| leave(pod, &tainted, None, at(second));
    let tolerate = |seconds: Value| tolerating("maintenance", seconds);
    assert_eq!(leaves(&pod(json!([])), 100), Leave::Now);
    assert_eq!(leaves(&tolerate(json!(300)), 150), Leave::After(Duration::from_secs(250)));
    assert_eq!(leaves(&tolerate(json!(300)), 400), Leave::Now);
    assert_eq!(leaves(&tolerate(json!(-1)), 100), Leave::Now);
    assert_eq!(leaves(&tolerate(Value::Null), 9_999), Leave::Never);
    assert_eq!(leave(&pod(json!([])), &node("True", json!({})), None, at(1)), Leave::Never);
}

#[test]
fn a_lost_node_counts_by_what_was_seen_of_it_and_not_at_all_in_a_disruption() {
    let key = "node.kubernetes.io/unreachable";
    let long_ago = json!({"key": key, "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:00Z"});
    let node = node("Unknown", json!({"taints": [long_ago]}));
    let lost = |age, wait| Some(Lost { age: Duration::from_secs(age), wait: Duration::from_secs(wait) });
    let leaves = |seconds: Value, lost| leave(&tolerating(key, seconds), &node, lost, at(9_999));
    assert_eq!(leaves(json!(300), lost(10, 0)), Leave::After(Duration::from_secs(290)));
    assert_eq!(leaves(json!(300), lost(300, 0)), Leave::Now);
    assert_eq!(leaves(json!(0), lost(0, 40)), Leave::After(Duration::from_secs(40)));
    assert_eq!(leaves(json!(0), None), Leave::Never);
    assert_eq!(leave(&pod(json!([])), &node, lost(0, 7), at(1)), Leave::After(Duration::from_secs(7)));
    assert_eq!(leave(&pod(json!([])), &node, lost(7, 0), at(1)), Leave::Now);
}

#[test]
fn a_taint_without_a_time_gets_one() {
    let own = json!({"taints": [{"key": "drain", "effect": "NoExecute"}, {"key": "gpu", "effect": "NoSchedule"},
        {"key": "old", "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:01Z"}]});
    let times: Vec<_> = taints(&node("True", own), at(100)).iter().map(|t| t.time_added.clone()).collect();
    let seconds: Vec<_> = times.iter().map(|t| t.as_ref().map(|t| t.0.as_second())).collect();
    assert_eq!(seconds, [Some(100), None, Some(1)]);
}

#[test]
fn a_loss_of_nearly_everything_is_not_believed() {
    let nodes = |up: usize, lost: usize| {
        let up = std::iter::repeat_with(|| node("True", json!({}))).take(up);
        let lost = std::iter::repeat_with(|| node("Unknown", json!({}))).take(lost);
        let fresh = serde_json::from_value(json!({"metadata": {"name": "fresh"}})).unwrap();
        up.chain(lost).chain([fresh]).collect::<Vec<Node>>()
    };
    for (up, lost, expected) in [
        (0, 0, false),
        (2, 0, false),
        (0, 1, true),
        (1, 1, false),
        (0, 2, true),
        (2, 1, false),
        (1, 2, true),
        (45, 55, false),
        (44, 56, true),
    ] {
        let mut census = Census::default();
        for node in nodes(up, lost) {
            census.change(None, Some(&node));
        }
        assert_eq!(census.disrupted(), expected, "{up} up, {lost} lost");
    }
    let (up, lost) = (node("True", json!({})), node("Unknown", json!({})));
    let mut census = Census::default();
    for (old, new, expected) in [
        (None, Some(&up), false),
        (Some(&up), Some(&lost), true),
        (None, Some(&up), false),
        (Some(&lost), Some(&up), false),
        (Some(&up), None, false),
        (Some(&up), Some(&lost), true),
        (Some(&lost), None, false),
    ] {
        census.change(old, new);
        assert_eq!(census.disrupted(), expected);
    }
}

#[test]
fn pods_of_a_node_that_is_back_are_what_their_containers_and_gates_say() {
    let pod = |reason: &str, containers: &str, gate: &str| -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"},
            "spec": {"containers": [], "readinessGates": [{"conditionType": "example.com/gate"}]},
            "status": {"conditions": [
                {"type": "Ready", "status": "False", "reason": reason,
                    "lastTransitionTime": "1970-01-01T00:00:01Z"},
                {"type": "ContainersReady", "status": containers},
                {"type": "example.com/gate", "status": gate}]}}))
        .unwrap()
    };
    let ready = |reason: &str, containers: &str, gate: &str| {
        let ready = restored(&pod(reason, containers, gate), at(9))?;
        let since = ready.last_transition_time.map(|t| t.0.as_second());
        Some((ready.status, ready.reason.unwrap_or_default(), since.unwrap_or_default()))
    };
    let is = |status: &str, reason: &str, since| Some((status.to_owned(), reason.to_owned(), since));
    assert_eq!(ready("NodeNotReady", "True", "True"), is("True", "", 9));
    assert_eq!(ready("NodeNotReady", "True", "False"), is("False", "ReadinessGatesNotReady", 1));
    assert_eq!(ready("NodeNotReady", "False", "True"), is("False", "ContainersNotReady", 1));
    assert_eq!(ready("ContainersNotReady", "True", "True"), None, "somebody else's word");
}

#[test]
fn a_change_of_a_node_is_told_once() {
    let told = |old: Option<&Node>, new: Option<&Node>| -> Vec<&'static str> {
        news(old, new).into_iter().map(|note| note.reason).collect()
    };
    let (open, closed) = (node("True", json!({})), node("True", json!({"unschedulable": true})));
    let lost = node("Unknown", json!({}));
    assert_eq!(told(None, Some(&open)), ["RegisteredNode"]);
    assert_eq!(told(Some(&open), Some(&open)), [""; 0]);
    assert_eq!(told(Some(&open), Some(&closed)), ["NodeNotSchedulable"]);
    assert_eq!(told(Some(&closed), Some(&lost)), ["NodeNotReady", "NodeSchedulable"]);
    assert_eq!(told(Some(&lost), Some(&node("False", json!({})))), [""; 0]);
    assert_eq!(told(Some(&lost), Some(&open)), ["NodeReady"]);
    assert_eq!(told(Some(&open), None), ["RemovingNode"]);
    assert_eq!(news(Some(&open), Some(&lost))[0].message, "Node n1 status is now: NodeNotReady");
}
