//! The decision as simply as it can be said: every node is filtered and scored for every pod, and every count is taken
//! by looking at every pod. It shares with the other only what one node tells by itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::placement::{
    Snapshot, Unplaced,
    filter::{self, Rejection},
    node::{HOST, NodeView, ZONE},
    pod::{PodTerm, PodView, Shape, Spread},
    score::{EQUAL, Merits, OUTSIDE, Scale, weight},
};

type Counts<'a> = HashMap<&'a str, i64>;

/// Where a pod of this shape goes.
pub(super) fn decide(snapshot: &Snapshot, shape: &Shape, turn: usize) -> Result<String, Unplaced> {
    let nodes = in_order(snapshot);
    let mut reasons = BTreeMap::new();
    let mut fitting = Vec::new();
    for node in &nodes {
        let mut found = filter::rejections(shape, node);
        if found.is_empty() {
            found.extend(topology(snapshot, shape, node));
        }
        if found.is_empty() {
            fitting.push(*node);
        }
        for reason in found {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    if fitting.is_empty() {
        return Err(Unplaced { nodes: nodes.len(), reasons });
    }
    let scores = scores(snapshot, shape, &fitting);
    let top = scores.iter().map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max);
    let best: BTreeSet<&str> =
        scores.into_iter().filter(|(_, s)| top - s < EQUAL).map(|(name, _)| name).collect();
    let (before, after) = nodes.split_at(turn % nodes.len());
    let mut rotated = after.iter().chain(before);
    Ok(rotated.find(|node| best.contains(&*node.name)).unwrap().name.to_string())
}

/// The nodes that fit.
pub(super) fn fitting(snapshot: &Snapshot, shape: &Shape) -> BTreeSet<String> {
    let fits = |node: &&NodeView| {
        filter::rejections(shape, node).is_empty() && topology(snapshot, shape, node).is_none()
    };
    snapshot.nodes().filter(fits).map(|node| node.name.to_string()).collect()
}

/// Zones take turns.
fn in_order(snapshot: &Snapshot) -> Vec<&NodeView> {
    let mut nodes: Vec<&NodeView> = snapshot.nodes().collect();
    nodes.sort_by_key(|node| (node.zone(), node.name.clone()));
    let mut ranks: HashMap<&str, usize> = HashMap::new();
    let mut ranked = Vec::new();
    for node in nodes {
        let rank = ranks.entry(node.zone()).or_default();
        ranked.push((*rank, node.zone(), node));
        *rank += 1;
    }
    ranked.sort_by_key(|(rank, zone, _)| (*rank, *zone));
    ranked.into_iter().map(|(_, _, node)| node).collect()
}

/// Every pod on a known node, with its node.
fn pods(snapshot: &Snapshot) -> impl Iterator<Item = (&NodeView, &PodView)> {
    snapshot.nodes().flat_map(|node| node.pods.values().map(move |pod| (node, &**pod)))
}

fn selects(snapshot: &Snapshot, term: &PodTerm, pod: &Shape) -> bool {
    term.selects(pod, snapshot.namespaces.get(&pod.namespace))
}

fn topology(snapshot: &Snapshot, shape: &Shape, node: &NodeView) -> Option<Rejection> {
    for constraint in shape.spread.iter().filter(|s| s.required) {
        let Some(domain) = node.domain(&constraint.topology) else { return Some(Rejection::SpreadLabel) };
        let counts = spread(snapshot, shape, constraint);
        let few = (counts.len() as i64) < constraint.min_domains;
        let least = if few { 0 } else { counts.values().copied().min().unwrap_or(0) };
        let itself = i64::from(constraint.selector.matches(&shape.labels));
        let here = counts.get(domain).copied().unwrap_or(0);
        if here + itself - least > constraint.max_skew {
            return Some(Rejection::Spread);
        }
    }
    let near = |topology: &str, other: &NodeView| {
        node.domain(topology).is_some() && node.domain(topology) == other.domain(topology)
    };
    let all = |pod: &Shape| shape.affinity.iter().all(|term| selects(snapshot, term, pod));
    let company: Vec<&NodeView> = pods(snapshot).filter(|(_, p)| all(&p.shape)).map(|(n, _)| n).collect();
    let anywhere = |term: &PodTerm| company.iter().any(|n| n.domain(&term.topology).is_some());
    let first = all(shape) && !shape.affinity.iter().any(|term| anywhere(term));
    for term in &shape.affinity {
        let together = company.iter().any(|other| near(&term.topology, other));
        if node.domain(&term.topology).is_none() || !(together || first) {
            return Some(Rejection::Affinity);
        }
    }
    let avoids = |term: &PodTerm| {
        pods(snapshot).any(|(other, p)| near(&term.topology, other) && selects(snapshot, term, &p.shape))
    };
    if shape.anti_affinity.iter().any(|term| avoids(term)) {
        return Some(Rejection::AntiAffinity);
    }
    let avoided = |(other, pod): (&NodeView, &PodView)| {
        let mut terms = pod.shape.anti_affinity.iter();
        terms.any(|term| near(&term.topology, other) && selects(snapshot, term, shape))
    };
    pods(snapshot).any(avoided).then_some(Rejection::ExistingAntiAffinity)
}

/// Pods that a constraint counts, by domain, over the nodes that count for it.
fn spread<'a>(snapshot: &'a Snapshot, shape: &Shape, constraint: &Spread) -> Counts<'a> {
    let together = || shape.spread.iter().filter(|s| s.required == constraint.required);
    let counts_node = |node: &&NodeView| {
        together().all(|s| node.domain(&s.topology).is_some())
            && (!constraint.honour_affinity || shape.allows(&node.name, &node.labels))
            && (!constraint.honour_taints || node.untolerated(shape).is_none())
    };
    let mut counts = Counts::new();
    for node in snapshot.nodes().filter(counts_node) {
        let counted = node.pods.values().filter(|p| {
            !p.leaving && p.shape.namespace == shape.namespace && constraint.selector.matches(&p.shape.labels)
        });
        *counts.entry(node.domain(&constraint.topology).unwrap()).or_default() += counted.count() as i64;
    }
    counts
}

fn scores<'a>(snapshot: &'a Snapshot, shape: &Shape, fitting: &[&'a NodeView]) -> Vec<(&'a str, f64)> {
    let crowds = crowds(snapshot, shape, fitting);
    let mut scale = Scale::new();
    let mut parts = Vec::new();
    for (node, crowd) in fitting.iter().zip(crowds) {
        let (merits, pull) = (Merits::of(snapshot, shape, node), pull(snapshot, shape, node));
        scale.see(&merits, pull, crowd);
        parts.push((&*node.name, merits, pull, crowd));
    }
    parts.into_iter().map(|(name, merits, pull, crowd)| (name, scale.score(&merits, pull, crowd))).collect()
}

fn pull(snapshot: &Snapshot, shape: &Shape, node: &NodeView) -> f64 {
    let mut sum = 0;
    for (other, pod) in pods(snapshot) {
        let near = |term: &PodTerm| {
            node.domain(&term.topology).is_some()
                && node.domain(&term.topology) == other.domain(&term.topology)
        };
        for (weight, term) in &shape.preferred {
            sum += if near(term) && selects(snapshot, term, &pod.shape) { *weight } else { 0 };
        }
        for (weight, term) in &pod.shape.preferred {
            sum += if near(term) && selects(snapshot, term, shape) { *weight } else { 0 };
        }
        for term in &pod.shape.affinity {
            sum += i64::from(near(term) && selects(snapshot, term, shape));
        }
    }
    sum as f64
}

fn crowds(snapshot: &Snapshot, shape: &Shape, fitting: &[&NodeView]) -> Vec<f64> {
    if shape.spread.is_empty() {
        return alike(snapshot, shape, fitting);
    }
    let soft: Vec<_> = shape.spread.iter().filter(|s| !s.required).collect();
    let counts: Vec<Counts<'_>> = soft.iter().map(|s| spread(snapshot, shape, s)).collect();
    let of = |node: &&NodeView| {
        let each = soft.iter().zip(&counts).map(|(constraint, counts)| {
            let Some(domain) = node.domain(&constraint.topology) else { return OUTSIDE };
            let here = counts.get(domain).copied().unwrap_or(0) as f64;
            here * weight(counts.len()) + (constraint.max_skew - 1) as f64
        });
        each.sum()
    };
    fitting.iter().map(of).collect()
}

fn alike(snapshot: &Snapshot, shape: &Shape, fitting: &[&NodeView]) -> Vec<f64> {
    let services = snapshot.services_of(shape);
    let same = |other: &Shape| match &shape.controller {
        Some(controller) => other.controller.as_ref() == Some(controller),
        None => !services.is_empty() && services.iter().all(|s| s.matches(&other.labels)),
    };
    let counts: Vec<_> = [HOST, ZONE]
        .into_iter()
        .map(|topology| {
            let domains: BTreeSet<&str> = fitting.iter().filter_map(|n| n.domain(topology)).collect();
            let mut counts = Counts::new();
            for (node, pod) in pods(snapshot) {
                if let Some(domain) = node.domain(topology)
                    && pod.shape.namespace == shape.namespace
                    && same(&pod.shape)
                {
                    *counts.entry(domain).or_default() += 1;
                }
            }
            (topology, counts, weight(domains.len()))
        })
        .collect();
    if shape.controller.is_none() && services.is_empty() {
        return vec![0.0; fitting.len()];
    }
    let of = |node: &&NodeView| {
        let each = counts.iter().map(|(topology, counts, weight)| {
            let here = node.domain(topology).and_then(|d| counts.get(d)).copied().unwrap_or(0);
            here as f64 * weight
        });
        each.sum()
    };
    fitting.iter().map(of).collect()
}
