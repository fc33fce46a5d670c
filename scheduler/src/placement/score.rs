//! Which of the nodes that fit is best: each score from 0 to 100, weighed as upstream does. Here is what one node tells
//! by itself, and how the scores of all that fit are put on one scale. Pure.

use super::{
    node::NodeView,
    pod::Shape,
    resources::{CPU, MEMORY},
    snapshot::Snapshot,
};

const BEST: f64 = 100.0;
const TAINTS: f64 = 3.0;
const NODE_AFFINITY: f64 = 2.0;
const POD_AFFINITY: f64 = 2.0;
const SPREAD: f64 = 2.0;

/// Scores closer than this are equal: sums of the same parts in another order may differ in the last digits.
pub(super) const EQUAL: f64 = 1e-6;

/// An image below this is pulled so fast that its place does not matter; above that times the containers it
/// does not matter more.
const IMAGE_SMALL: f64 = 23.0 * 1024.0 * 1024.0;
const IMAGE_LARGE: f64 = 1000.0 * 1024.0 * 1024.0;

/// What is worse than any crowd: a node outside the topology of a soft constraint.
pub(super) const OUTSIDE: f64 = i16::MAX as f64;

/// What one node tells of a pod, before it is compared with the others.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Merits {
    /// Soft taints that the pod does not tolerate.
    pub(super) taints: f64,
    /// Weights of the preferred node affinity that holds.
    pub(super) preference: f64,
    /// Room, balance and images: already from 0 to 300.
    pub(super) own: f64,
}

impl Merits {
    pub(super) fn of(snapshot: &Snapshot, shape: &Shape, node: &NodeView) -> Self {
        Self {
            taints: unwelcome(shape, node),
            preference: preference(shape, node),
            own: room(shape, node) + balance(shape, node) + locality(snapshot, shape, node),
        }
    }
}

/// What puts the scores of all nodes that fit on one scale.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    taints: f64,
    preference: f64,
    pull: (f64, f64),
    crowd: (f64, f64),
}

impl Scale {
    pub(super) fn new() -> Self {
        let nothing = (f64::INFINITY, f64::NEG_INFINITY);
        Self { taints: 0.0, preference: 0.0, pull: nothing, crowd: (f64::INFINITY, 0.0) }
    }

    /// Takes one node into account.
    pub(super) fn see(&mut self, merits: &Merits, pull: f64, crowd: f64) {
        self.taints = self.taints.max(merits.taints);
        self.preference = self.preference.max(merits.preference);
        self.pull = (self.pull.0.min(pull), self.pull.1.max(pull));
        self.crowd = (self.crowd.0.min(crowd), self.crowd.1.max(crowd));
    }

    /// The score of one node: the fewest soft taints, the most preferences, the strongest pull (stretched to the
    /// whole range) and the smallest crowd are the best.
    pub(super) fn score(&self, merits: &Merits, pull: f64, crowd: f64) -> f64 {
        let share = |value: f64, most: f64| if most == 0.0 { 0.0 } else { value * BEST / most };
        let (least, most) = self.pull;
        let pulled = if most <= least { 0.0 } else { (pull - least) * BEST / (most - least) };
        let (fewest, crowded) = self.crowd;
        let alone = if crowded == 0.0 { BEST } else { BEST * (crowded + fewest - crowd) / crowded };
        TAINTS * (BEST - share(merits.taints, self.taints))
            + NODE_AFFINITY * share(merits.preference, self.preference)
            + POD_AFFINITY * pulled
            + SPREAD * alone
            + merits.own
    }
}

/// The more domains, the fewer pods in each: a pod more weighs more.
pub(super) fn weight(domains: usize) -> f64 {
    ((domains + 2) as f64).ln()
}

fn unwelcome(shape: &Shape, node: &NodeView) -> f64 {
    let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    soft.filter(|taint| !shape.tolerates(taint)).count() as f64
}

fn preference(shape: &Shape, node: &NodeView) -> f64 {
    let matching = shape.node_preferred.iter().filter(|(_, term)| term.matches(&node.name, &node.labels));
    matching.map(|(weight, _)| *weight).sum::<i64>() as f64
}

fn share(shape: &Shape, node: &NodeView, resource: &str) -> Option<f64> {
    let all = node.allocatable.get(resource);
    let used = node.assumed.get(resource) + shape.requests.assumed.get(resource);
    (all > 0).then(|| (used as f64 / all as f64).min(1.0))
}

/// Room left on average.
fn room(shape: &Shape, node: &NodeView) -> f64 {
    let shares = [CPU, MEMORY].map(|resource| share(shape, node, resource));
    let free = shares.iter().flatten().map(|share| (1.0 - share) * BEST);
    let count = shares.iter().flatten().count();
    if count == 0 { 0.0 } else { free.sum::<f64>() / count as f64 }
}

/// CPU and memory used alike, so that neither is left over useless.
fn balance(shape: &Shape, node: &NodeView) -> f64 {
    match (share(shape, node, CPU), share(shape, node, MEMORY)) {
        (Some(cpu), Some(memory)) => (1.0 - (cpu - memory).abs() / 2.0) * BEST,
        _ => 0.0,
    }
}

/// Large images that are there already; one that few nodes have counts less, so that they are not swamped.
fn locality(snapshot: &Snapshot, shape: &Shape, node: &NodeView) -> f64 {
    if node.images.is_empty() {
        return 0.0;
    }
    let nodes = snapshot.node_count().max(1) as f64;
    let present = shape.images.iter().filter_map(|image| {
        let bytes = *node.images.get(image)? as f64;
        Some(bytes * snapshot.nodes_with(image) as f64 / nodes)
    });
    let bytes: f64 = present.sum();
    let most = IMAGE_LARGE * shape.images.len().max(1) as f64;
    BEST * (bytes.clamp(IMAGE_SMALL, most) - IMAGE_SMALL) / (most - IMAGE_SMALL)
}
