//! What follows from a node's silence and conditions, as pure functions: its conditions, its taints, and when
//! each of its pods has to go.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Pod, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use crate::placement::tolerates;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new pods away while they hold.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that only the node itself can know.
const ITS_OWN: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

fn conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

/// `True`, `False`, `Unknown`; `None` when the node has not said anything yet.
pub(super) fn ready(node: &Node) -> Option<&str> {
    conditions(node).iter().find(|c| c.type_ == "Ready").map(|c| c.status.as_str())
}

/// The conditions of a node that is not heard of any more; `None` when they already say so.
pub(super) fn silenced(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let known = |c: &NodeCondition| ITS_OWN.contains(&c.type_.as_str()) && c.status != "Unknown";
    let says_ready = conditions(node).iter().any(|c| c.type_ == "Ready");
    if says_ready && !conditions(node).iter().any(known) {
        return None;
    }
    let mut all = conditions(node).to_vec();
    if !says_ready {
        let unsaid =
            NodeCondition { type_: "Ready".to_owned(), status: String::new(), ..NodeCondition::default() };
        all.push(unsaid);
    }
    for condition in all.iter_mut().filter(|c| known(c)) {
        "Unknown".clone_into(&mut condition.status);
        condition.reason = Some("NodeStatusUnknown".to_owned());
        condition.message = Some("Kubelet stopped posting node status.".to_owned());
        condition.last_transition_time = Some(Time(now));
    }
    Some(all)
}

/// The taints that the node's conditions call for, beside those that are somebody else's.
pub(super) fn taints(node: &Node, now: Timestamp) -> Vec<Taint> {
    let spec = node.spec.as_ref();
    let old = spec.and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let holds = |type_: &str| conditions(node).iter().any(|c| c.type_ == type_ && c.status == "True");
    let mut wanted: Vec<(&str, &str)> = match ready(node) {
        Some("True") => Vec::new(),
        Some("Unknown") => vec![(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        // A node that has yet to report gets no pods, and has none to lose.
        None => vec![(NOT_READY, "NoSchedule")],
        Some(_) => vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
    };
    let pressures = PRESSURES.iter().filter(|(condition, _)| holds(condition));
    wanted.extend(pressures.map(|(_, taint)| (*taint, "NoSchedule")));
    if spec.and_then(|s| s.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is_ours = |t: &&Taint| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&t.key.as_str())
            || PRESSURES.iter().any(|(_, key)| *key == t.key)
    };
    let mut all: Vec<Taint> = old.iter().filter(|t| !is_ours(t)).cloned().collect();
    for (key, effect) in wanted {
        let known = old.iter().find(|t| t.key == key && t.effect == effect).cloned();
        all.push(known.unwrap_or_else(|| Taint {
            key: key.to_owned(),
            effect: effect.to_owned(),
            time_added: Some(Time(now)),
            value: None,
        }));
    }
    all
}

/// When a pod has to leave a node with these taints: at once, after a while, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Never,
    After(Duration),
    Now,
}

/// When `pod` has to leave `node`.
pub(super) fn leave(pod: &Pod, node: &Node, now: Timestamp) -> Leave {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut first: Option<Timestamp> = None;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let matching: Vec<_> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if matching.is_empty() {
            return Leave::Now;
        }
        if let Some(seconds) = matching.iter().filter_map(|t| t.toleration_seconds).min() {
            let since = taint.time_added.as_ref().map_or(now, |t| t.0);
            let end = since.saturating_add(SignedDuration::from_secs(seconds.max(0)));
            let end = end.unwrap_or(Timestamp::MAX);
            first = Some(first.map_or(end, |f| f.min(end)));
        }
    }
    match first {
        None => Leave::Never,
        Some(end) if end <= now => Leave::Now,
        Some(end) => Leave::After(end.duration_since(now).unsigned_abs()),
    }
}
