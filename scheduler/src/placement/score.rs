//! Which of the nodes that fit is best: each score from 0 to 100, weighed as upstream does. Pure.

use super::{
    filter::{Counts, tolerates},
    pod::{PodTerm, PodView},
    snapshot::{NodeView, Snapshot},
    spread::SpreadCounts,
};

const BEST: f64 = 100.0;
const TAINTS: f64 = 3.0;
const NODE_AFFINITY: f64 = 2.0;
const POD_AFFINITY: f64 = 2.0;
const SPREAD: f64 = 2.0;
const LEAST_ALLOCATED: f64 = 1.0;
const BALANCED: f64 = 1.0;
const IMAGES: f64 = 1.0;

/// An image below this is pulled so fast that its place does not matter; above that times the containers it
/// does not matter more.
const IMAGE_SMALL: f64 = 23.0 * 1024.0 * 1024.0;
const IMAGE_LARGE: f64 = 1000.0 * 1024.0 * 1024.0;

/// The scores of `nodes`, in their order.
pub(super) fn scores(snapshot: &Snapshot, pod: &PodView, nodes: &[&NodeView]) -> Vec<f64> {
    let mut total = vec![0.0; nodes.len()];
    let mut add = |weight: f64, scores: Vec<f64>| {
        for (sum, score) in total.iter_mut().zip(scores) {
            *sum += weight * score;
        }
    };
    let each = |score: &dyn Fn(&NodeView) -> f64| nodes.iter().map(|n| score(n)).collect::<Vec<_>>();
    add(TAINTS, inverted(each(&|n| unwelcome(pod, n))));
    add(NODE_AFFINITY, scaled(each(&|n| preference(pod, n))));
    add(POD_AFFINITY, stretched(attraction(snapshot, pod, nodes)));
    add(SPREAD, crowding(snapshot, pod, nodes));
    add(LEAST_ALLOCATED, each(&|n| room(pod, n)));
    add(BALANCED, each(&|n| balance(pod, n)));
    add(IMAGES, each(&|n| locality(snapshot, pod, n)));
    total
}

/// The largest becomes 100.
fn scaled(scores: Vec<f64>) -> Vec<f64> {
    let most = scores.iter().copied().fold(0.0, f64::max);
    if most == 0.0 { scores } else { scores.into_iter().map(|s| s * BEST / most).collect() }
}

/// Nothing becomes 100, the largest 0.
fn inverted(scores: Vec<f64>) -> Vec<f64> {
    scaled(scores).into_iter().map(|s| BEST - s).collect()
}

/// The smallest becomes 0, the largest 100.
fn stretched(scores: Vec<f64>) -> Vec<f64> {
    let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if most <= least {
        return vec![0.0; scores.len()];
    }
    scores.into_iter().map(|s| (s - least) * BEST / (most - least)).collect()
}

fn unwelcome(pod: &PodView, node: &NodeView) -> f64 {
    let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    soft.filter(|taint| !pod.tolerations.iter().any(|t| tolerates(t, taint))).count() as f64
}

fn preference(pod: &PodView, node: &NodeView) -> f64 {
    let matching = pod.node_preferred.iter().filter(|(_, term)| term.matches(&node.name, &node.labels));
    matching.map(|(weight, _)| *weight).sum::<i64>() as f64
}

/// Preferred pod affinity, both ways: what the pod wants, and what pods that are there want of it.
fn attraction(snapshot: &Snapshot, pod: &PodView, nodes: &[&NodeView]) -> Vec<f64> {
    let mut weights: std::collections::HashMap<&str, Counts<'_>> = std::collections::HashMap::new();
    fn pull<'a>(
        weights: &mut std::collections::HashMap<&'a str, Counts<'a>>,
        node: Option<&'a NodeView>,
        term: &'a PodTerm,
        by: i64,
    ) {
        if let Some(domain) = node.and_then(|n| n.domain(&term.topology)) {
            *weights.entry(&term.topology).or_default().entry(domain).or_default() += by;
        }
    }
    let labels_of = |namespace: &str| snapshot.namespaces.get(namespace);
    for (weight, term) in &pod.preferred {
        for other in snapshot.in_namespaces(|n| term.covers(n, labels_of(n))) {
            if term.selects(other, labels_of(&other.namespace)) {
                pull(&mut weights, snapshot.node_of(other), term, *weight);
            }
        }
    }
    let own = labels_of(&pod.namespace);
    for other in snapshot.with_terms() {
        let node = snapshot.node_of(other);
        for (weight, term) in other.preferred.iter().filter(|(_, t)| t.selects(pod, own)) {
            pull(&mut weights, node, term, *weight);
        }
        // A pod that requires company is glad of more of it.
        for term in other.affinity.iter().filter(|t| t.selects(pod, own)) {
            pull(&mut weights, node, term, 1);
        }
    }
    let of = |node: &NodeView| {
        let here = |(topology, counts): (&&str, &Counts<'_>)| {
            node.domain(topology).and_then(|d| counts.get(d)).copied().unwrap_or(0)
        };
        weights.iter().map(here).sum::<i64>() as f64
    };
    nodes.iter().map(|n| of(n)).collect()
}

/// Fewer pods of the same kind are better: by the pod's own soft constraints, or, when it has none at all,
/// over nodes and zones by its owner or its services.
fn crowding(snapshot: &Snapshot, pod: &PodView, nodes: &[&NodeView]) -> Vec<f64> {
    let soft = SpreadCounts::preferred(snapshot, pod);
    if !soft.is_empty() {
        let of = |node: &NodeView| -> f64 {
            let count = |s: &SpreadCounts<'_>| {
                let domain = node.domain(&s.constraint.topology)?;
                let here = s.counts.get(domain).copied().unwrap_or(0) as f64;
                Some(here * weight(s.counts.len()) + (s.constraint.max_skew - 1) as f64)
            };
            // A node outside the topology is worse than any inside.
            soft.iter().map(|s| count(s).unwrap_or(f64::from(i16::MAX))).sum()
        };
        return flipped(nodes.iter().map(|n| of(n)).collect());
    }
    if !pod.spread.is_empty() {
        return vec![0.0; nodes.len()];
    }
    by_default(snapshot, pod, nodes)
}

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

fn by_default(snapshot: &Snapshot, pod: &PodView, nodes: &[&NodeView]) -> Vec<f64> {
    let services = snapshot.services_of(pod);
    let same = |other: &PodView| match &pod.controller {
        Some(controller) => other.controller.as_ref() == Some(controller),
        None => !services.is_empty() && services.iter().all(|s| s.matches(&other.labels)),
    };
    if pod.controller.is_none() && services.is_empty() {
        return vec![0.0; nodes.len()];
    }
    let (mut hosts, mut zones) = (Counts::new(), Counts::new());
    for node in nodes {
        for (topology, counts) in [(HOST, &mut hosts), (ZONE, &mut zones)] {
            if let Some(domain) = node.domain(topology) {
                counts.entry(domain).or_default();
            }
        }
    }
    for other in snapshot.in_namespace(&pod.namespace).filter(|p| same(p)) {
        let Some(node) = snapshot.node_of(other) else { continue };
        for (topology, counts) in [(HOST, &mut hosts), (ZONE, &mut zones)] {
            if let Some(count) = node.domain(topology).and_then(|d| counts.get_mut(d)) {
                *count += 1;
            }
        }
    }
    let of = |node: &NodeView| {
        let crowd = |topology: &str, counts: &Counts<'_>| {
            let here = node.domain(topology).and_then(|d| counts.get(d)).copied().unwrap_or(0);
            here as f64 * weight(counts.len())
        };
        crowd(HOST, &hosts) + crowd(ZONE, &zones)
    };
    flipped(nodes.iter().map(|n| of(n)).collect())
}

/// The more domains, the fewer pods in each: a pod more weighs more.
fn weight(domains: usize) -> f64 {
    ((domains + 2) as f64).ln()
}

/// The smallest becomes 100.
fn flipped(scores: Vec<f64>) -> Vec<f64> {
    let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
    let most = scores.iter().copied().fold(0.0, f64::max);
    if most == 0.0 {
        return vec![BEST; scores.len()];
    }
    scores.into_iter().map(|s| BEST * (most + least - s) / most).collect()
}

fn share(pod: &PodView, node: &NodeView, resource: &str) -> Option<f64> {
    let all = node.allocatable.get(resource);
    let used = node.assumed.get(resource) + pod.requests.assumed.get(resource);
    (all > 0).then(|| (used as f64 / all as f64).min(1.0))
}

/// Room left on average.
fn room(pod: &PodView, node: &NodeView) -> f64 {
    let shares: Vec<f64> = ["cpu", "memory"].iter().filter_map(|r| share(pod, node, r)).collect();
    if shares.is_empty() {
        return 0.0;
    }
    shares.iter().map(|s| (1.0 - s) * BEST).sum::<f64>() / shares.len() as f64
}

/// CPU and memory used alike, so that neither is left over useless.
fn balance(pod: &PodView, node: &NodeView) -> f64 {
    match (share(pod, node, "cpu"), share(pod, node, "memory")) {
        (Some(cpu), Some(memory)) => (1.0 - (cpu - memory).abs() / 2.0) * BEST,
        _ => 0.0,
    }
}

/// Large images that are there already; one that few nodes have counts less, so that they are not swamped.
fn locality(snapshot: &Snapshot, pod: &PodView, node: &NodeView) -> f64 {
    let nodes = snapshot.node_count().max(1) as f64;
    let present = pod.images.iter().filter_map(|image| {
        let bytes = *node.images.get(image)? as f64;
        Some(bytes * snapshot.nodes_with(image) as f64 / nodes)
    });
    let bytes: f64 = present.sum();
    let most = IMAGE_LARGE * pod.images.len().max(1) as f64;
    BEST * (bytes.clamp(IMAGE_SMALL, most) - IMAGE_SMALL) / (most - IMAGE_SMALL)
}
