//! What follows from a node's silence and conditions, as pure functions: its conditions, its taints, when each of
//! its pods has to go, and what its pods say of their readiness when it is back.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, PodCondition, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

use crate::{cache::Pod, controllers::pods, placement::tolerates};

/// Why a pod is not ready although its containers may be: its node is not.
pub(super) const NODE_NOT_READY: &str = "NodeNotReady";
/// So many nodes in a hundred must be lost at once before the loss is not believed, as upstream's
/// `--unhealthy-zone-threshold`; and in so small a cluster it is a chance event.
const DISRUPTION_PERCENT: usize = 55;
const DISRUPTION_NODES: usize = 3;
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
    let mut all: Vec<Taint> = old.iter().filter(|t| !is_ours(t)).map(|t| stamped(t, now)).collect();
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

/// Tolerations that end count from when the taint was added, which `kubectl taint` does not say.
fn stamped(taint: &Taint, now: Timestamp) -> Taint {
    let mut taint = taint.clone();
    if taint.effect == "NoExecute" {
        taint.time_added.get_or_insert(Time(now));
    }
    taint
}

/// How many nodes have reported, and how many of those are lost; kept as they change. The cluster is one zone: all of its
/// nodes are counted together. Nodes that have yet to report are neither here nor there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    reported: usize,
    lost: usize,
}

impl Census {
    /// A node came, changed or went.
    pub(super) fn change(&mut self, old: Option<&Node>, new: Option<&Node>) {
        let counts = |node: Option<&Node>| {
            node.and_then(ready).map_or((0, 0), |says| (1, usize::from(says != "True")))
        };
        let (was, is) = (counts(old), counts(new));
        self.reported = self.reported + is.0 - was.0;
        self.lost = self.lost + is.1 - was.1;
    }

    /// Whether so many nodes are lost that it is more likely the scheduler that is cut off from them.
    pub(super) const fn disrupted(self) -> bool {
        let Self { reported, lost } = self;
        lost > 0
            && (lost == reported
                || (reported >= DISRUPTION_NODES && lost * 100 > reported * DISRUPTION_PERCENT))
    }
}

/// When a pod has to leave a node with these taints: at once, after a while, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Never,
    After(Duration),
    Now,
}

/// How the loss of a node counts towards tolerations that end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// For how long the node is lost.
    pub(super) age: Duration,
    /// For how long nobody may be evicted for that, tolerated or not.
    pub(super) wait: Duration,
}

/// When `pod` has to leave `node`. The taints of a lost node count as `lost` says; with `None` they do not count.
pub(super) fn leave(pod: &Pod, node: &Node, lost: Option<Lost>, now: Timestamp) -> Leave {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut first: Option<Duration> = None;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let matching: Vec<_> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        let seconds = matching.iter().filter_map(|t| t.toleration_seconds).min();
        let tolerated = match seconds {
            Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
            None if matching.is_empty() => Duration::ZERO,
            None => continue,
        };
        let left = if [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()) {
            let Some(lost) = lost else { continue };
            tolerated.saturating_sub(lost.age).max(lost.wait)
        } else {
            let since = taint.time_added.as_ref().map_or(now, |t| t.0);
            tolerated.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or_default())
        };
        first = Some(first.map_or(left, |f| f.min(left)));
    }
    match first {
        None => Leave::Never,
        Some(Duration::ZERO) => Leave::Now,
        Some(left) => Leave::After(left),
    }
}

/// Whether a pod is not ready for no other reason than that its node was not.
pub(super) fn is_marked_unready(pod: &Pod) -> bool {
    pods::condition(pod, "Ready")
        .is_some_and(|c| c.status == "False" && c.reason.as_deref() == Some(NODE_NOT_READY))
}

/// Whether a pod is ready as its own conditions tell it, now that its node is; `None` when nothing hid that. The agent
/// does not know that something did: it says again only what has changed for it.
pub(super) fn restored(pod: &Pod, now: Timestamp) -> Option<PodCondition> {
    if !is_marked_unready(pod) {
        return None;
    }
    let holds = |type_: &str| pods::condition(pod, type_).is_some_and(|c| c.status == "True");
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let (containers, gates) = (holds("ContainersReady"), gates.into_iter().all(|g| holds(&g.condition_type)));
    let mut ready = pods::condition(pod, "Ready")?.clone();
    ready.message = None;
    ready.reason = match (containers, gates) {
        (true, true) => {
            "True".clone_into(&mut ready.status);
            ready.last_transition_time = Some(Time(now));
            None
        }
        (true, false) => Some("ReadinessGatesNotReady".to_owned()),
        (false, _) => Some("ContainersNotReady".to_owned()),
    };
    Some(ready)
}
