//! Topology spread: how many selected pods each domain has, and what one more would do to the skew.

use super::{
    filter::{Counts, Rejection, untolerated},
    pod::{PodView, Spread},
    snapshot::{NodeView, Snapshot},
};

/// One constraint with the counts of today.
pub(super) struct SpreadCounts<'a> {
    pub(super) constraint: &'a Spread,
    pub(super) counts: Counts<'a>,
}

impl<'a> SpreadCounts<'a> {
    /// The constraints that must hold.
    pub(super) fn required(snapshot: &'a Snapshot, pod: &'a PodView) -> Vec<Self> {
        Self::all(snapshot, pod, true)
    }

    /// The constraints that should.
    pub(super) fn preferred(snapshot: &'a Snapshot, pod: &'a PodView) -> Vec<Self> {
        Self::all(snapshot, pod, false)
    }

    fn all(snapshot: &'a Snapshot, pod: &'a PodView, required: bool) -> Vec<Self> {
        let constraints: Vec<&Spread> = pod.spread.iter().filter(|s| s.required == required).collect();
        constraints
            .iter()
            .map(|constraint| Self { constraint, counts: counts(snapshot, pod, constraint, &constraints) })
            .collect()
    }

    /// Why `node` would break the constraint.
    pub(super) fn rejection(&self, pod: &PodView, node: &NodeView) -> Option<Rejection> {
        let Some(domain) = node.domain(&self.constraint.topology) else {
            return Some(Rejection::SpreadLabel);
        };
        let least = if (self.counts.len() as i64) < self.constraint.min_domains {
            0
        } else {
            self.counts.values().copied().min().unwrap_or(0)
        };
        let itself = i64::from(self.constraint.selector.matches(&pod.labels));
        let here = self.counts.get(domain).copied().unwrap_or(0);
        (here + itself - least > self.constraint.max_skew).then_some(Rejection::Spread)
    }
}

/// Counts over the nodes that count: those that have every topology label and that the pod could go to.
fn counts<'a>(
    snapshot: &'a Snapshot,
    pod: &PodView,
    constraint: &Spread,
    together: &[&Spread],
) -> Counts<'a> {
    let counts_node = |node: &NodeView| {
        together.iter().all(|s| node.domain(&s.topology).is_some())
            && (!constraint.honour_affinity || pod.allows(&node.name, &node.labels))
            && (!constraint.honour_taints || untolerated(pod, node).is_none())
    };
    let mut counts = Counts::new();
    for node in snapshot.nodes().filter(|n| counts_node(n)) {
        if let Some(domain) = node.domain(&constraint.topology) {
            counts.entry(domain).or_default();
        }
    }
    for other in snapshot.in_namespace(&pod.namespace) {
        if other.leaving || !constraint.selector.matches(&other.labels) {
            continue;
        }
        if let Some(node) = snapshot.node_of(other).filter(|n| counts_node(n))
            && let Some(count) = node.domain(&constraint.topology).and_then(|d| counts.get_mut(d))
        {
            *count += 1;
        }
    }
    counts
}
