//! Pods that count for one constraint of one shape, summed up by the values of a topology, and corrected node by node.

use super::{
    index::{Index, NOWHERE},
    node::NodeView,
    pod::{Shape, Spread},
    snapshot::Snapshot,
};

/// Where counts by node come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// A tally of pods.
    Tally(usize),
    /// The pods that hold a term.
    Held(usize),
}

/// Which nodes count for a spread constraint: those that have every topology label of the pod's constraints of the
/// same strength, and that the pod could go to as far as the constraint asks.
#[derive(Clone, Debug)]
pub(super) struct Eligible {
    topologies: Vec<usize>,
    affinity: bool,
    taints: bool,
}

impl Eligible {
    pub(super) fn new(constraint: &Spread, topologies: Vec<usize>) -> Self {
        Self { topologies, affinity: constraint.honour_affinity, taints: constraint.honour_taints }
    }

    fn holds(&self, index: &Index, shape: &Shape, number: usize, node: &NodeView) -> bool {
        self.topologies.iter().all(|at| index.topologies()[*at].of(number) != NOWHERE)
            && (!self.affinity || shape.allows(&node.name, &node.labels))
            && (!self.taints || node.untolerated(shape).is_none())
    }
}

/// The sums.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) topology: usize,
    sources: Vec<(Source, i64)>,
    eligible: Option<Eligible>,
    /// Domain and count of each node as they are in the sums.
    at: Vec<(u32, i64)>,
    sums: Vec<i64>,
    /// How many nodes that count each domain has.
    members: Vec<u32>,
    /// How many domains have such nodes.
    pub(super) domains: usize,
    total: i64,
}

impl Counted {
    /// Sums over every node.
    pub(super) fn new(
        snapshot: &Snapshot,
        shape: &Shape,
        topology: usize,
        sources: Vec<(Source, i64)>,
        eligible: Option<Eligible>,
    ) -> Self {
        let values = snapshot.index.topologies()[topology].len();
        let mut counted = Self {
            topology,
            sources: Vec::new(),
            eligible,
            at: vec![(NOWHERE, 0); snapshot.bound()],
            sums: vec![0; values],
            members: vec![0; values],
            domains: 0,
            total: 0,
        };
        // Without sources every node has none; then only the nodes that have some are asked for them.
        for (number, _) in snapshot.numbered() {
            counted.refresh(snapshot, shape, number);
        }
        for (source, weight) in &sources {
            for (node, count) in by_node(&snapshot.index, *source) {
                counted.add(*node as usize, i64::from(*count) * weight);
            }
        }
        counted.sources = sources;
        counted
    }

    fn add(&mut self, number: usize, count: i64) {
        let Some((domain, present)) = self.at.get_mut(number) else { return };
        *present += count;
        if *domain != NOWHERE {
            self.sums[*domain as usize] += count;
            self.total += count;
        }
    }

    /// A node has changed, or pods on it.
    pub(super) fn refresh(&mut self, snapshot: &Snapshot, shape: &Shape, number: usize) {
        let now = (self.place(snapshot, shape, number), self.count(&snapshot.index, number));
        if number >= self.at.len() {
            self.at.resize(number + 1, (NOWHERE, 0));
        }
        let before = std::mem::replace(&mut self.at[number], now);
        if before == now {
            return;
        }
        if before.0 != NOWHERE {
            let domain = before.0 as usize;
            self.sums[domain] -= before.1;
            self.total -= before.1;
            self.members[domain] -= 1;
            self.domains -= usize::from(self.members[domain] == 0);
        }
        if now.0 != NOWHERE {
            let domain = now.0 as usize;
            if domain >= self.sums.len() {
                self.sums.resize(domain + 1, 0);
                self.members.resize(domain + 1, 0);
            }
            self.sums[domain] += now.1;
            self.total += now.1;
            self.domains += usize::from(self.members[domain] == 0);
            self.members[domain] += 1;
        }
    }

    fn place(&self, snapshot: &Snapshot, shape: &Shape, number: usize) -> u32 {
        let Some(node) = snapshot.node(number) else { return NOWHERE };
        let eligible = self.eligible.as_ref();
        if eligible.is_some_and(|e| !e.holds(&snapshot.index, shape, number, node)) {
            return NOWHERE;
        }
        snapshot.index.topologies()[self.topology].of(number)
    }

    fn count(&self, index: &Index, number: usize) -> i64 {
        let key = number as u32;
        let of = |(source, weight): &(Source, i64)| {
            by_node(index, *source).get(&key).map_or(0, |count| i64::from(*count) * weight)
        };
        self.sources.iter().map(of).sum()
    }

    /// The sum of a domain.
    pub(super) fn sum(&self, domain: u32) -> i64 {
        self.sums.get(domain as usize).copied().unwrap_or(0)
    }

    /// Whether no domain has any.
    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The smallest sum of a domain that counts; 0 when there is none.
    pub(super) fn least(&self) -> i64 {
        let present = self.sums.iter().zip(&self.members).filter(|(_, members)| **members > 0);
        present.map(|(sum, _)| *sum).min().unwrap_or(0)
    }
}

fn by_node(index: &Index, source: Source) -> &super::index::ByNode {
    match source {
        Source::Tally(at) => index.tallied(at),
        Source::Held(at) => &index.held()[at].by_node,
    }
}
